"""A worker's sign of life: a file that its event loop touches, and the check of its age."""

import os
import time
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


def is_fresh(path: Path, *, max_age_s: float) -> bool:
    """Whether the worker that owns this file was alive within the last `max_age_s` seconds."""
    try:
        age_s = time.time() - path.stat().st_mtime
    except OSError:
        return False
    return abs(age_s) <= max_age_s  # a file from the future tells nothing
