"""Tasks of the `maintenance` queue, which beat sends."""

from ledgermill.errors import Unavailable
from ledgermill.messages import routes
from ledgermill.observability import logger
from ledgermill.storage import failures
from ledgermill.usecases import quarantine, waiting
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
