"""Ledgers: found by any of their names, opened many at a time, read as a tree with their balances."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    RowMapping,
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


def _named(column: Any, names: Any) -> Select[Any]:
    return select(ledger.c.ledger_id, ledger.c.parent_id).where(_OF_ORGANIZATION, column == any_(names))


# Three index look-ups, then up the tree.
_FOUND = (
    _named(ledger.c.ledger_uuid, _UUIDS)
    .union(_named(ledger.c.code, _CODES), _named(ledger.c.number, _NUMBERS))
    .cte("found")
)
_LINEAGE = select(_FOUND.c.ledger_id, _FOUND.c.parent_id).cte("lineage", recursive=True)
_LINEAGE = _LINEAGE.union(
    select(ledger.c.ledger_id, ledger.c.parent_id)
    .join(_LINEAGE, ledger.c.ledger_id == _LINEAGE.c.parent_id)
    .where(_OF_ORGANIZATION)
)
BY_REFERENCE = select(*_RULE_COLUMNS).join(_LINEAGE, ledger.c.ledger_id == _LINEAGE.c.ledger_id).where(_OF_ORGANIZATION)
CHANGED = select(*_RULE_COLUMNS).where(_OF_ORGANIZATION, ledger.c.changed_at_version > bindparam("version"))
BY_ID = select(*_RULE_COLUMNS).where(_OF_ORGANIZATION, ledger.c.ledger_id == bindparam("ledger_id"))

_SHOWN = (
    select(
        ledger,
        balance.c.debits,
        balance.c.credits,
        balance.c.held,
        balance.c.last_number,
        balance.c.version,
        balance.c.last_booked_at,
    )
    .join(
        balance, (balance.c.organization_id == ledger.c.organization_id) & (balance.c.ledger_id == ledger.c.ledger_id)
    )
    .where(_OF_ORGANIZATION)
)
CHILDREN = _SHOWN.where(ledger.c.parent_id == bindparam("parent_id"), ledger.c.code > bindparam("after_code")).order_by(
    ledger.c.code
)
ALL_AFTER = _SHOWN.where(ledger.c.code > bindparam("after_code")).order_by(ledger.c.code).limit(bindparam("limit"))
CHILD_UUIDS = (
    select(ledger.c.ledger_uuid)
    .where(_OF_ORGANIZATION, ledger.c.parent_id == bindparam("parent_id"))
    .order_by(ledger.c.code)
    .limit(bindparam("limit"))
)
_BELOW = (
    select(ledger.c.ledger_id)
    .where(_OF_ORGANIZATION, ledger.c.ledger_id == bindparam("top_id"))
    .cte("below", recursive=True)
)
_BELOW = _BELOW.union_all(
    select(ledger.c.ledger_id).join(_BELOW, ledger.c.parent_id == _BELOW.c.ledger_id).where(_OF_ORGANIZATION)
)
SUBTREE = (
    _SHOWN.where(ledger.c.ledger_id.in_(select(_BELOW.c.ledger_id)))
    .order_by(ledger.c.depth, ledger.c.code)
    .limit(bindparam("limit"))
)
WHOLE_TREE = _SHOWN.order_by(ledger.c.depth, ledger.c.code).limit(bindparam("limit"))
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
    return [_as_rules_see(row) for row in tx.execute(BY_REFERENCE, names)]


def by_id(tx: Transaction, organization_id: int, ledger_id: int) -> Ledger:
    """One ledger as the rules see it."""
    return _as_rules_see(tx.execute(BY_ID, {"organization_id": organization_id, "ledger_id": ledger_id}).one())


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


def shown(tx: Transaction, organization_id: int, reference: LedgerReference) -> Sequence[RowMapping]:
    """The ledgers that the identifiers of a reference name, with their balances: one row if all is well."""
    conditions = []
    if reference.uuid is not None:
        conditions.append(ledger.c.ledger_uuid == reference.uuid)
    if reference.code is not None:
        conditions.append(ledger.c.code == reference.code)
    if reference.number is not None:
        conditions.append(ledger.c.number == reference.number)
    return tx.execute(_SHOWN.where(or_(*conditions)), {"organization_id": organization_id}).mappings().all()


def children(
    tx: Transaction, organization_id: int, parent_id: int, *, after_code: str = "", limit: int
) -> Sequence[RowMapping]:
    """Up to `limit` direct children of a head with codes after `after_code`, by code, with their balances."""
    parameters = {"organization_id": organization_id, "parent_id": parent_id, "after_code": after_code}
    return tx.execute(CHILDREN.limit(limit), parameters).mappings().all()


def child_uuids(tx: Transaction, organization_id: int, parent_id: int, *, limit: int) -> list[Any]:
    """The ids of up to `limit` direct children, by code."""
    parameters = {"organization_id": organization_id, "parent_id": parent_id, "limit": limit}
    return list(tx.execute(CHILD_UUIDS, parameters).scalars())


def list_after(tx: Transaction, organization_id: int, *, after_code: str, limit: int) -> Sequence[RowMapping]:
    """Up to `limit` ledgers with codes after `after_code`, by code, with their balances."""
    parameters = {"organization_id": organization_id, "after_code": after_code, "limit": limit}
    return tx.execute(ALL_AFTER, parameters).mappings().all()


def subtree(tx: Transaction, organization_id: int, top_id: int | None, *, limit: int) -> Sequence[RowMapping]:
    """Up to `limit` ledgers of a subtree (of all trees without `top_id`), heads before what is below them."""
    if top_id is None:
        return tx.execute(WHOLE_TREE, {"organization_id": organization_id, "limit": limit}).mappings().all()
    parameters = {"organization_id": organization_id, "top_id": top_id, "limit": limit}
    return tx.execute(SUBTREE, parameters).mappings().all()


def uuids_of(tx: Transaction, organization_id: int, ledger_ids: Collection[int]) -> dict[int, tuple[Any, str, int]]:
    """Id, code and number as the outside knows them, by inner id."""
    statement = select(ledger.c.ledger_id, ledger.c.ledger_uuid, ledger.c.code, ledger.c.number).where(
        _OF_ORGANIZATION, ledger.c.ledger_id == any_(bindparam("ledger_ids", type_=ARRAY(BigInteger)))
    )
    rows = tx.execute(statement, {"organization_id": organization_id, "ledger_ids": list(ledger_ids)})
    return {row.ledger_id: (row.ledger_uuid, row.code, row.number) for row in rows}


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
