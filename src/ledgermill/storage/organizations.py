"""Organizations: the tenants, their principals and currencies."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, any_, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from ledgermill.errors import CurrencyMismatch, OrganizationExists, OrganizationNotFound
from ledgermill.storage.connections import Engine, Transaction
from ledgermill.storage.tables import currency, inbox, organization, posting_lock, principal

MOST_NAMES = 10_000
BROKER_PRINCIPAL_ID = 1  # every organization's first principal: whoever may publish to the broker

BY_NAME = select(organization).where(organization.c.code == bindparam("name"))
BY_UUID = select(organization).where(organization.c.organization_uuid == bindparam("uuid"))
BY_ID = select(organization).where(organization.c.organization_id == bindparam("organization_id"))
PRINCIPAL_UUIDS = select(principal.c.principal_id, principal.c.principal_uuid).where(
    principal.c.organization_id == bindparam("organization_id"),
    principal.c.principal_id == any_(bindparam("principal_ids")),
)
CURRENCIES = (
    select(currency).where(currency.c.organization_id == bindparam("organization_id")).order_by(currency.c.code)
)
WAITING = select(func.coalesce(func.sum(inbox.c.jobs - inbox.c.next_item), 0)).where(
    inbox.c.organization_id == bindparam("organization_id"), inbox.c.held.is_(False)
)


class Named(NamedTuple):
    """The names of an organization, which it keeps for ever."""

    organization_id: int
    organization_uuid: UUID
    code: str


class Directory:
    """The names of the organizations that this process has met; asks the database for the others."""

    def __init__(self) -> None:
        self._by_name: dict[str | int, Named] = {}

    def find(self, engine: Engine, name: str) -> Named:
        """An organization by its code or its UUID. Raises OrganizationNotFound."""
        found = self._by_name.get(name)
        if found is None:
            with engine.connect() as tx:
                found = self._remember(name, find(tx, name))
        return found

    def by_id(self, engine: Engine, organization_id: int) -> Named:
        """An organization by its inner id."""
        found = self._by_name.get(organization_id)
        if found is None:
            with engine.connect() as tx:
                found = self._remember(organization_id, by_id(tx, organization_id))
        return found

    def _remember(self, name: str | int, row: RowMapping) -> Named:
        if len(self._by_name) >= MOST_NAMES:
            self._by_name.clear()
        found = self._by_name[name] = Named(row["organization_id"], row["organization_uuid"], row["code"])
        return found


def create(tx: Transaction, values: Mapping[str, object]) -> int:
    """Insert an organization with its posting lock, and return its inner id. Raises OrganizationExists."""
    statement = (
        insert(organization)
        .values(**values)
        .on_conflict_do_nothing(constraint="organization_code_is_unique")
        .returning(organization.c.organization_id)
    )
    organization_id: int | None = tx.execute(statement).scalar_one_or_none()
    if organization_id is None:
        raise OrganizationExists(organization=values["code"])
    tx.execute(insert(posting_lock).values(organization_id=organization_id))
    return organization_id


def find(tx: Transaction, name: str) -> RowMapping:
    """An organization by its code or its UUID. Raises OrganizationNotFound."""
    row = tx.execute(BY_NAME, {"name": name}).mappings().one_or_none()
    if row is None and (uuid := _as_uuid(name)):
        row = tx.execute(BY_UUID, {"uuid": uuid}).mappings().one_or_none()
    if row is None:
        raise OrganizationNotFound(organization=name)
    return row


def by_id(tx: Transaction, organization_id: int) -> RowMapping:
    """An organization by its inner id."""
    return tx.execute(BY_ID, {"organization_id": organization_id}).mappings().one()


def list_all(tx: Transaction) -> Sequence[RowMapping]:
    """All organizations, by code."""
    return tx.execute(select(organization).order_by(organization.c.code)).mappings().all()


def set_state(tx: Transaction, organization_id: int, state: str) -> None:
    """Make it active, paused or draining; what arrived while it drained waits no more once it is active."""
    tx.execute(update(organization).where(organization.c.organization_id == organization_id).values(state=state))
    if state == "active":
        tx.execute(
            update(inbox).where(inbox.c.organization_id == organization_id, inbox.c.held.is_(True)).values(held=False)
        )


def waiting_jobs(tx: Transaction, organization_id: int) -> int:
    """How many accepted jobs are still to be worked on before the organization is drained."""
    return int(tx.execute(WAITING, {"organization_id": organization_id}).scalar_one())


def principal_id(tx: Transaction, organization_id: int, *, kind: str, name: str, new_uuid: UUID) -> int:
    """The principal of that kind and name, made on first use; the caller holds the posting lock."""
    known = select(principal.c.principal_id).where(
        principal.c.organization_id == organization_id, principal.c.kind == kind, principal.c.name == name
    )
    found: int | None = tx.execute(known).scalar_one_or_none()
    if found is not None:
        return found
    last = select(func.coalesce(func.max(principal.c.principal_id), 0)).where(
        principal.c.organization_id == organization_id
    )
    new_id = int(tx.execute(last).scalar_one()) + 1
    tx.execute(
        insert(principal).values(
            organization_id=organization_id, principal_id=new_id, principal_uuid=new_uuid, kind=kind, name=name
        )
    )
    return new_id


def principal_uuids(tx: Transaction, organization_id: int, principal_ids: set[int]) -> dict[int, UUID]:
    """How the outside knows these principals."""
    rows = tx.execute(PRINCIPAL_UUIDS, {"organization_id": organization_id, "principal_ids": list(principal_ids)})
    return {row.principal_id: row.principal_uuid for row in rows}


def currencies(tx: Transaction, organization_id: int) -> Sequence[RowMapping]:
    """The currencies that the organization uses, by code."""
    return tx.execute(CURRENCIES, {"organization_id": organization_id}).mappings().all()


def bind_currency(
    tx: Transaction, organization_id: int, *, code: str, uuid: UUID | None, own_id: UUID, exponent: int
) -> None:
    """Know a currency from here on, by the id that a client named, or by our own; the caller holds the posting lock.

    The first id that is named replaces our own. After that, another id for the code, or the id of another code, raises
    CurrencyMismatch.
    """
    rows = tx.execute(
        select(currency.c.code, currency.c.currency_uuid).where(
            currency.c.organization_id == organization_id,
            or_(currency.c.code == code, currency.c.currency_uuid == uuid),
        )
    ).all()
    bound = {row.code: row.currency_uuid for row in rows}
    if code in bound and uuid in {None, bound[code]}:
        return
    if bound == {code: own_id}:
        known = (currency.c.organization_id == organization_id, currency.c.code == code)
        tx.execute(update(currency).where(*known).values(currency_uuid=uuid))
        return
    if rows:
        raise CurrencyMismatch(
            field="currency_id",
            ledger="the id",
            ledger_currency=f"{rows[0].code} ({rows[0].currency_uuid})",
            currency=code,
        )
    tx.execute(
        insert(currency).values(
            organization_id=organization_id, code=code, currency_uuid=uuid or own_id, exponent=exponent
        )
    )


def _as_uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None
