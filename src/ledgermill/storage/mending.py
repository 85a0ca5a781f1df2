"""Mending: which job was made of which, by whom and when."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, any_, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import mending, principal

OF_JOB = select(mending).where(
    mending.c.organization_id == bindparam("organization_id"), mending.c.job_id == bindparam("job_id")
)
FAMILY = (
    select(mending)
    .where(mending.c.organization_id == bindparam("organization_id"), mending.c.first_job_id == bindparam("first_id"))
    .order_by(mending.c.number)
)
NAMES = select(principal.c.principal_id, principal.c.kind, principal.c.name).where(
    principal.c.organization_id == bindparam("organization_id"),
    principal.c.principal_id == any_(bindparam("principal_ids")),
)


class Mended(NamedTuple):
    """A job that was made of another; `number` counts, from 1, all that came of the first."""

    organization_id: int
    job_id: UUID
    mended_from: UUID
    first_job_id: UUID
    number: int
    principal_id: int
    mended_at: datetime


def of_job(tx: Transaction, organization_id: int, job_id: UUID) -> Mended | None:
    """What this job was made of; None where it came from outside."""
    row = tx.execute(OF_JOB, {"organization_id": organization_id, "job_id": job_id}).mappings().one_or_none()
    return None if row is None else Mended(**row)


def family(tx: Transaction, organization_id: int, first_job_id: UUID) -> list[Mended]:
    """All jobs that came of a first one, in the order in which they were made."""
    rows = tx.execute(FAMILY, {"organization_id": organization_id, "first_id": first_job_id}).mappings()
    return [Mended(**row) for row in rows]


def link(tx: Transaction, rows: Sequence[Mended]) -> frozenset[UUID]:
    """Note these; the jobs of those that were noted. A number of a family that somebody else took is left out.

    It waits for who takes the same number at this moment: so of two, one sees the other.
    """
    if not rows:
        return frozenset()
    statement = insert(mending).on_conflict_do_nothing().returning(mending.c.job_id)
    return frozenset(tx.execute(statement, [row._asdict() for row in rows]).scalars())


def principals(tx: Transaction, organization_id: int, principal_ids: set[int]) -> dict[int, RowMapping]:
    """Kind and name of these principals."""
    rows = tx.execute(NAMES, {"organization_id": organization_id, "principal_ids": list(principal_ids)}).mappings()
    return {row["principal_id"]: row for row in rows}
