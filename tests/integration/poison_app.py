"""The worker with jobs that it cannot survive: the first word of a job's key says what it does to the process.

With TEST_BAD_RELEASE set, every job does that: a release with a bug.
"""

import ctypes
import os
import signal
import time
from typing import Any

from ledgermill.usecases import posting, soundness
from workers.app import app
from workers.lifecycle import runtime

__all__ = ["app"]

DEADLY = ("kill", "segfault", "bug", "memory", "recursion", "loop")
BAD = os.environ.get("TEST_BAD_RELEASE")
if os.environ.get("TEST_RELEASE"):
    soundness.release = lambda: os.environ["TEST_RELEASE"]

soundness.CANARY_EVERY_S = 1.0
write = posting._write


def dig(depth: int) -> int:
    return dig(depth + 1) + 1


def meet(what: str) -> None:
    match what:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "bug":
            raise RuntimeError("nobody foresaw this")
        case "memory":
            raise MemoryError
        case "recursion":
            dig(0)
        case "loop":
            while True:
                pass


def poisoned(*arguments: Any, **named: Any) -> Any:
    plan = next(one for one in arguments if hasattr(one, "posted"))
    for job in plan.posted:
        what = BAD or str(job.idempotency_key).partition("-")[0]
        if what in DEADLY:
            runtime().broker.redis.hincrby("test:met", str(job.idempotency_key), 1)
            meet(what)
    return write(*arguments, **named)


posting._write = poisoned

settle = posting.settle


def dawdling(*arguments: Any, **named: Any) -> Any:
    """Before its transaction, the first process that has such a job stands still for a moment, and says so."""
    keys = [request.idempotency_key for work in arguments[2] for request in work.batch.requests]
    if "slow" in keys and runtime().broker.redis.set("test:slow", os.getpid(), nx=True):
        time.sleep(1.5)
    return settle(*arguments, **named)


posting.settle = dawdling
