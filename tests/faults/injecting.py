"""The lanes of a run: each injects the faults of its deck one after the other, spread over the time that is given."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from catalogue import CATALOGUE
from hurting import Did, Scene
from recovering import Watch

TRIES_OF_A_FAULT = 4
SHARE_OF_TIME = 0.93  # the rest is for what comes later than planned


@dataclass
class Done:
    """One fault that was injected: when, counted in seconds from the start."""

    kind: str
    at_s: float
    out_s: float
    times: int
    note: str


class Lane(threading.Thread):
    """Injects `deck` within `seconds` from `start`; what finds nothing to do is tried again later, some times.

    Afterwards `done` says what happened, `left` what of the deck did not.
    """

    def __init__(
        self,
        name: str,
        deck: Sequence[str],
        faults: Mapping[str, Callable[[], Did]],
        *,
        scene: Scene,
        watch: Watch,
        chance: Random,
        seconds: float,
        log: Path,
    ) -> None:
        super().__init__(name=f"lane of {name}")
        self.done: list[Done] = []
        self.left: Counter[str] = Counter(deck)
        self.problem: BaseException | None = None
        self.is_over = threading.Event()
        self._deck, self._faults, self._log = list(deck), faults, log
        self._scene, self._watch, self._chance, self._seconds = scene, watch, chance, seconds
        self._tries: Counter[str] = Counter()

    def run(self) -> None:
        try:
            self._run()
        except BaseException as problem:  # noqa: BLE001 - told by whoever awaits this thread
            self.problem = problem

    def _run(self) -> None:
        started, wall = time.monotonic(), time.time()
        counts = dict(self.left)
        while self._deck and time.monotonic() - started < self._seconds:
            # As far into the time as into the deck, sooner or later by up to one fault.
            share = (len(self.done) + self._chance.random()) / (len(self.done) + len(self._deck))
            if self.is_over.wait(max(0.0, started + share * SHARE_OF_TIME * self._seconds - time.monotonic())):
                return
            name = self._deck.pop()
            did = self._inject(name)
            self.done.append(Done(name, did.at - wall, did.back_at - did.at, did.times, did.note))
            with self._log.open("a") as log:
                log.write(json.dumps(asdict(self.done[-1])) + "\n")
            if did.times:
                self.left[name] -= 1
                self._watch.note(name, did, limit_s=CATALOGUE[name].limit_s)
            elif self._tries[name] < TRIES_OF_A_FAULT * counts[name]:
                self._tries[name] += 1
                self._deck.insert(self._chance.randrange(len(self._deck) + 1), name)

    def _inject(self, name: str) -> Did:
        at = time.time()
        try:
            return self._faults[name]()
        except AssertionError as error:
            self._scene.findings.append(f"{name}: {error}")
            return Did(at, time.time(), 0, repr(error)[:200])
        except Exception as error:  # noqa: BLE001 - a fault may come while another one lasts: then it is tried again
            return Did(at, time.time(), 0, repr(error)[:200])
