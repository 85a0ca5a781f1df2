"""Rehearsal: what would become of requests today, by the planner that posts, without a lock and without writing.

The balances are of one moment and all rules are asked; only what others post in the meantime is not foreseen.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ledgermill.domain import posting
from ledgermill.domain.journals import JournalRequest, Request
from ledgermill.domain.ledgers import DEBIT, Chart, Ledger
from ledgermill.domain.plans import Balance, Batch, Books, Plan
from ledgermill.errors import LedgermillError
from ledgermill.messages import posting as posting_messages
from ledgermill.messages.jobs import ErrorV1
from ledgermill.messages.rejected import (
    NotSentV1,
    RehearsalV1,
    RehearsedBalanceV1,
    RehearsedEntryV1,
    RehearsedJournalV1,
    mended,
)
from ledgermill.runtime import new_batch_id
from ledgermill.storage import rehearsal as stored
from ledgermill.storage.charts import Charts
from ledgermill.storage.connections import Transaction
from ledgermill.storage.inbox import Waiting
from ledgermill.usecases.rejected import asked_of, refused


def rehearse(
    tx: Transaction,
    organization_id: int,
    job_id: UUID,
    *,
    now: datetime,
    patch: Mapping[str, Any] | None = None,
    replacement: Mapping[str, Any] | None = None,
) -> RehearsalV1:
    """Whether a refused job, as it was or mended, would post now, as what, or why not.

    Raises: JobNotFound, JobNotRejected, InvalidField (of the patch).
    """
    row = refused(tx, organization_id, job_id, now=now)
    item = mended(asked_of(row), patch=patch, replacement=replacement)
    if isinstance(item, dict):
        item = {**item, "idempotency_key": f"rehearsal:{job_id}"}
    (request,) = posting_messages.read(row["kind"], [item], new_key=str)
    chart, balances, books, plan = _plan(tx, organization_id, [(new_batch_id(), request)], now=now)
    if plan.rejected:
        return RehearsalV1(would_post=False, as_of=books.booked_at, error=_error(plan.rejected[0].error))
    due_at = request.due_at if isinstance(request, JournalRequest) else None
    return RehearsalV1(
        would_post=True, as_of=books.booked_at, due_at=due_at, journal=_journal(plan, chart=chart, balances=balances)
    )


def rehearse_many(
    tx: Transaction, organization_id: int, made: Sequence[tuple[UUID, Waiting]], *, now: datetime
) -> tuple[list[UUID], list[NotSentV1]]:
    """Of refused jobs and the batches of one that were made of them: which would post, one after the other."""
    of_job: dict[UUID, UUID] = {}
    asked: list[tuple[UUID, Request]] = []
    for job_id, waiting in made:
        (request,) = posting_messages.read(waiting.kind, waiting.payload, new_key=str)
        of_job[waiting.batch_id] = job_id
        asked.append((waiting.batch_id, request))
    _, _, _, plan = _plan(tx, organization_id, asked, now=now)
    refusals = [NotSentV1(id=of_job[job.job_id], code=job.error.code, message=str(job.error)) for job in plan.rejected]
    return [of_job[job.job_id] for job in plan.posted], refusals


def _plan(
    tx: Transaction, organization_id: int, asked: Sequence[tuple[UUID, Request]], *, now: datetime
) -> tuple[Chart, Mapping[int, Balance], Books, Plan]:
    batches = [Batch(batch_id, None, 0, None, now, True, [request]) for batch_id, request in asked]
    books, chart_version = stored.books(tx, organization_id)
    chart = Charts().at(
        tx,
        organization_id,
        version=chart_version,
        references=posting.references(request for _, request in asked),
        suspense_id=books.suspense_id,
    )
    ledger_ids = posting.ledgers_to_lock(batches, chart, books.suspense_id)
    balances = stored.balances(tx, organization_id, ledger_ids)
    plan = posting.plan(batches, chart=chart, balances=balances, books=books, settled={}, recorded=frozenset())
    return chart, balances, books, plan


def _journal(plan: Plan, *, chart: Chart, balances: Mapping[int, Balance]) -> RehearsedJournalV1:
    (job,) = plan.posted
    moved = [
        RehearsedBalanceV1(
            ledger_code=ledger.code,
            is_head=ledger.is_head,
            before=(before := _on_normal_side(ledger, balances[ledger.ledger_id])),
            after=before + _signed(ledger, change.debits - change.credits),
        )
        for change in plan.balances
        for ledger in [chart.by_id[change.ledger_id]]
    ]
    entries = [
        RehearsedEntryV1(
            ledger_code=ledger.code,
            ledger_num_id=ledger.number,
            type="debit" if entry.side == DEBIT else "credit",
            amount=entry.amount,
            balance_after=_signed(ledger, entry.balance_after),
        )
        for entry in sorted(plan.entries, key=lambda entry: entry.line)
        for ledger in [chart.by_id[entry.ledger_id]]
    ]
    return RehearsedJournalV1(
        type=job.type,
        value_date=job.value_date,
        total_amount=job.total,
        currency_code=job.currency,
        description=job.description,
        reference_id=job.reference_id,
        entries=entries,
        balances=sorted(moved, key=lambda balance: balance.is_head),
    )


def _on_normal_side(ledger: Ledger, balance: Balance) -> int:
    return _signed(ledger, balance.debits - balance.credits)


def _signed(ledger: Ledger, debits_less_credits: int) -> int:
    return debits_less_credits if ledger.normal_side == DEBIT else -debits_less_credits


def _error(error: LedgermillError) -> ErrorV1:
    return ErrorV1.model_validate(
        {"kind": error.kind, "code": error.code, "message": str(error), "details": error.details}
    )
