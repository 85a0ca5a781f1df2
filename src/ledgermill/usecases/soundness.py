"""Soundness: whether a job is at fault for the workers that end over it, or the worker's release is.

A batch that ends its worker, or meets a bug, is tried in ever smaller parts; attempts are committed before each try. A
job that failed four times, the last two alone, is quarantined only under a release that posted another job of its kind
since the batch first failed, and only where its organization posts too, unless it came alone. Twice alone, because a
worker may end by chance while a job is alone, but hardly twice in the milliseconds of one and the same. Where that
cannot be said, nothing is quarantined: workers of that release *pause* the kind, which is logged and measured. In a
pause what comes is kept untried in the inbox, and every few seconds one job is tried, the canary, of the batch that was
tried least. A canary that is posted ends the pause; what failed before is tried once more, alone. Attempts count for
each release by itself, so that a good release begins anew with what a bad one left. All of it is in PostgreSQL, since
workers die; a process reads it when it starts, after a failure, and every second of a pause.
"""

import hashlib
import time
from collections.abc import Iterable
from enum import Enum
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ledgermill.domain.plans import Plan
from ledgermill.observability import logger
from ledgermill.runtime import Runtime
from ledgermill.storage import inbox, releases
from ledgermill.storage.inbox import Waiting
from ledgermill.storage.releases import State
from ledgermill.usecases.posting import MOST_DEATHS

CANARY_EVERY_S = 5.0
NOTED_EVERY_S = 1.0
READ_EVERY_S = 1.0  # in a pause

log = logger(__name__)


class Verdict(Enum):
    """What to do with a job that failed four times, the last two alone."""

    QUARANTINE = "it is at fault"
    TRY_AGAIN = "it failed while nothing else succeeded either"
    WAIT = "nothing is known to succeed"


@cache
def release() -> str:
    """The release that this process runs: a digest of the code of package and workers, so that a fix is another."""
    digest = hashlib.sha256()
    for package in ("ledgermill", "workers"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for module in sorted(Path(folder).rglob("*.py")):
                digest.update(module.read_bytes())
    return digest.hexdigest()[:16]


def note(runtime: Runtime, plans: Iterable[Plan]) -> None:
    """After a commit: jobs of these kinds are posted under this release. Costs a statement a second."""
    known, now = runtime.release, time.monotonic()
    kinds = {
        kind
        for kind in {job.kind for plan in plans for job in plan.posted}
        if kind in paused(runtime) or now - known.noted_at.get(kind, -NOTED_EVERY_S) >= NOTED_EVERY_S
    }
    if not kinds:
        return
    ended = kinds & paused(runtime)
    with runtime.engine.begin() as tx:
        found = releases.note_posted(tx, release(), kinds)
        for kind in ended:
            inbox.hurry(tx, kind, attempts=MOST_DEATHS)
    for kind in ended:
        log.warning("a job was posted: the pause is over", kind=kind, release=release())
    known.states |= found
    known.noted_at |= dict.fromkeys(kinds, now)


def paused(runtime: Runtime) -> set[str]:
    """The kinds of jobs of which this process tries none but canaries."""
    known = runtime.release
    is_stale = known.read_at is None or (
        any(state.paused_at for state in known.states.values()) and time.monotonic() - known.read_at > READ_EVERY_S
    )
    if is_stale:
        with runtime.engine.begin() as tx:
            known.states = releases.read(tx, release())
        known.read_at = time.monotonic()
    return {kind for kind, state in known.states.items() if state.paused_at}


def has_posted(runtime: Runtime, kind: str) -> bool:
    """Whether this very process is known to have posted a job of the kind."""
    return kind in runtime.release.noted_at


def has_failed(runtime: Runtime) -> None:
    """Something failed for no job's fault: what others know of the release counts from now on."""
    runtime.release.read_at = None


def canary_kinds(runtime: Runtime) -> list[str]:
    """The kinds that are paused, and of which the caller may try one job now."""
    found = []
    for kind in paused(runtime):
        with runtime.engine.begin() as tx:
            if releases.take_canary(tx, release(), kind, every_s=CANARY_EVERY_S):
                found.append(kind)
    return found


def judge(runtime: Runtime, row: Waiting) -> Verdict:
    """What to do with the next job of this batch, which failed four times. Pauses its kind where nothing is posted."""
    since, last_tried_at, is_new = row.first_tried_at, row.last_tried_at, False
    came_alone = row.jobs == 1 and row.part >= 0
    with runtime.engine.begin() as tx:
        state = releases.read(tx, release()).get(row.kind, State())
        if since is None or state.posted_at is None or state.posted_at < since or state.paused_at:
            problem = f"a job of {row.batch_id} failed {row.attempts - 1} times, and no other of its kind was posted"
            is_new = releases.pause(tx, release(), row.kind, problem=problem)
            verdict = Verdict.WAIT
        elif state.resumed_at and (last_tried_at is None or last_tried_at < state.resumed_at):
            verdict = Verdict.TRY_AGAIN
        elif came_alone or releases.organization_posts(tx, row.organization_id, since=since):
            return Verdict.QUARANTINE
        else:
            verdict = Verdict.WAIT
    if verdict is Verdict.WAIT:
        has_failed(runtime)
        if is_new:
            log.critical("the worker pauses: jobs fail, and none is posted", kind=row.kind, release=release())
    return verdict
