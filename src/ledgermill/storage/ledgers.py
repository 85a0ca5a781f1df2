"""Ledgers: found by any of their names, opened many at a time, read as a tree with their balances."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Select,
    Text,
    Uuid,
    any_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from ledgermill.domain.ledgers import Ledger, LedgerReference
from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import balance, ledger, posting_lock

_RULE_COLUMNS = (
    ledger.c.ledger_id,
    ledger.c.ledger_uuid,
    ledger.c.code,
    ledger.c.number,
    ledger.c.type,
    ledger.c.currency,
    ledger.c.is_head,
    ledger.c.parent_id,
    ledger.c.depth,
    ledger.c.normal_side,
    ledger.c.active,
    ledger.c.balance_floor,
    ledger.c.overdraft_enabled,
    ledger.c.overdraft_limit,
    ledger.c.opening_date,
    ledger.c.closing_date,
)
_OF_ORGANIZATION = ledger.c.organization_id == bindparam("organization_id")
_UUIDS = bindparam("uuids", type_=ARRAY(Uuid))
_CODES = bindparam("codes", type_=ARRAY(Text))
_NUMBERS = bindparam("numbers", type_=ARRAY(BigInteger))
_IDS = bindparam("ledger_ids", type_=ARRAY(BigInteger))

# The api role reads views that the planner does not merge with what is joined to them: so ledgers, their balances and
# their heads are read in steps, each by keys that are known, and none scans a table.
BY_REFERENCE = select(*_RULE_COLUMNS).where(
    _OF_ORGANIZATION,
    or_(ledger.c.ledger_uuid == any_(_UUIDS), ledger.c.code == any_(_CODES), ledger.c.number == any_(_NUMBERS)),
)
BY_IDS = select(*_RULE_COLUMNS).where(_OF_ORGANIZATION, ledger.c.ledger_id == any_(_IDS))
CHANGED = select(*_RULE_COLUMNS).where(_OF_ORGANIZATION, ledger.c.changed_at_version > bindparam("version"))

_SHOWN = select(ledger).where(_OF_ORGANIZATION)
BALANCES = select(
    balance.c.ledger_id,
    balance.c.debits,
    balance.c.credits,
    balance.c.held,
    balance.c.last_number,
    balance.c.version,
    balance.c.last_booked_at,
).where(balance.c.organization_id == bindparam("organization_id"), balance.c.ledger_id == any_(_IDS))
CHILDREN = _SHOWN.where(ledger.c.parent_id == bindparam("parent_id"), ledger.c.code > bindparam("after_code")).order_by(
    ledger.c.code
)
ALL_AFTER = _SHOWN.where(ledger.c.code > bindparam("after_code")).order_by(ledger.c.code).limit(bindparam("limit"))
ROOTS = _SHOWN.where(ledger.c.parent_id.is_(None)).order_by(ledger.c.code).limit(bindparam("limit"))
BELOW = (
    _SHOWN.where(ledger.c.parent_id == any_(bindparam("parent_ids", type_=ARRAY(BigInteger))))
    .order_by(ledger.c.code)
    .limit(bindparam("limit"))
)
CHILD_UUIDS = (
    select(ledger.c.ledger_uuid)
    .where(_OF_ORGANIZATION, ledger.c.parent_id == bindparam("parent_id"))
    .order_by(ledger.c.code)
    .limit(bindparam("limit"))
)
NAMES = select(ledger.c.ledger_id, ledger.c.ledger_uuid, ledger.c.code, ledger.c.number, ledger.c.normal_side).where(
    _OF_ORGANIZATION, ledger.c.ledger_id == any_(bindparam("ledger_ids", type_=ARRAY(BigInteger)))
)
TAKEN = select(ledger.c.code, ledger.c.number).where(
    _OF_ORGANIZATION, or_(ledger.c.code == any_(_CODES), ledger.c.number == any_(_NUMBERS))
)
SET_ACTIVE = (
    update(ledger)
    .where(ledger.c.organization_id == bindparam("of_organization"), ledger.c.ledger_id == bindparam("of_ledger"))
    .values(
        active=bindparam("now_active"),
        modified_at=func.now(),
        modified_by=bindparam("principal_id"),
        changed_at_version=bindparam("chart_version"),
    )
)
CHART_CHANGED = (
    update(posting_lock)
    .where(posting_lock.c.organization_id == bindparam("of_organization"))
    .values(chart_version=bindparam("version"), next_ledger_id=bindparam("ledger_id"))
)


def by_reference(tx: Transaction, organization_id: int, references: Collection[LedgerReference]) -> list[Ledger]:
    """The ledgers of these names, as far as they exist, with all heads above them, as the rules see them."""
    names = {
        "organization_id": organization_id,
        "uuids": [r.uuid for r in references if r.uuid is not None],
        "codes": [r.code for r in references if r.code is not None],
        "numbers": [r.number for r in references if r.number is not None],
    }
    return _with_heads(tx, organization_id, [_as_rules_see(row) for row in tx.execute(BY_REFERENCE, names)])


def by_ids(tx: Transaction, organization_id: int, ledger_ids: Collection[int]) -> list[Ledger]:
    """These ledgers with all heads above them, as the rules see them."""
    rows = tx.execute(BY_IDS, {"organization_id": organization_id, "ledger_ids": list(ledger_ids)})
    return _with_heads(tx, organization_id, [_as_rules_see(row) for row in rows])


def changed_since(tx: Transaction, organization_id: int, version: int) -> list[Ledger]:
    """The ledgers that changed after this version of the chart."""
    return [_as_rules_see(row) for row in tx.execute(CHANGED, {"organization_id": organization_id, "version": version})]


def taken(
    tx: Transaction, organization_id: int, *, codes: Collection[str], numbers: Collection[int]
) -> tuple[set[str], set[int]]:
    """Which of these codes and numbers some ledger has."""
    rows = tx.execute(TAKEN, {"organization_id": organization_id, "codes": list(codes), "numbers": list(numbers)}).all()
    return {row.code for row in rows}, {row.number for row in rows}


def open_ledgers(tx: Transaction, organization_id: int, rows: Sequence[Mapping[str, object]], *, version: int) -> None:
    """Insert ledgers with zero balances, heads before what is below them, and note the chart's new version.

    The caller holds the posting lock; `rows` carry `changed_at_version`, and ids counted on from `next_ledger_id`.
    """
    tx.execute(insert(ledger), list(rows))
    tx.execute(
        insert(balance),
        [{name: row[name] for name in ("organization_id", "ledger_id", "depth")} for row in rows],
    )
    last_id = max(int(str(row["ledger_id"])) for row in rows)
    tx.execute(CHART_CHANGED, {"of_organization": organization_id, "version": version, "ledger_id": last_id + 1})


def set_active(
    tx: Transaction,
    organization_id: int,
    ledger_id: int,
    *,
    active: bool,
    principal_id: int,
    version: int,
    next_ledger_id: int,
) -> None:
    """Let a ledger take entries or no more; the caller holds the posting lock."""
    tx.execute(
        SET_ACTIVE,
        {
            "of_organization": organization_id,
            "of_ledger": ledger_id,
            "now_active": active,
            "principal_id": principal_id,
            "chart_version": version,
        },
    )
    tx.execute(CHART_CHANGED, {"of_organization": organization_id, "version": version, "ledger_id": next_ledger_id})


def shown(tx: Transaction, organization_id: int, reference: LedgerReference) -> list[dict[str, Any]]:
    """The ledgers that the identifiers of a reference name, with their balances: one row if all is well."""
    conditions = []
    if reference.uuid is not None:
        conditions.append(ledger.c.ledger_uuid == reference.uuid)
    if reference.code is not None:
        conditions.append(ledger.c.code == reference.code)
    if reference.number is not None:
        conditions.append(ledger.c.number == reference.number)
    return _with_balances(tx, organization_id, _SHOWN.where(or_(*conditions)))


def children(
    tx: Transaction, organization_id: int, parent_id: int, *, after_code: str = "", limit: int
) -> list[dict[str, Any]]:
    """Up to `limit` direct children of a head with codes after `after_code`, by code, with their balances."""
    return _with_balances(tx, organization_id, CHILDREN.limit(limit), parent_id=parent_id, after_code=after_code)


def child_uuids(tx: Transaction, organization_id: int, parent_id: int, *, limit: int) -> list[Any]:
    """The ids of up to `limit` direct children, by code."""
    parameters = {"organization_id": organization_id, "parent_id": parent_id, "limit": limit}
    return list(tx.execute(CHILD_UUIDS, parameters).scalars())


def list_after(tx: Transaction, organization_id: int, *, after_code: str, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` ledgers with codes after `after_code`, by code, with their balances."""
    return _with_balances(tx, organization_id, ALL_AFTER, after_code=after_code, limit=limit)


def roots(tx: Transaction, organization_id: int, *, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` ledgers that have no parent, by code, with their balances."""
    return _with_balances(tx, organization_id, ROOTS, limit=limit)


def below(tx: Transaction, organization_id: int, parent_ids: Collection[int], *, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` direct children of these heads, by code, with their balances."""
    return _with_balances(tx, organization_id, BELOW, parent_ids=list(parent_ids), limit=limit)


def names_of(tx: Transaction, organization_id: int, ledger_ids: Collection[int]) -> dict[int, Any]:
    """`ledger_uuid`, `code`, `number` and `normal_side` of ledgers, by inner id."""
    rows = tx.execute(NAMES, {"organization_id": organization_id, "ledger_ids": list(ledger_ids)})
    return {row.ledger_id: row for row in rows}


def _with_heads(tx: Transaction, organization_id: int, found: list[Ledger]) -> list[Ledger]:
    known = {one.ledger_id for one in found}
    level = found
    while missing := {one.parent_id for one in level if one.parent_id is not None} - known:
        rows = tx.execute(BY_IDS, {"organization_id": organization_id, "ledger_ids": list(missing)})
        level = [_as_rules_see(row) for row in rows]
        known |= missing
        found = found + level
    return found


def _with_balances(
    tx: Transaction, organization_id: int, statement: Select[Any], **parameters: object
) -> list[dict[str, Any]]:
    rows = tx.execute(statement, {"organization_id": organization_id, **parameters}).mappings().all()
    ledger_ids = [row["ledger_id"] for row in rows]
    found = tx.execute(BALANCES, {"organization_id": organization_id, "ledger_ids": ledger_ids}).mappings()
    balances = {row["ledger_id"]: row for row in found}
    return [{**row, **balances[row["ledger_id"]]} for row in rows]


def _as_rules_see(row: Any) -> Ledger:
    has_floor = row.balance_floor == "limit"
    overdraft = int(row.overdraft_limit) if row.overdraft_enabled else 0
    return Ledger(
        ledger_id=row.ledger_id,
        uuid=str(row.ledger_uuid),
        code=row.code,
        number=row.number,
        type=row.type,
        currency=row.currency,
        is_head=row.is_head,
        parent_id=row.parent_id,
        depth=row.depth,
        normal_side=row.normal_side,
        active=row.active,
        limit=overdraft if has_floor else None,
        opening_date=row.opening_date,
        closing_date=row.closing_date,
    )
