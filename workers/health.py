"""A worker's sign of life: a file that its event loop touches (`ledgermill.observability.is_fresh` reads its age)."""

import os
from pathlib import Path
from typing import Any

from celery import bootsteps

from workers.unreadable import log

HEARTBEAT_FILE_VARIABLE = "LEDGERMILL_HEARTBEAT_FILE"
INTERVAL_S = 5.0


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Touches the file named by LEDGERMILL_HEARTBEAT_FILE every 5 s; off when that is unset.

    In the app: `app.steps["worker"].add(Heartbeat)`. The loop stands still while the worker has no broker, and so does
    the file.
    """

    requires = {"celery.worker.components:Hub", "celery.worker.components:Timer"}  # noqa: RUF012 - Celery's protocol

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        name = os.environ.get(HEARTBEAT_FILE_VARIABLE)
        self.path = Path(name) if name else None
        self.timer_entry: Any = None

    def start(self, worker: Any) -> None:
        if self.path is not None:
            worker.timer.call_after(0, touch, (self.path,))  # at the loop's first turn: then it takes messages
            self.timer_entry = worker.timer.call_repeatedly(INTERVAL_S, touch, (self.path,))

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's protocol
        if self.path is not None and self.timer_entry is not None:
            self.timer_entry.cancel()
            self.path.unlink(missing_ok=True)

    terminate = stop


def touch(path: Path) -> None:
    """Set the file's time to now. A full or missing disk makes the worker look dead, but does not stop it."""
    try:
        path.touch()
    except OSError as error:
        log.error("heartbeat file cannot be touched: %s", error.strerror)
