"""Ledgers read back: with balances, children, trees and entries."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ledgermill.domain import ids
from ledgermill.domain.ledgers import DEBIT, LedgerReference
from ledgermill.errors import InvalidField, LedgerNotFound, LedgerReferenceConflict
from ledgermill.messages.currencies import exponent_of
from ledgermill.messages.entries import EntryPageV1, LedgerEntryV1
from ledgermill.messages.ledgers import BalanceV1, LedgerPageV1, LedgerV1, TreeNodeV1, TreeV1
from ledgermill.storage import entries, ledgers, organizations
from ledgermill.storage.connections import Transaction

MOST_CHILDREN_SHOWN = 1_000
MOST_IN_A_TREE = 20_000

Row = Mapping[str, Any]


def show(tx: Transaction, organization_id: int, reference: LedgerReference) -> LedgerV1:
    """A ledger by its id, code or number. Raises LedgerNotFound, LedgerReferenceConflict."""
    return _shown(tx, organization_id, [_find(tx, organization_id, reference)], with_children=True)[0]


def list_ledgers(tx: Transaction, organization_id: int, *, after_code: str, limit: int) -> LedgerPageV1:
    """Ledgers by code, after `after_code`."""
    rows = ledgers.list_after(tx, organization_id, after_code=after_code, limit=limit + 1)
    return _page(tx, organization_id, rows, limit)


def children(
    tx: Transaction, organization_id: int, reference: LedgerReference, *, after_code: str, limit: int
) -> LedgerPageV1:
    """The direct children of a head, by code."""
    head = _find(tx, organization_id, reference)
    rows = ledgers.children(tx, organization_id, head["ledger_id"], after_code=after_code, limit=limit + 1)
    return _page(tx, organization_id, rows, limit)


def balance(tx: Transaction, organization_id: int, reference: LedgerReference) -> BalanceV1:
    """The balance of a ledger, of its subtree for a head."""
    row = _find(tx, organization_id, reference)
    return BalanceV1(
        ledger_id=row["ledger_uuid"],
        code=row["code"],
        ledger_num_id=row["number"],
        currency_code=row["currency"],
        precision=exponent_of(row["currency"]),
        is_head=row["is_head"],
        balance_current=_current(row),
        balance_available=_available(row),
        total_debits=int(row["debits"]),
        total_credits=int(row["credits"]),
        held=int(row["held"]),
        entry_count=row["last_number"],
        version=row["version"],
        last_activity_date=row["last_booked_at"],
    )


def tree(tx: Transaction, organization_id: int, reference: LedgerReference | None) -> TreeV1:
    """A subtree, or all trees, with balances of one moment. Raises InvalidField where it is too large."""
    limit = MOST_IN_A_TREE + 1
    level = (
        ledgers.roots(tx, organization_id, limit=limit)
        if reference is None
        else [_find(tx, organization_id, reference)]
    )
    rows = list(level)
    while (heads := [row["ledger_id"] for row in level if row["is_head"]]) and len(rows) <= MOST_IN_A_TREE:
        level = ledgers.below(tx, organization_id, heads, limit=limit)
        rows += level
    if len(rows) > MOST_IN_A_TREE:
        raise InvalidField(field="the tree", problem=f"has more than {MOST_IN_A_TREE} ledgers; ask for a subtree")
    nodes: dict[int, TreeNodeV1] = {}
    roots: list[TreeNodeV1] = []
    for row in rows:
        node = nodes[row["ledger_id"]] = TreeNodeV1(
            id=row["ledger_uuid"],
            code=row["code"],
            ledger_num_id=row["number"],
            name=row["name"],
            type=row["type"],
            currency_code=row["currency"],
            is_head=row["is_head"],
            active=row["active"],
            balance_current=_current(row),
            total_debits=int(row["debits"]),
            total_credits=int(row["credits"]),
            children=[],
        )
        (nodes[row["parent_id"]].children if row["parent_id"] in nodes else roots).append(node)
    return TreeV1(ledgers=roots)


def entries_of(
    tx: Transaction, organization_id: int, reference: LedgerReference, *, below_number: int | None, limit: int
) -> EntryPageV1:
    """A leaf's entries, newest first, with running balances; a head has none of its own."""
    ledger = _find(tx, organization_id, reference)
    next_number = ledger["last_number"] + 1
    below_number = min(below_number or next_number, next_number)
    rows = entries.of_ledger(tx, organization_id, ledger["ledger_id"], below_number=below_number, limit=limit + 1)
    sign = 1 if ledger["normal_side"] == DEBIT else -1
    page = [
        LedgerEntryV1(
            id=ids.entry_id(row["job_id"], row["line"]),
            journal_id=row["job_id"],
            number=row["number"],
            type="debit" if row["side"] == DEBIT else "credit",
            amount=int(row["amount"]),
            currency_code=row["currency"],
            balance_after=int(row["balance_after"]) * sign,
            value_date=row["value_date"],
            booked_at=row["booked_at"],
            journal_type=row["type"],
            description=row["description"],
            reference_id=row["reference_id"],
        )
        for row in rows[:limit]
    ]
    more = len(rows) > limit
    return EntryPageV1(
        ledger_id=ledger["ledger_uuid"],
        code=ledger["code"],
        entries=page,
        next_below=page[-1].number if more else None,
    )


def _find(tx: Transaction, organization_id: int, reference: LedgerReference) -> dict[str, Any]:
    rows = ledgers.shown(tx, organization_id, reference)
    if not rows:
        raise LedgerNotFound(field="ledger", ledger=str(reference))
    if len(rows) > 1:
        raise LedgerReferenceConflict(field="ledger")
    return rows[0]


def _page(tx: Transaction, organization_id: int, rows: Sequence[Row], limit: int) -> LedgerPageV1:
    shown = _shown(tx, organization_id, rows[:limit], with_children=False)
    return LedgerPageV1(ledgers=shown, next_after=shown[-1].code if len(rows) > limit else None)


def _shown(tx: Transaction, organization_id: int, rows: Sequence[Row], *, with_children: bool) -> list[LedgerV1]:
    principals = {row[name] for row in rows for name in ("created_by", "modified_by")}
    authors = organizations.principal_uuids(tx, organization_id, principals)
    currencies = {c["code"]: c["currency_uuid"] for c in organizations.currencies(tx, organization_id)}
    parent_ids = {row["parent_id"] for row in rows if row["parent_id"] is not None}
    parents = ledgers.names_of(tx, organization_id, parent_ids) if parent_ids else {}
    shown = []
    for row in rows:
        child_ids: list[UUID] = []
        if row["is_head"] and with_children:
            child_ids = ledgers.child_uuids(tx, organization_id, row["ledger_id"], limit=MOST_CHILDREN_SHOWN)
        parent: Any = parents.get(row["parent_id"])
        shown.append(
            LedgerV1(
                id=row["ledger_uuid"],
                code=row["code"],
                ledger_num_id=row["number"],
                name=row["name"],
                description=row["description"],
                type=row["type"],
                type_code=row["type_code"],
                currency_id=currencies.get(row["currency"]),
                currency_code=row["currency"],
                is_head=row["is_head"],
                normal_side="debit" if row["normal_side"] == DEBIT else "credit",
                balance_current=_current(row),
                balance_available=_available(row),
                overdraft_enabled=row["overdraft_enabled"],
                overdraft_limit=int(row["overdraft_limit"]),
                allow_manual_entry=row["allow_manual_entry"],
                last_activity_date=row["last_booked_at"],
                opening_date=row["opening_date"],
                closing_date=row["closing_date"],
                parent_ledger_id=parent.ledger_uuid if parent else None,
                child_ledger_ids=child_ids,
                children_url=f"/v1/ledgers/{row['ledger_uuid']}/children" if row["is_head"] else None,
                created_at=row["created_at"],
                created_by=authors.get(row["created_by"]),
                modified_at=row["modified_at"],
                modified_by=authors.get(row["modified_by"]),
                active=row["active"],
                metadata=row["metadata"] or {},
            )
        )
    return shown


def _current(row: Row) -> int:
    difference = int(row["debits"]) - int(row["credits"])
    return difference if row["normal_side"] == DEBIT else -difference


def _available(row: Row) -> int:
    overdraft = int(row["overdraft_limit"]) if row["overdraft_enabled"] else 0
    return _current(row) + overdraft - int(row["held"])
