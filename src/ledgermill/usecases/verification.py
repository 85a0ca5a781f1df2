"""Verification by beat: each organization in a transaction of its own, noted, and gone on from at the next run."""

from ledgermill.observability import logger
from ledgermill.runtime import Runtime, now
from ledgermill.storage import failures, verified
from ledgermill.storage import verify as storage
from ledgermill.storage.scopes import Scope
from ledgermill.usecases.verify import Report, check_books

log = logger(__name__)


def verify_new(runtime: Runtime) -> dict[str, Report]:
    """Check what each organization posted after its last clean run; the reports by code.

    One that another process verifies is left to it. Raises what the database says when it is away.
    """
    return _verify_each(runtime, verified.NEW)


def verify_all(runtime: Runtime) -> dict[str, Report]:
    """Check all books, one organization after the other; the reports by code. Otherwise as `verify_new`."""
    return _verify_each(runtime, verified.ALL)


def _verify_each(runtime: Runtime, kind: str) -> dict[str, Report]:
    with runtime.engine.begin() as tx:
        organization_ids = verified.organization_ids(tx)
    reports: dict[str, Report] = {}
    for organization_id in organization_ids:
        try:
            reports |= _verify_one(runtime, kind, organization_id, even_if_idle=organization_id == organization_ids[0])
        except failures.DatabaseError as error:
            if failures.sqlstate(error) not in failures.RETRY_STATES:
                raise
            # Too slow for its time limit, or another run was faster: the age of the last clean run will tell.
            log.warning("not verified", kind=kind, organization_id=organization_id, sqlstate=failures.sqlstate(error))
    return reports


def _verify_one(runtime: Runtime, kind: str, organization_id: int, *, even_if_idle: bool) -> dict[str, Report]:
    """One organization. Where nothing is new nothing is done; but in each round one is looked at, and the catalog."""
    began_at = now()
    with verified.held(runtime.engine, organization_id) as found:
        if found is None:
            return {}
        tx, last = found
        since = [last] if kind == verified.NEW else None
        scope = Scope(organization_id, since, from_checkpoint=True)
        [place] = storage.places(tx, organization_id)
        if since == [place] and not even_if_idle:
            verified.note_idle(tx, organization_id)
            return {}
        report = check_books(tx, scope, statement_timeout_s=runtime.settings.verify_time_limit_s)
        if report.is_clean:
            verified.move(tx, kind, scope, place)
        verified.record(
            tx,
            kind,
            organization_id=organization_id,
            from_position=last.position if since else 0,
            to_position=place.position,
            began_at=began_at,
            seconds=report.took_s,
            checks=len(report.checks),
            found=report.found,
        )
        result = {place.code: report}
    if not report.is_clean:
        log.error("the books are wrong", kind=kind, organization=place.code, violations=report.found)
    return result
