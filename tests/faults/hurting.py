"""What faults of all subjects share: what one did, and the scene where several of them happen at once."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

from killing import Supervised, System


class Did(NamedTuple):
    """What a fault did: when it began, when what it took away was back, how often (0: it found nothing to do).

    `lasts_s` counts from the beginning, where something is missing for longer though jobs need not wait for it.
    """

    at: float
    back_at: float
    times: int = 1
    note: str = ""
    lasts_s: float = 0.0


class Scene:
    """A system, the workers that stand still in it, what is to end later, and what was found that must not be.

    Safe to use from any thread. Faults run `with scene.together`; one that judges how a program ends of itself runs
    `with scene.alone()`, when nothing of others lasts.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.findings: list[str] = []
        self.standing: set[str] = set()
        self.killed_at_work = 0
        self.lease_s = float(system.settings.visibility_timeout_s)
        self.together = threading.RLock()  # of those that hurt programs
        self._later: list[threading.Timer] = []

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Held from when all that was to end later has ended."""
        with self.together:
            self.end()
            yield

    def after(self, pause_s: float, act: Callable[[], object]) -> None:
        self._later = [timer for timer in self._later if timer.is_alive()]
        timer = threading.Timer(pause_s, act)
        self._later.append(timer)
        timer.start()

    def end(self) -> None:
        """Wait until what still lasts is over."""
        for timer in list(self._later):
            timer.join()

    def stand(self, worker: Supervised, *, for_s: float, then: Callable[[], object]) -> None:
        """That worker is left alone for so long, and then goes on by `then`."""
        self.standing.add(worker.name)

        def go_on() -> None:
            then()
            self.standing.discard(worker.name)

        self.after(for_s, go_on)

    def a_worker(self, chance: Random) -> Supervised:
        """One that takes messages, if there is one."""
        posting = self.system.posting
        within(20, lambda: any(worker.is_up for worker in posting))
        moving = [worker for worker in posting if worker.name not in self.standing] or posting
        return chance.choice([worker for worker in moving if worker.is_up] or moving)


class Hurting:
    """Faults of one subject: each is a method without arguments that returns what it `Did`."""

    def __init__(self, scene: Scene, chance: Random) -> None:
        self.scene, self.system, self.chance = scene, scene.system, chance


def within(timeout_s: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
