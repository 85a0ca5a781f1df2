"""Posting: the story of one transaction, and what happens when it fails.

Messages and inbox rows meet here: both are a batch of one organization, settled job by job and committed once.
"""

import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from ledgermill.domain import posting
from ledgermill.domain.journals import UnusableRequest
from ledgermill.domain.plans import Batch, Books, Draft, Plan, Settled
from ledgermill.errors import DatabaseRefused, DatabaseUnavailable
from ledgermill.observability import Timings, logger
from ledgermill.runtime import Runtime
from ledgermill.storage import balances, connections, entries, failures, inbox, jobs, posting_lock
from ledgermill.storage.connections import Transaction
from ledgermill.storage.inbox import Waiting

TRIES = 8
TRYING_ENDS_AFTER = 0.25  # of the time that a task has: one try may last, and the time limit would kill the worker
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 2.0
ALONE_FROM = 3  # the try: whole, in a slice, alone
MOST_DEATHS = 4  # and alone once more, since a worker may end by chance: then a job is set aside
MOST_LOGGED = 10

log = logger(__name__)


class NotActive(Exception):
    """The organization is paused or draining, so nothing was posted."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state


class Work(NamedTuple):
    """A batch to settle, and the inbox row that it came from; None where it came straight from the broker.

    `first_item` is where the batch's requests start among the row's items.
    """

    batch: Batch
    row: Waiting | None = None
    first_item: int = 0

    def is_at(self, next_items: Mapping[tuple[UUID, int], int]) -> bool:
        """Whether this is still to be settled: an inbox row may be done meanwhile, or held by somebody else."""
        return self.row is None or next_items.get((self.row.batch_id, self.row.part)) == self.first_item


def settle(runtime: Runtime, organization_id: int, works: Sequence[Work], timings: Timings | None = None) -> list[Plan]:
    """Post what can be posted of these batches, reject the rest, and commit; however often it runs, each job ends once.

    Where the database refuses them as a whole, they are halved until the job at fault stands alone.

    Raises: NotActive, DatabaseUnavailable (nothing is known to be committed: try again), and whatever is a bug.
    """
    timings = timings or Timings()
    try:
        return [_commit(runtime, organization_id, works, timings)]
    except failures.DatabaseError as error:
        if not failures.is_refusal(error):
            raise
        refusal = error
    if len(works) > 1:
        middle = len(works) // 2
        parts = works[:middle], works[middle:]
        return [plan for part in parts for plan in settle(runtime, organization_id, part, timings)]
    work = works[0]
    requests = work.batch.requests
    if len(requests) == 1:
        if isinstance(requests[0], UnusableRequest):
            raise refusal  # not even its rejection can be written
        return settle(runtime, organization_id, [_refused(work, refusal)], timings)
    middle = len(requests) // 2
    halves = (
        work._replace(batch=work.batch._replace(requests=requests[:middle])),
        work._replace(batch=work.batch._replace(requests=requests[middle:]), first_item=work.first_item + middle),
    )
    return [plan for half in halves for plan in settle(runtime, organization_id, [half], timings)]


def tell(runtime: Runtime, organization: str, batches: Iterable[UUID], plans: Sequence[Plan], timings: Timings) -> None:
    """After the commit: wake who waits, count what was done, and log it."""
    batches = list(batches)
    runtime.broker.tell_settled(batches)
    posted = Counter(job.kind for plan in plans for job in plan.posted)
    rejected = Counter((job.kind, job.error.code) for plan in plans for job in plan.rejected)
    replayed = sum(len(plan.replays) for plan in plans)
    total = posted.total() + rejected.total()
    counters: dict[str, float] = {f"posted:{kind}": jobs_ for kind, jobs_ in posted.items()}
    counters |= {f"rejected:{kind}:{code}": jobs_ for (kind, code), jobs_ in rejected.items()}
    counters |= {"batches": 1, "batch_jobs": total, f"batch_le:{_bucket(total)}": 1}
    counters |= {f"seconds:{phase}": seconds for phase, seconds in timings.seconds.items()}
    runtime.broker.count(counters)
    log.info(
        "settled",
        organization=organization,
        batches=[str(batch) for batch in batches[:MOST_LOGGED]],
        posted=posted.total(),
        rejected=rejected.total(),
        replayed=replayed,
        rejected_jobs=[f"{job.job_id} {job.error.code}" for plan in plans for job in plan.rejected][:MOST_LOGGED],
        correlations=sorted({job.correlation for plan in plans for job in plan.posted if job.correlation})[
            :MOST_LOGGED
        ],
        ms={phase: round(seconds * 1000, 1) for phase, seconds in timings.seconds.items()},
    )


BATCH_BUCKETS = (1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000)


def _bucket(jobs_: int) -> str:
    return next((str(limit) for limit in BATCH_BUCKETS if jobs_ <= limit), "inf")


def _commit(runtime: Runtime, organization_id: int, works: Sequence[Work], timings: Timings) -> Plan:
    """One transaction, tried again while the database is busy, away, or turns out to know a key already."""
    look_first = any(work.row is not None and work.row.attempts > 1 for work in works)
    give_up_at = runtime.turn_ends_at(TRYING_ENDS_AFTER)
    with timings.phase("draft"):
        drafted = None if look_first else _draft(runtime, organization_id, works)
    for attempt in range(TRIES):
        try:
            with runtime.engine.connect() as tx, tx.begin() as transaction:
                plan = _post(
                    runtime,
                    tx,
                    organization_id,
                    works,
                    timings,
                    drafted=None if look_first else drafted,
                    look_first=look_first,
                )
                with timings.phase("commit"):
                    transaction.commit()
            return plan
        except failures.DatabaseError as error:
            if failures.violated(error) in {jobs.KEY_CONSTRAINT, jobs.ID_CONSTRAINT} and not look_first:
                look_first = True
            elif failures.is_temporary(error):
                # A lost answer to COMMIT is one of these: the next round finds what it did.
                look_first = True
                log.warning("database busy or away", attempt=attempt + 1, sqlstate=failures.sqlstate(error))
                if time.monotonic() > give_up_at:
                    break
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
                time.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - jitter, not a secret
            else:
                raise
    raise DatabaseUnavailable


def _post(
    runtime: Runtime,
    tx: Transaction,
    organization_id: int,
    works: Sequence[Work],
    timings: Timings,
    *,
    drafted: Draft | None,
    look_first: bool,
) -> Plan:
    with timings.phase("lock"):
        with connections.raw(tx).pipeline():  # one round trip; the balances are read when the lock is held
            asked = posting_lock.ask(tx, organization_id)
            balances_asked = balances.ask(tx, organization_id, drafted.ledger_ids) if drafted else None
        held = asked.held()
        _require_active(works, held.state)
        next_items = inbox.hold(tx, organization_id, [work.row for work in works if work.row])
        ours = [work for work in works if work.is_at(next_items)]
        batches = [work.batch for work in ours]
        books = _books(organization_id, held)
        if drafted and not (
            len(ours) == len(works) and posting.is_current(drafted, chart_version=held.chart_version, books=books)
        ):
            drafted = None
        chart = runtime.charts.at(
            tx,
            organization_id,
            version=held.chart_version,
            references=() if drafted else {name for batch in batches for name in posting.references(batch.requests)},
            suspense_id=held.suspense_id,
        )
        if drafted and balances_asked:
            locked = balances.read(balances_asked)
        else:  # the draft's are locked too where it did not fit, which keeps nobody: all come through the posting lock
            to_lock = posting.ledgers_to_lock(batches, chart, held.suspense_id)
            locked = balances.lock(tx, organization_id, to_lock)
        known, recorded = _look(tx, organization_id, batches) if look_first else ({}, frozenset[UUID]())
    with timings.phase("plan"):
        plan = posting.fit(drafted, chart=chart, balances=locked, books=books) if drafted else None
        if plan is None:
            plan = posting.plan(batches, chart=chart, balances=locked, books=books, settled=known, recorded=recorded)
    with timings.phase("write"):
        _write(tx, organization_id, plan, books)
        _finish(tx, organization_id, ours)
    runtime.charts.note(organization_id, books)
    return plan


def _draft(runtime: Runtime, organization_id: int, works: Sequence[Work]) -> Draft | None:
    """A plan made while others hold the lock, of what this process knows; None where that is too little."""
    known = runtime.charts.known(organization_id)
    if known is None or known.books is None:
        return None
    batches = [work.batch for work in works]
    drafted = posting.draft(batches, chart=known.chart, chart_version=known.version, assumed=known.books)
    if drafted is None:
        return None
    return drafted._replace(plan=drafted.plan._replace(begun=jobs.beginnings(drafted.plan.posted)))


def _books(organization_id: int, held: posting_lock.Held) -> Books:
    booked_at = held.booking_time
    return Books(
        organization_id=organization_id,
        base_currency=held.base_currency,
        next_position=held.next_position,
        next_rejection=held.next_rejection,
        booked_at=booked_at,
        today=booked_at.astimezone(ZoneInfo(held.time_zone)).date(),
        max_future_days=held.max_future_days,
        suspense_id=held.suspense_id,
    )


def _write(tx: Transaction, organization_id: int, plan: Plan, books: Books) -> None:
    raw = connections.raw(tx)
    jobs.copy_posted(raw, plan.posted, begun=plan.begun, shift=plan.shift, ended_at=books.booked_at)
    jobs.copy_rejected(raw, plan.rejected, shift=plan.shift, ended_at=books.booked_at)
    entries.copy(raw, plan.entries, shift=plan.shift)
    jobs.insert_replays(tx, organization_id, plan.replays)
    with raw.pipeline():  # three statements, one round trip
        balances.add(tx, organization_id, plan.balances, booked_at=books.booked_at)
        balances.add_days(tx, organization_id, plan.days, booked_on=books.today)
        if plan.posted or plan.rejected:
            posting_lock.advance(
                tx,
                organization_id,
                next_position=books.next_position + len(plan.posted),
                next_rejection=books.next_rejection + len(plan.rejected),
                booked_at=books.booked_at,
            )


def _look(
    tx: Transaction, organization_id: int, batches: Sequence[Batch]
) -> tuple[Mapping[str, Settled], frozenset[UUID]]:
    """What is known of these batches' keys, and of their jobs that have none; under the lock nobody adds to it."""
    keys = {request.idempotency_key for batch in batches for request in batch.requests} - {None}
    keyless = {batch.keyless_job_id(request.place) for batch in batches for request in batch.requests}
    return (
        jobs.settled(tx, organization_id, [key for key in keys if key is not None]),
        jobs.recorded(tx, organization_id, keyless),
    )


def _require_active(works: Sequence[Work], state: str) -> None:
    for work in works:
        if state == "paused" or (state == "draining" and (work.row is None or work.row.held)):
            raise NotActive(state)


def _finish(tx: Transaction, organization_id: int, works: Sequence[Work]) -> None:
    """In the same transaction, note in the inbox what is settled."""
    settled = []
    for work in works:
        if work.row is None:
            continue
        done = work.first_item + len(work.batch.requests)
        if done < work.row.jobs:
            # The job behind one that was set aside is tried alone, not set aside with it.
            attempts = min(work.row.attempts, ALONE_FROM) - 1
            inbox.advance(tx, work.row, next_item=done, attempts=attempts)
        else:
            settled.append(work.row)
    inbox.remove(tx, organization_id, settled)


def _refused(work: Work, error: BaseException) -> Work:
    """The single job that the database refuses, as one that is rejected for it."""
    request = work.batch.requests[0]
    reason = DatabaseRefused(sqlstate=failures.sqlstate(error), problem=failures.problem(error))
    unusable = UnusableRequest(
        request.place, request.kind, request.idempotency_key, request.fingerprint, request.asked, reason
    )
    return work._replace(batch=work.batch._replace(requests=[unusable]))
