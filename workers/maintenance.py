"""Tasks of the `maintenance` queue, which beat sends."""

from collections.abc import Callable, Mapping

from ledgermill.config import settings
from ledgermill.errors import Unavailable
from ledgermill.messages import routes
from ledgermill.observability import logger
from ledgermill.runtime import Runtime
from ledgermill.storage import failures
from ledgermill.usecases import quarantine, verification, waiting
from ledgermill.usecases.verify import Report
from workers.app import app
from workers.lifecycle import runtime
from workers.unreadable import BROKER_ERRORS

log = logger(__name__)


@app.task(name=routes.SWEEP.task, acks_late=False)  # the next one comes within seconds
def sweep(**_newer: object) -> None:
    """Ring for accepted jobs that nobody works on, and bring home what the broker could not read."""
    try:
        waiting.sweep(runtime())
        quarantine.bring_home(runtime())
    except MemoryError:
        log.exception("no memory to sweep")  # unhandled it would end the whole worker
    except BROKER_ERRORS as error:
        log.warning("no sweep until the broker is back", reason=type(error).__name__)
    except (Unavailable, *failures.DatabaseError) as error:
        if not isinstance(error, Unavailable) and not failures.is_temporary(error):
            raise
        log.warning("no sweep until the database is back", reason=type(error).__name__)


@app.task(name=routes.VERIFY_NEW.task, acks_late=False, time_limit=settings().verify_time_limit_s)
def verify_new(**_newer: object) -> None:
    """Check what was posted since the books were last found clean."""
    _verify(verification.verify_new)


@app.task(name=routes.VERIFY_ALL.task, acks_late=False, time_limit=settings().verify_time_limit_s)
def verify_all(**_newer: object) -> None:
    """Check all books."""
    _verify(verification.verify_all)


def _verify(run: Callable[[Runtime], Mapping[str, Report]]) -> None:
    try:
        reports = run(runtime())
    except failures.DatabaseError as error:
        if not failures.is_temporary(error):
            raise
        log.warning("not verified: the database is away", sqlstate=failures.sqlstate(error))
    else:
        log.info(
            "verified",
            organizations=len(reports),
            clean=sum(report.is_clean for report in reports.values()),
            seconds=round(sum(report.took_s for report in reports.values()), 3),
        )
