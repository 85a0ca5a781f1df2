"""Quarantine: messages that are not ours or cannot be read, kept with their raw bytes."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, exists, func, select
from sqlalchemy.dialects.postgresql import insert

from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import quarantine, requeue


class Unreadable(NamedTuple):
    """A message set aside. Its id follows from its bytes, so that a redelivery is kept once."""

    quarantine_id: UUID
    received_at: datetime
    queue: str
    code: str
    reason: str
    body: bytes


def keep(tx: Transaction, messages: Sequence[Unreadable]) -> None:
    """Keep these; one that is there already stays as it is."""
    if messages:
        tx.execute(insert(quarantine).on_conflict_do_nothing(), [message._asdict() for message in messages])


def newest(tx: Transaction, *, limit: int, code: str | None = None) -> Sequence[RowMapping]:
    """Up to `limit` messages, newest first, each with `requeued_at`: when it was last given back to its queue."""
    last = select(func.max(requeue.c.requeued_at)).where(requeue.c.quarantine_id == quarantine.c.quarantine_id)
    statement = select(quarantine, last.scalar_subquery().label("requeued_at"))
    if code is not None:
        statement = statement.where(quarantine.c.code == code)
    statement = statement.order_by(quarantine.c.received_at.desc()).limit(limit)
    return tx.execute(statement).mappings().all()


def find(tx: Transaction, quarantine_id: UUID) -> RowMapping | None:
    """A message with its raw bytes; None where there is no such message."""
    statement = select(quarantine).where(quarantine.c.quarantine_id == quarantine_id)
    return tx.execute(statement).mappings().one_or_none()


def waiting(tx: Transaction, *, code: str, after: UUID, limit: int) -> list[UUID]:
    """Up to `limit` messages of this code that were never given back, by id."""
    statement = (
        select(quarantine.c.quarantine_id)
        .where(
            quarantine.c.code == code,
            quarantine.c.quarantine_id > after,
            ~exists().where(requeue.c.quarantine_id == quarantine.c.quarantine_id),
        )
        .order_by(quarantine.c.quarantine_id)
        .limit(limit)
    )
    return list(tx.execute(statement).scalars())


def note_requeued(tx: Transaction, quarantine_id: UUID, *, at: datetime, by: str) -> None:
    """Note that a message was given back to its queue."""
    tx.execute(insert(requeue).values(quarantine_id=quarantine_id, requeued_at=at, requeued_by=by))


def body(tx: Transaction, quarantine_id: UUID) -> bytes | None:
    """The raw bytes of a message; None where there is no such message."""
    found: bytes | None = tx.execute(
        select(quarantine.c.body).where(quarantine.c.quarantine_id == quarantine_id)
    ).scalar_one_or_none()
    return found
