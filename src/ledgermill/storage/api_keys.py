"""API keys: stored hashed, found by their hash."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, func, insert, select, text, update

from ledgermill.storage.connections import AsyncStatement, Transaction
from ledgermill.storage.tables import api_key

FIND = text("SELECT * FROM ledgermill_api.find_key(:sha256)")
FIND_MANY = "SELECT * FROM ledgermill_api.find_keys(%b)"


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
    return None if row is None else caller(row)


async def find_many(connection: AsyncStatement, sha256s: Sequence[bytes]) -> list[Caller | None]:
    """Whom each of these keys stands for; None where it is unknown, expired or revoked."""
    cursor = await connection.execute(FIND_MANY, [list(sha256s)], binary=True)
    found = {row[0]: caller(row[1:]) for row in await cursor.fetchall()}
    return [found.get(place) for place in range(1, len(sha256s) + 1)]


def caller(columns: Sequence[Any]) -> Caller:
    """Whom a key stands for, of the columns that the database's functions answer."""
    return Caller._make([*columns[:-1], frozenset(columns[-1])])


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
