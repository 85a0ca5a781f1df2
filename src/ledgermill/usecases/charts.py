"""Opening ledgers: one, or a whole chart, all or nothing."""

from collections.abc import Sequence
from uuid import UUID, uuid4

from ledgermill.domain import charts
from ledgermill.domain.charts import NewLedger, Opening
from ledgermill.domain.ledgers import (
    CREDIT,
    DEBIT,
    NUMBERS_PER_TYPE_CODE,
    Chart,
    LedgerReference,
    LedgerType,
    default_type_code,
    has_floor_by_default,
    normal_side_of,
    number_of,
    type_of_code,
)
from ledgermill.errors import (
    BatchSize,
    CurrencyMismatch,
    InvalidChart,
    InvalidField,
    LedgermillError,
    LedgerNotFound,
    LedgerReferenceConflict,
)
from ledgermill.messages.currencies import exponent_of, own_id
from ledgermill.messages.fields import read_date, read_reference
from ledgermill.messages.ledgers import MOST_LEDGERS, LedgerNewV1
from ledgermill.storage import ledgers, organizations, posting_lock
from ledgermill.storage.connections import Transaction

MOST_PROBLEMS_SHOWN = 1_000
RESERVED_CODES = frozenset({"journals", "entries", "tree", "import"})


def open_ledger(tx: Transaction, organization_id: int, item: LedgerNewV1, *, principal_id: int) -> UUID:
    """Open one ledger with a balance of 0, and return its id. Raises what is wrong with it."""
    opened, problems = _open(tx, organization_id, [item], principal_id=principal_id)
    if problems:
        raise problems[0]
    return opened[0]


def open_chart(
    tx: Transaction,
    organization_id: int,
    items: Sequence[tuple[str, LedgerNewV1 | LedgermillError]],
    *,
    principal_id: int,
) -> list[UUID]:
    """Open many ledgers, parents in any order, all or nothing; their ids in the order of the items.

    Raises InvalidChart, whose details name the place of each problem, and BatchSize.
    """
    if not 1 <= len(items) <= MOST_LEDGERS:
        raise BatchSize(most=MOST_LEDGERS, count=len(items))
    readable = [(index, item) for index, (_, item) in enumerate(items) if not isinstance(item, LedgermillError)]
    opened, found = _open(tx, organization_id, [item for _, item in readable], principal_id=principal_id)
    problems = {index: item for index, (_, item) in enumerate(items) if isinstance(item, LedgermillError)}
    problems |= {readable[place][0]: problem for place, problem in found.items()}
    if problems:
        shown = [
            {"at": items[index][0], "code": problem.code, "message": str(problem)}
            for index, problem in sorted(problems.items())[:MOST_PROBLEMS_SHOWN]
        ]
        first = f"{shown[0]['at']}: {shown[0]['message']}"
        raise InvalidChart(count=len(problems), first=first, problems=shown)
    return opened


def set_active(
    tx: Transaction, organization_id: int, reference: LedgerReference, *, active: bool, principal_id: int
) -> None:
    """Let a ledger take entries, or no more. Raises LedgerNotFound, LedgerReferenceConflict."""
    held = posting_lock.take(tx, organization_id)
    rows = ledgers.shown(tx, organization_id, reference)
    if not rows:
        raise LedgerNotFound(field="ledger", ledger=str(reference))
    if len(rows) > 1:
        raise LedgerReferenceConflict(field="ledger")
    ledgers.set_active(
        tx,
        organization_id,
        rows[0]["ledger_id"],
        active=active,
        principal_id=principal_id,
        version=held.chart_version + 1,
        next_ledger_id=held.next_ledger_id,
    )


def _open(
    tx: Transaction, organization_id: int, items: Sequence[LedgerNewV1], *, principal_id: int
) -> tuple[list[UUID], dict[int, LedgermillError]]:
    held = posting_lock.take(tx, organization_id)
    problems: dict[int, LedgermillError] = {}
    new = []
    for index, item in enumerate(items):
        try:
            new.append(_as_rules_see(item, held.base_currency))
        except LedgermillError as error:
            problems[index] = error
            new.append(NewLedger(item["code"], None, None, held.base_currency, None, None))
    codes_taken, numbers_taken = ledgers.taken(
        tx,
        organization_id,
        codes=[ledger.code for ledger in new],
        numbers=[ledger.number for ledger in new if ledger.number],
    )
    parents = {ledger.parent for ledger in new if ledger.parent is not None}
    openings, found = charts.order_openings(
        new,
        chart=Chart(ledgers.by_reference(tx, organization_id, parents) if parents else ()),
        codes_taken=codes_taken,
        numbers_taken=numbers_taken,
        base_currency=held.base_currency,
    )
    problems = {**found, **problems}
    if problems or not openings:
        return [], problems
    if unbound := _bind_currencies(tx, organization_id, items, held.base_currency):
        return [], unbound
    opened = _insert(tx, organization_id, items, openings, held=held, principal_id=principal_id)
    return opened, {}


def _insert(
    tx: Transaction,
    organization_id: int,
    items: Sequence[LedgerNewV1],
    openings: Sequence[Opening],
    *,
    held: posting_lock.Held,
    principal_id: int,
) -> list[UUID]:
    uuids = [uuid4() for _ in items]
    ids = {opening.item: held.next_ledger_id + offset for offset, opening in enumerate(openings)}
    numbers = _numbers(tx, organization_id, items, openings, ids)
    rows = []
    for opening in openings:
        item = items[opening.item]
        parent_id = opening.parent.ledger_id if opening.parent else None
        if opening.parent_index is not None:
            parent_id = ids[opening.parent_index]
        rows.append(
            {
                "organization_id": organization_id,
                "ledger_id": ids[opening.item],
                "number": numbers[opening.item],
                "ledger_uuid": uuids[opening.item],
                "parent_id": parent_id,
                "depth": opening.depth,
                "is_head": opening.is_head,
                "created_by": principal_id,
                "modified_by": principal_id,
                "changed_at_version": held.chart_version + 1,
                **_columns(item, opening, base_currency=held.base_currency),
            }
        )
    ledgers.open_ledgers(tx, organization_id, rows, version=held.chart_version + 1)
    return uuids


def _columns(item: LedgerNewV1, opening: Opening, *, base_currency: str) -> dict[str, object]:
    side = item.get("normal_side")
    floor = item.get("balance_floor") or (
        "limit" if has_floor_by_default(opening.type, is_head=opening.is_head) else "none"
    )
    opening_date, closing_date = item.get("opening_date"), item.get("closing_date")
    return {
        "code": item["code"],
        "name": item.get("name") or item.get("description") or item["code"],
        "description": item.get("description"),
        "type": opening.type,
        "type_code": _type_code(item, opening),
        "currency": item.get("currency_code") or base_currency,
        "normal_side": normal_side_of(opening.type) if side is None else DEBIT if side == "debit" else CREDIT,
        "active": item.get("active") is not False,
        "allow_manual_entry": item.get("allow_manual_entry") is not False,
        "balance_floor": "none" if opening.is_head else floor,
        "overdraft_enabled": bool(item.get("overdraft_enabled")),
        "overdraft_limit": item.get("overdraft_limit") or 0,
        "opening_date": None if opening_date is None else read_date(opening_date, field="opening_date"),
        "closing_date": None if closing_date is None else read_date(closing_date, field="closing_date"),
        "metadata": item.get("metadata") or None,
    }


def _numbers(
    tx: Transaction,
    organization_id: int,
    items: Sequence[LedgerNewV1],
    openings: Sequence[Opening],
    ids: dict[int, int],
) -> dict[int, int]:
    """Each new ledger's number: the one that was given, else one that counts up within its type code and is free."""
    given = {o.item: number for o in openings if (number := items[o.item].get("ledger_num_id"))}
    wanted = {o.item: number_of(_type_code(items[o.item], o), ids[o.item]) for o in openings if o.item not in given}
    taken = set(given.values())
    while wanted:
        _, there = ledgers.taken(tx, organization_id, codes=[], numbers=list(wanted.values()))
        clashes = {item: number for item, number in wanted.items() if number in taken | there}
        free = {item: number for item, number in wanted.items() if item not in clashes}
        given |= free
        taken |= set(free.values())
        wanted = {
            item: number // NUMBERS_PER_TYPE_CODE * NUMBERS_PER_TYPE_CODE + (number + len(ids)) % NUMBERS_PER_TYPE_CODE
            for item, number in clashes.items()
        }
    return given


def _type_code(item: LedgerNewV1, opening: Opening) -> int:
    return item.get("type_code") or default_type_code(opening.type)


def _as_rules_see(item: LedgerNewV1, base_currency: str) -> NewLedger:
    parent = LedgerReference(
        item.get("parent_ledger_id"), item.get("parent_ledger_code"), item.get("parent_ledger_num_id")
    )
    currency = item.get("currency_code") or base_currency
    exponent_of(currency)
    if item["code"] in RESERVED_CODES:
        raise InvalidField(field="code", problem=f"{item['code']} is a word of the API's paths; choose another")
    named = read_reference(item["code"])
    if named.uuid is not None or named.number not in {None, item.get("ledger_num_id")}:
        raise InvalidField(field="code", problem=f"{item['code']} reads as the id or number of another ledger")
    for field in ("opening_date", "closing_date"):
        if (text := item.get(field)) is not None:
            read_date(str(text), field=field)
    return NewLedger(
        code=item["code"],
        number=item.get("ledger_num_id"),
        type=_type(item),
        currency=currency,
        is_head=item.get("is_head"),
        parent=parent if any(part is not None for part in parent) else None,
    )


def _type(item: LedgerNewV1) -> LedgerType | None:
    type_code, named = item.get("type_code"), item.get("type")
    by_code = None if type_code is None else type_of_code(type_code)
    if named and by_code and named != by_code:
        raise InvalidField(field="type_code", problem=f"{type_code} stands for {by_code}, not for {named}")
    return named or by_code


def _bind_currencies(
    tx: Transaction, organization_id: int, items: Sequence[LedgerNewV1], base_currency: str
) -> dict[int, LedgermillError]:
    """Know the currencies of these ledgers by the ids that they name; what is wrong, by item."""
    named: dict[tuple[str, str | None], list[int]] = {}
    for index, item in enumerate(items):
        named.setdefault((item.get("currency_code") or base_currency, item.get("currency_id")), []).append(index)
    problems: dict[int, LedgermillError] = {}
    for (code, uuid), indexes in named.items():
        try:
            organizations.bind_currency(
                tx,
                organization_id,
                code=code,
                uuid=UUID(uuid) if uuid else None,
                own_id=own_id(code),
                exponent=exponent_of(code),
            )
        except CurrencyMismatch as error:
            problems |= dict.fromkeys(indexes, error)
    return problems
