"""The life of a worker process: its runtime is made after the fork and closed before the end."""

import gc
from typing import Any

from celery import signals

from ledgermill.config import settings
from ledgermill.observability import configure_logging
from ledgermill.runtime import Runtime
from workers.memory import return_large_buffers

GC_EVERY = 100_000  # new values

_runtime: Runtime | None = None


def runtime() -> Runtime:
    """The runtime of this process; made on first use where no pool has forked, as in tests."""
    global _runtime  # noqa: PLW0603 - one for each process, as Celery gives tasks no other place
    if _runtime is None:
        _runtime = Runtime(settings(), role="worker")
    return _runtime


def connect() -> None:
    """Follow Celery's signals."""
    signals.setup_logging.connect(_configure_logging)
    signals.worker_process_init.connect(_start)
    signals.worker_process_shutdown.connect(_stop)


def _configure_logging(**_: Any) -> None:
    configure_logging(level=settings().log_level, as_json=settings().log_format == "json")


def _start(**_: Any) -> None:
    global _runtime  # noqa: PLW0603 - see above
    # A batch makes some 20,000 small values that live for milliseconds. Python's default looks for cycles among them
    # every 700, which took a third of a posting worker's time.
    return_large_buffers()
    gc.freeze()
    gc.set_threshold(GC_EVERY)
    _runtime = Runtime(settings(), role="worker")


def _stop(**_: Any) -> None:
    if _runtime is not None:
        _runtime.close()
