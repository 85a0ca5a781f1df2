"""The intake's watchdog: a worker whose pool answers nothing while messages wait is ended."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from workers import intake


class Ended(BaseException):
    """Stands for the end of the process."""


class Idle:
    """A consumer with a pool that takes work and never says a word again, or one that answers at once."""

    controller: Any = type("Controller", (), {"semaphore": None})
    event_dispatcher = None

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.pool = self
        self.num_processes = 1
        self.hub = self
        self.applied = 0

    def apply_async(self, _target: object, _args: object, *, callback: Any, **_options: object) -> None:
        self.applied += 1
        if self.answers:
            callback([])

    def call_later(self, *_: object) -> None:
        """As the hub's, which has no time to go on here."""


class Queue:
    """A watch of a queue that is never empty."""

    def look(self) -> None:
        """Nothing is to be heard."""

    def is_waiting(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(intake.time, "monotonic", lambda: now[0])
    return now


def step(monkeypatch: pytest.MonkeyPatch, *, answers: bool) -> intake.Intake:
    def ended(_pool: object) -> None:
        raise Ended

    monkeypatch.setattr(intake, "end_worker", ended)
    found = intake.Intake.__new__(intake.Intake)
    found.consumer, found.watches = Idle(answers=answers), {"posting": Queue()}
    found.draining, found.first, found.progressed_at = intake.Counter(), {}, intake.time.monotonic()
    found.gone = []
    return found


def test_a_worker_whose_pool_says_nothing_while_messages_wait_is_ended(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    silent = step(monkeypatch, answers=False)
    silent._look()
    clock[0] += intake.STUCK_AFTER * intake.settings().task_time_limit_s
    silent._look()
    assert silent.consumer.applied == 1  # its one process is thought to be at work

    clock[0] += 1
    with pytest.raises(Ended):
        silent._look()


def test_a_worker_that_goes_on_is_left_alone_however_long_the_queue(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    busy = step(monkeypatch, answers=True)
    for _ in range(100):
        busy._look()
        clock[0] += 10
    assert busy.consumer.applied == 100


def test_a_worker_that_finds_its_broker_again_after_long_is_not_ended_for_it(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    back = step(monkeypatch, answers=False)
    back.watches, back.queues, back.timers = {}, [], []
    clock[0] += 3_600
    back.register_with_event_loop(back.consumer, back.consumer)
    back.watches = {"posting": Queue()}  # type: ignore[dict-item]

    back._look()  # raises nothing

    assert back.consumer.applied == 1


def test_the_end_of_a_worker_takes_its_pool_with_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ends = (
        f"from workers.intake import end_worker; end_worker(type('P', (), {{'info': {{'processes': [{child.pid}]}}}}))"
    )

    ended = subprocess.run([sys.executable, "-c", ends], check=False, env=os.environ, capture_output=True)

    assert ended.returncode == intake.EXIT_STUCK
    assert child.wait(5) == -signal.SIGKILL
