"""The inbox worked off: claimed, settled, taken apart where a batch ends its worker; and the sweep."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from ledgermill.domain.journals import Request, UnusableRequest
from ledgermill.domain.plans import Batch, Plan
from ledgermill.errors import DatabaseUnavailable, Quarantined
from ledgermill.messages import posting as posting_messages
from ledgermill.observability import Timings, logger
from ledgermill.runtime import Runtime, now
from ledgermill.storage import failures, inbox
from ledgermill.storage.inbox import Waiting
from ledgermill.usecases import posting
from ledgermill.usecases.posting import MOST_DEATHS, NotActive, Work

MOST_ROWS_AT_ONCE = 200
MOST_JOBS_AT_ONCE = 5_000
TAKEN_APART_IN = 16  # the slices of a batch that ended its worker once
LOOKING_ENDS_AFTER = 0.25  # of the time that a task has: the time limit would count as a death of what is at work
PAUSE_AFTER_A_BUG_S = 10
PAUSE_WITHOUT_DATABASE_S = 1

log = logger(__name__)


def look(runtime: Runtime, lane: int) -> int:
    """Work off what is due on a lane until nothing is left; the number of batches (or slices) worked on.

    Where that takes long, it rings for the next to go on. Raises: DatabaseUnavailable and other temporary failures.
    """
    give_up_at = time.monotonic() + LOOKING_ENDS_AFTER * runtime.settings.task_time_limit_s
    runtime.broker.ring_was_heard(lane)
    lanes = max(runtime.settings.posting_lanes, 1)
    worked = 0
    while time.monotonic() < give_up_at:
        with runtime.engine.begin() as tx:
            rows = inbox.claim(
                tx,
                lanes=lanes,
                lane=lane,
                limit=MOST_ROWS_AT_ONCE,
                most_jobs=MOST_JOBS_AT_ONCE,
                lease_s=runtime.settings.task_time_limit_s,
            )
        if not rows:
            return worked
        worked += _settle_groups(runtime, _groups(rows), give_up_at=give_up_at)
    runtime.broker.ring(lane)
    return worked


def sweep(runtime: Runtime) -> int:
    """Ring for every lane with accepted jobs that nobody works on; how many there were."""
    lanes = max(runtime.settings.posting_lanes, 1)
    with runtime.engine.connect() as tx:
        to_ring = inbox.lanes_to_ring(tx, lanes=lanes, lease_s=runtime.settings.task_time_limit_s)
    for lane in to_ring:
        runtime.broker.ring(lane)
    return len(to_ring)


def _groups(rows: Sequence[Waiting]) -> list[list[Waiting]]:
    """What goes into one transaction: a batch that ended a worker before alone, the others of an organization."""
    alone = [[row] for row in rows if row.attempts > 1]
    together: defaultdict[int, list[Waiting]] = defaultdict(list)
    for row in rows:
        if row.attempts <= 1:
            together[row.organization_id].append(row)
    return [*alone, *together.values()]


def _settle_groups(runtime: Runtime, groups: Sequence[Sequence[Waiting]], *, give_up_at: float) -> int:
    """Settle one group after the other; how many rows that were. What is not tried gets its attempt back."""
    worked = 0
    for index, group in enumerate(groups):
        if index and time.monotonic() > give_up_at:
            _give_back(runtime, [row for rest in groups[index:] for row in rest], problem=None)
            break
        try:
            _settle_rows(runtime, group[0].organization_id, group)
        except (DatabaseUnavailable, *failures.DatabaseError) as error:
            # Nobody died of these: a database that is busy for long must not set jobs aside. Where it is away, the
            # attempts stay counted, and cost no more than smaller transactions.
            due_at = now() + timedelta(seconds=PAUSE_WITHOUT_DATABASE_S)
            rest = [row for later in groups[index:] for row in later]
            with contextlib.suppress(*failures.DatabaseError):
                _give_back(runtime, rest, problem=repr(error)[:1000], due_at=due_at)
            raise
        worked += len(group)
    return worked


def _settle_rows(runtime: Runtime, organization_id: int, rows: Sequence[Waiting]) -> None:
    timings = Timings()
    try:
        with timings.phase("read"):
            works = [_work(row) for row in rows]
        plans = posting.settle(runtime, organization_id, works, timings)
    except NotActive as reason:
        log.info("left in the inbox", organization_id=organization_id, state=reason.state)
        _give_back(runtime, rows, problem=None)
    except Exception as error:
        if isinstance(error, DatabaseUnavailable) or failures.is_temporary(error):
            raise
        log.exception(
            "batches failed for a reason that is no job's fault; they wait",
            batches=[str(row.batch_id) for row in rows],
        )
        due_at = now() + timedelta(seconds=PAUSE_AFTER_A_BUG_S)
        _give_back(runtime, rows, problem=repr(error)[:1000], due_at=due_at)
    else:
        _tell(runtime, organization_id, works, plans, timings)


def _tell(
    runtime: Runtime, organization_id: int, works: Sequence[Work], plans: Sequence[Plan], timings: Timings
) -> None:
    code = runtime.organizations.by_id(runtime.engine, organization_id).code
    posting.tell(runtime, code, {work.batch.batch_id for work in works}, plans, timings)


def _work(row: Waiting) -> Work:
    """What to settle of a row now: all that is left, or a slice, or one job, or nothing but its rejection."""
    asked = posting_messages.read_kept(row.payload)
    first = row.next_item
    last = min(row.jobs, first + _slice_length(row))
    places = row.places or range(row.jobs)
    chosen = list(places[first:last])
    key_of: dict[int, str | None] = dict(zip(places, row.job_keys, strict=True))
    requests: list[Request] = posting_messages.read(
        row.kind, asked[first:last], new_key=lambda place: key_of[place] or f"{row.batch_id}:{place}", places=chosen
    )
    if row.attempts > MOST_DEATHS:
        log.error("a job ended its worker, alone at last; it is quarantined", batch=str(row.batch_id), place=chosen[0])
        requests = [_quarantined(request, row.attempts - 1) for request in requests]
    batch = Batch(
        batch_id=row.batch_id,
        message_id=row.message_id,
        principal_id=row.principal_id,
        correlation=row.correlation,
        accepted_at=row.accepted_at,
        keeps_replays=row.message_id is None,
        requests=requests,
    )
    return Work(batch, row, first)


def _slice_length(row: Waiting) -> int:
    if row.attempts <= 1:
        return row.jobs
    return max(1, row.jobs // TAKEN_APART_IN) if row.attempts == 2 else 1  # noqa: PLR2004 - the second try


def _quarantined(request: Request, attempts: int) -> UnusableRequest:
    return UnusableRequest(
        request.place,
        request.kind,
        request.idempotency_key,
        request.fingerprint,
        request.asked,
        Quarantined(attempts=attempts),
    )


def _give_back(
    runtime: Runtime, rows: Sequence[Waiting], *, problem: str | None, due_at: datetime | None = None
) -> None:
    """Uncount the attempt: the worker lives, so it was no job that ended it."""
    with runtime.engine.begin() as tx:
        for row in rows:
            inbox.release(tx, row, attempts=row.attempts - 1, due_at=due_at or row.due_at, problem=problem)
