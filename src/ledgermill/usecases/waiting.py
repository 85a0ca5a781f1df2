"""The inbox worked off: claimed, settled, taken apart where a batch ends its worker or meets a bug; and the sweep."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from ledgermill.domain.journals import Request, UnusableRequest
from ledgermill.domain.plans import Batch, Plan
from ledgermill.errors import DatabaseUnavailable, Quarantined
from ledgermill.messages import posting as posting_messages
from ledgermill.messages.fingerprints import unreadable_fingerprint
from ledgermill.observability import Timings, logger
from ledgermill.runtime import Runtime
from ledgermill.storage import claims, failures, inbox
from ledgermill.storage.inbox import Waiting
from ledgermill.usecases import posting, soundness
from ledgermill.usecases.posting import ALONE_FROM, MOST_DEATHS, NotActive, Work
from ledgermill.usecases.soundness import Verdict

MOST_ROWS_AT_ONCE = 200
LOOKING_ENDS_AFTER = 0.25  # of the time that a task has: the time limit would count as a death of what is at work
RETRYING_LASTS_S = 0.1  # then what is new has its turn
# Times as long: slices are posted nearly as fast as what is new, but single jobs wait for the posting lock at each.
OTHERS_LAST_AFTER_SLICES = 1
OTHERS_LAST_AFTER_SINGLES = 9
PAUSE_AFTER_A_BUG_S = 1.0
PAUSE_WITHOUT_DATABASE_S = 1
LONGEST_WAIT_S = 300.0

log = logger(__name__)


def look(runtime: Runtime, lane: int, claimant: UUID | None = None, *, is_busy: bool = False) -> int:
    """Work off what is due on a lane until nothing is left; the number of batches (or slices) worked on.

    Where that takes long, it rings for the next to go on; `is_busy` where there is other work, of which what failed
    before and is tried again must not take the time. Whoever learns that a claimant died tells it to `free`.
    Raises: DatabaseUnavailable and other temporary failures.
    """
    give_up_at = runtime.turn_ends_at(LOOKING_ENDS_AFTER)
    runtime.broker.ring_was_heard(lane)
    claimant = claimant or uuid4()
    worked = _try_canaries(runtime, lane, claimant)
    may_retry = not is_busy or time.monotonic() >= runtime.may_retry_at
    only_untried, retried_s, others_last_s = not may_retry, 0.0, 0.0
    while time.monotonic() < give_up_at and retried_s < RETRYING_LASTS_S:
        started = time.monotonic()
        rows = _claim(runtime, lane, claimant, only_untried=only_untried)
        if not rows and not only_untried:
            return worked
        if not rows and not may_retry:
            break
        worked += _settle_groups(runtime, _groups(rows), give_up_at=give_up_at)
        # Whatever is tried again takes turns with what is new, or a batch taken apart would hold it up.
        is_retry = bool(rows) and rows[0].attempts > 1
        only_untried = is_retry or not may_retry
        if is_retry:
            took_s = time.monotonic() - started
            retried_s += took_s
            is_single = rows[0].attempts >= ALONE_FROM
            others_last_s += took_s * (OTHERS_LAST_AFTER_SINGLES if is_single else OTHERS_LAST_AFTER_SLICES)
            runtime.may_retry_at = time.monotonic() + others_last_s
    free(runtime, claimant)
    runtime.broker.ring(lane)
    return worked


def free(runtime: Runtime, claimant: UUID) -> None:
    """A claimant is gone: whatever it had claimed may be tried at once, with its attempt counted."""
    with runtime.engine.begin() as tx:
        lanes = inbox.free(tx, claimant)
    for lane in {lane % max(runtime.settings.posting_lanes, 1) for lane in lanes}:
        runtime.broker.ring(lane)


def sweep(runtime: Runtime) -> int:
    """Ring for every lane with accepted jobs that nobody works on; how many there were."""
    lanes = max(runtime.settings.posting_lanes, 1)
    with runtime.engine.connect() as tx:
        to_ring = inbox.lanes_to_ring(tx, lanes=lanes, lease_s=runtime.settings.task_time_limit_s)
    for lane in to_ring:
        runtime.broker.ring(lane)
    return len(to_ring)


def _claim(runtime: Runtime, lane: int, claimant: UUID, *, only_untried: bool) -> list[Waiting]:
    with runtime.engine.begin() as tx:
        return claims.claim(
            tx,
            **_claiming(runtime, lane, claimant),
            limit=MOST_ROWS_AT_ONCE,
            paused=soundness.paused(runtime),
            only_untried=only_untried,
        )


def _try_canaries(runtime: Runtime, lane: int, claimant: UUID) -> int:
    """In a pause, try one job now and then; how many were."""
    tried = 0
    for kind in soundness.canary_kinds(runtime):
        with runtime.engine.begin() as tx:
            row = claims.claim_canary(tx, **_claiming(runtime, lane, claimant), kind=kind)
        if row is not None:
            _settle_rows(runtime, [row._replace(alone_until=row.next_item + 1)], is_canary=True)
            free(runtime, claimant)
            tried += 1
    return tried


def _claiming(runtime: Runtime, lane: int, claimant: UUID) -> dict[str, Any]:
    return {
        "claimant": claimant,
        "release": soundness.release(),
        "lanes": max(runtime.settings.posting_lanes, 1),
        "lane": lane,
        "lease_s": runtime.settings.task_time_limit_s,
    }


def _groups(rows: Sequence[Waiting]) -> list[list[Waiting]]:
    """What goes into one transaction: the batches of an organization."""
    together: defaultdict[int, list[Waiting]] = defaultdict(list)
    for row in rows:
        together[row.organization_id].append(row)
    return list(together.values())


def _settle_groups(runtime: Runtime, groups: Sequence[Sequence[Waiting]], *, give_up_at: float) -> int:
    """Settle one group after the other; how many rows that were. What is not tried gets its attempt back."""
    worked = 0
    for index, group in enumerate(groups):
        if index and time.monotonic() > give_up_at:
            _give_back(runtime, [row for rest in groups[index:] for row in rest], problem=None)
            break
        try:
            _settle_rows(runtime, group)
        except (DatabaseUnavailable, *failures.DatabaseError) as error:
            # Nobody died of these: a database that is busy for long must not set jobs aside. Where it is away, the
            # attempts stay counted, and cost no more than smaller transactions.
            rest = [row for later in groups[index:] for row in later]
            with contextlib.suppress(*failures.DatabaseError):
                _give_back(runtime, rest, problem=repr(error)[:1000], waits_s=PAUSE_WITHOUT_DATABASE_S)
            raise
        worked += len(group)
    return worked


def _settle_rows(runtime: Runtime, rows: Sequence[Waiting], *, is_canary: bool = False) -> None:
    """Settle batches of one organization, as much of each as is to be tried at once."""
    organization_id, timings = rows[0].organization_id, Timings()
    try:
        verdict = Verdict.TRY_AGAIN
        if rows[0].attempts > MOST_DEATHS and not is_canary:  # then it was claimed alone
            verdict = soundness.judge(runtime, rows[0])
        if verdict is Verdict.WAIT:
            _set_apart(runtime, rows[0])
            return
        with timings.phase("read"):
            works = [_work(row, verdict, is_canary=is_canary) for row in rows]
        plans = posting.settle(runtime, organization_id, works, timings)
    except NotActive as reason:
        log.info("left in the inbox", organization_id=organization_id, state=reason.state)
        _give_back(runtime, rows, problem=None)
    except Exception as error:
        if isinstance(error, DatabaseUnavailable) or failures.is_temporary(error):
            raise
        log.exception("batches met a bug; it counts as an attempt", batches=[str(row.batch_id) for row in rows])
        soundness.has_failed(runtime)
        _release(runtime, rows, uncounted=0, problem=repr(error)[:1000], waits_s=PAUSE_AFTER_A_BUG_S)
    else:
        _tell(runtime, organization_id, works, plans, timings)
        soundness.note(runtime, plans)


def _tell(
    runtime: Runtime, organization_id: int, works: Sequence[Work], plans: Sequence[Plan], timings: Timings
) -> None:
    code = runtime.organizations.by_id(runtime.engine, organization_id).code
    posting.tell(runtime, code, {work.batch.batch_id for work in works}, plans, timings)


def _work(row: Waiting, verdict: Verdict, *, is_canary: bool) -> Work:
    """What to settle of a row now: all that is left, or a slice, or one job, or nothing but its rejection."""
    asked = posting_messages.read_kept(row.payload)
    first = row.next_item
    if is_canary or row.attempts >= ALONE_FROM:
        last = first + 1
    else:
        last = min(row.jobs, row.alone_until if row.attempts > 1 else row.jobs)
    places = row.places or range(row.jobs)
    chosen = list(places[first:last])
    key_of: dict[int, str | None] = dict(zip(places, row.job_keys, strict=True))
    requests: list[Request]
    if verdict is Verdict.QUARANTINE:
        log.error("a job ended its worker, alone at last; it is quarantined", batch=str(row.batch_id), place=chosen[0])
        requests = [_quarantined(row, chosen[0], key_of[chosen[0]], asked[first])]
    else:
        requests = posting_messages.read(
            row.kind, asked[first:last], new_key=lambda place: key_of[place] or f"{row.batch_id}:{place}", places=chosen
        )
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


def _quarantined(row: Waiting, place: int, key: str | None, asked: object) -> UnusableRequest:
    """The rejection of a job that is at fault, without its fingerprint where it is what reading it that fails."""
    error = Quarantined(attempts=row.attempts - 1)
    try:
        (request,) = posting_messages.read(
            row.kind, [asked], new_key=lambda place: key or f"{row.batch_id}:{place}", places=[place]
        )
    except Exception:  # whatever it sets off, it is at fault for it
        log.exception("a job that cannot even be read is quarantined", batch=str(row.batch_id), place=place)
        return UnusableRequest(place, row.kind, key, unreadable_fingerprint(asked), asked, error)
    return UnusableRequest(place, row.kind, request.idempotency_key, request.fingerprint, request.asked, error)


def _set_apart(runtime: Runtime, row: Waiting) -> None:
    """Nothing is known to be posted, so nothing is at fault: this job waits by itself, and its neighbours are tried."""
    first, waits_s = row.next_item, min(LONGEST_WAIT_S, 2.0 ** (row.attempts - MOST_DEATHS))
    if first + 1 == row.jobs:
        _release(runtime, [row], uncounted=0, problem=None, waits_s=waits_s)
        return
    place = row.places[first] if row.places else first
    apart = row._replace(
        part=-1 - place,
        payload=posting_messages.as_json([posting_messages.read_kept(row.payload)[first]]),
        jobs=1,
        places=[place],
        job_keys=[row.job_keys[first]],
        next_item=0,
    )
    with runtime.engine.begin() as tx:
        if inbox.hold(tx, row.organization_id, [row]).get((row.batch_id, row.part)) == first:
            inbox.insert_waiting(tx, [apart], tried_under=soundness.release(), waits_s=waits_s)
            inbox.advance(tx, row, next_item=first + 1, attempts=ALONE_FROM - 1)
            inbox.release(tx, row, attempts=ALONE_FROM - 1, waits_s=None, problem=None)


def _give_back(runtime: Runtime, rows: Sequence[Waiting], *, problem: str | None, waits_s: float | None = None) -> None:
    """Uncount the attempt: the worker lives, so it was no job that ended it."""
    _release(runtime, rows, uncounted=1, problem=problem, waits_s=waits_s)


def _release(
    runtime: Runtime, rows: Sequence[Waiting], *, uncounted: int, problem: str | None, waits_s: float | None
) -> None:
    with runtime.engine.begin() as tx:
        for row in rows:
            inbox.release(tx, row, attempts=row.attempts - uncounted, waits_s=waits_s, problem=problem)
