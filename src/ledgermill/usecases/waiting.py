"""The inbox worked off: claimed, settled, taken apart where a batch ends its worker; and the sweep."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from ledgermill.domain.journals import Request, UnusableRequest
from ledgermill.domain.plans import Batch, Plan
from ledgermill.errors import DatabaseUnavailable, LedgermillError, Quarantined
from ledgermill.messages import posting as posting_messages
from ledgermill.observability import Timings, logger
from ledgermill.runtime import Runtime, now
from ledgermill.storage import failures, inbox, organizations
from ledgermill.storage.inbox import Waiting
from ledgermill.usecases import posting
from ledgermill.usecases.posting import NotActive, Work

MOST_ROWS_AT_ONCE = 200
MOST_JOBS_AT_ONCE = 2_000
TAKEN_APART_IN = 16  # the slices of a batch that ended its worker once
MOST_DEATHS = 3  # whole, in a slice, alone: then the job is set aside
PAUSE_AFTER_A_BUG_S = 10

log = logger(__name__)


def look(runtime: Runtime, lane: int) -> int:
    """Work off what is due on a lane until nothing is left; the number of batches (or slices) worked on."""
    runtime.broker.ring_was_heard(lane)
    lanes = max(runtime.settings.posting_lanes, 1)
    worked = 0
    while True:
        with runtime.engine.begin() as tx:
            rows = inbox.claim(tx, lanes=lanes, lane=lane, limit=MOST_ROWS_AT_ONCE, most_jobs=MOST_JOBS_AT_ONCE)
        if not rows:
            return worked
        worked += len(rows)
        together: defaultdict[int, list[Waiting]] = defaultdict(list)
        for row in rows:
            if row.attempts > 1:
                _settle_rows(runtime, row.organization_id, [row])
            else:
                together[row.organization_id].append(row)
        for organization_id, first_tries in together.items():
            _settle_rows(runtime, organization_id, first_tries)


def sweep(runtime: Runtime) -> int:
    """Ring for every lane with accepted jobs that nobody works on; how many there were."""
    lanes = max(runtime.settings.posting_lanes, 1)
    with runtime.engine.connect() as tx:
        to_ring = inbox.lanes_to_ring(tx, lanes=lanes)
    for lane in to_ring:
        runtime.broker.ring(lane)
    return len(to_ring)


def _settle_rows(runtime: Runtime, organization_id: int, rows: Sequence[Waiting]) -> None:
    timings = Timings()
    try:
        with timings.phase("read"):
            works = [_work(row) for row in rows]
        plans = posting.settle(runtime, organization_id, works, timings)
    except NotActive as reason:
        log.info("left in the inbox", organization_id=organization_id, state=reason.state)
    except (DatabaseUnavailable, *failures.DatabaseError) as error:
        if isinstance(error, LedgermillError) or failures.is_temporary(error):
            raise  # the rows keep their attempt; the sweep rings when the database is back
        _give_back(runtime, rows, error)
    except Exception as error:  # noqa: BLE001 - a bug of ours is no job's fault: the rows wait, and the log says why
        _give_back(runtime, rows, error)
    else:
        _tell(runtime, organization_id, works, plans, timings)


def _tell(
    runtime: Runtime, organization_id: int, works: Sequence[Work], plans: Sequence[Plan], timings: Timings
) -> None:
    with runtime.engine.connect() as tx:
        code = organizations.by_id(tx, organization_id)["code"]
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


def _give_back(runtime: Runtime, rows: Sequence[Waiting], error: BaseException) -> None:
    """Uncount the attempt: the worker lives, so it was no job that ended it."""
    log.error(
        "batches failed for a reason that is no job's fault; they wait",
        batches=[str(row.batch_id) for row in rows],
        exc_info=error,
    )
    due_at = now() + timedelta(seconds=PAUSE_AFTER_A_BUG_S)
    with runtime.engine.begin() as tx:
        for row in rows:
            inbox.release(tx, row, attempts=row.attempts - 1, due_at=due_at, problem=repr(error)[:1000])
