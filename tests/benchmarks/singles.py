"""Single messages: one journal in each, from foreign Celery producers, beside what stock Celery does with them."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import books
import noop_app
import system as system_
import usage
from celery import Celery
from posting import UNIFORM, WAITING, release
from system import System

from ledgermill import Producer
from ledgermill.messages import routes

WARMING_UP: Final = 0.05  # of the messages: the clock of the no-op starts once so many are gone
NO_OP_WITHIN_S: Final = 120
IN_A_PIPELINE: Final = 1_000


def measure(system: System, *, ours: int, no_ops: int, run: str) -> dict[str, float]:
    """The figures of one run, of so many messages of ours and of no-ops."""
    no_op = celery_no_op(system, no_ops, run)
    used = foreign(system, ours, run)
    calls = producer_calls(system, ours, run)
    return {
        "celery_noop_per_s": no_op,
        "single_journals_per_s": ours / used["seconds"],
        "single_over_noop": ours / used["seconds"] / no_op,
        "single_cpu_us": sum(used["cpu_s"].values()) / ours * 1e6,
        **calls,
    }


def celery_no_op(system: System, count: int, run: str) -> float:
    """Messages a second that a stock worker of one child takes from Redis and does nothing with, events off."""
    publish_as_celery_does(system, f"{run}-noop", count, task=noop_app.TASK, queue=noop_app.QUEUE)

    def left() -> int:
        return int(system.redis.llen(noop_app.QUEUE)) + int(system.redis.hlen("unacked"))

    command = [sys.executable, "-m", "celery", "-A", "noop_app", "worker", "-Q", noop_app.QUEUE, "-P", "prefork"]
    command += ["-c", "1", "-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    with system_.process(
        system, "noop", command, {"PYTHONPATH": path}, is_ready=lambda: left() <= count * (1 - WARMING_UP)
    ):
        started, waiting_then = time.perf_counter(), left()
        _wait(lambda: left() == 0)
        return waiting_then / (time.perf_counter() - started)


def foreign(system: System, count: int, run: str) -> dict[str, Any]:
    """What was used until messages of one journal each, in the queue before, were posted."""
    publish_as_celery_does(
        system, f"{run}-foreign", count, task=routes.POST_JOURNALS.task, queue=WAITING + routes.POSTING_QUEUE
    )
    before = system.posted(UNIFORM)
    with usage.watching(system) as used:
        release(system, routes.POSTING_QUEUE)
        system.wait_until_posted(before + count, UNIFORM)
    return used


def producer_calls(system: System, count: int, run: str) -> dict[str, float]:
    """One `post` for each journal, from the first call until all are posted; and until the last call returned."""
    journals, before = books.journals(f"{run}-calls", count), system.posted(UNIFORM)
    started = time.perf_counter()
    with usage.without_collector_pauses(), Producer(system.broker_url, UNIFORM) as producer:
        for journal in journals:
            producer.post(journal)
        called_s = time.perf_counter() - started
    system.wait_until_posted(before + count, UNIFORM)
    return {
        "producer_calls_per_s": count / (time.perf_counter() - started),
        "producer_returned_per_s": count / called_s,
    }


def publish_as_celery_does(system: System, name: str, count: int, *, task: str, queue: str) -> None:
    """Messages of one journal by a plain Celery app that knows nothing of ours, written in pipelines for speed."""
    app = Celery("shop", broker=system.broker_url, set_as_current=False)
    with app.producer_pool.acquire(block=True) as producer, producer.batch(IN_A_PIPELINE):
        for journal in books.journals(name, count):
            arguments = {"organization": UNIFORM, "journals": [journal]}
            app.send_task(task, kwargs=arguments, queue=queue, producer=producer)
    app.close()


def _wait(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + NO_OP_WITHIN_S
    while not is_done():
        if time.monotonic() > deadline:
            sys.exit(f"stock Celery did not finish within {NO_OP_WITHIN_S} s")
        time.sleep(system_.POLL_S)
