"""Quarantine: messages that are not ours or cannot be read, kept with their raw bytes."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, select
from sqlalchemy.dialects.postgresql import insert

from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import quarantine


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


def newest(tx: Transaction, *, limit: int) -> Sequence[RowMapping]:
    """Up to `limit` messages, newest first."""
    statement = select(quarantine).order_by(quarantine.c.received_at.desc()).limit(limit)
    return tx.execute(statement).mappings().all()


def body(tx: Transaction, quarantine_id: UUID) -> bytes | None:
    """The raw bytes of a message; None where there is no such message."""
    found: bytes | None = tx.execute(
        select(quarantine.c.body).where(quarantine.c.quarantine_id == quarantine_id)
    ).scalar_one_or_none()
    return found
