"""Logs for machines and people: who did what to which batch; never amounts, never keys."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import structlog

PHASES = ("take", "read", "draft", "lock", "plan", "write", "commit", "ack")


def configure_logging(*, level: str, as_json: bool) -> None:
    """Send structlog's and the standard library's records to standard error, one line each."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose records carry facts as fields."""
    found: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return found


class Timings:
    """Seconds spent in each phase of a transaction."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += perf_counter() - started


def is_fresh(heartbeat: Path, *, max_age_s: float) -> bool:
    """Whether the process that touches this file was alive within the last `max_age_s` seconds."""
    try:
        age_s = time.time() - heartbeat.stat().st_mtime
    except OSError:
        return False
    return abs(age_s) <= max_age_s  # a file from the future tells nothing
