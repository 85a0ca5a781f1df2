"""API keys: stored hashed, found by their hash."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, func, insert, select, text, update

from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import api_key

FIND = text("SELECT * FROM ledgermill_api.find_key(:sha256)")


class Caller(NamedTuple):
    """Whom a valid API key stands for."""

    organization_id: int
    organization_uuid: UUID
    organization_code: str
    key_uuid: UUID
    principal_id: int
    scopes: frozenset[str]


def find(tx: Transaction, sha256: bytes) -> Caller | None:
    """Whom this key stands for; None where it is unknown, expired or revoked."""
    row = tx.execute(FIND, {"sha256": sha256}).one_or_none()
    return None if row is None else Caller._make([*row[:-1], frozenset(row.scopes)])


def create(tx: Transaction, values: Mapping[str, object]) -> None:
    """Insert a key."""
    tx.execute(insert(api_key).values(**values))


def list_all(tx: Transaction, organization_id: int) -> Sequence[RowMapping]:
    """All keys of an organization, without their hashes, oldest first."""
    columns = [column for column in api_key.c if column.name != "key_sha256"]
    statement = select(*columns).where(api_key.c.organization_id == organization_id).order_by(api_key.c.created_at)
    return tx.execute(statement).mappings().all()


def revoke(tx: Transaction, organization_id: int, key_uuid: UUID) -> bool:
    """End a key at once; whether there was one."""
    statement = (
        update(api_key)
        .where(api_key.c.organization_id == organization_id, api_key.c.key_uuid == key_uuid)
        .values(revoked_at=func.coalesce(api_key.c.revoked_at, func.now()))
    )
    return tx.execute(statement).rowcount > 0
