"""Bad messages that are pushed beside the load, so many a second."""

import threading
import time

import redis
import rubbish
from killing import System
from witness import ORGANIZATION

MOST_AT_ONCE = 200


class Polluting(threading.Thread):
    """Pushes `count` bad messages by seed, spread over `seconds` from `start`. What a wiped Redis loses is not missed."""

    def __init__(self, system: System, *, seed: int, count: int, seconds: float) -> None:
        super().__init__(name="rubbish")
        self.pushed: list[rubbish.Rubbish] = []
        self.problem: BaseException | None = None
        self.is_over = threading.Event()
        self._system, self._per_s = system, count / seconds
        self._bad = rubbish.make(seed, count, organization=ORGANIZATION)

    def run(self) -> None:
        started = time.monotonic()
        try:
            with redis.Redis.from_url(self._system.broker_url, socket_timeout=5) as client:
                while not self.is_over.wait(0.5):
                    due = int(self._per_s * (time.monotonic() - started)) - len(self.pushed)
                    self._push(client, min(due, MOST_AT_ONCE))
        except BaseException as problem:  # noqa: BLE001 - told by whoever awaits this thread
            self.problem = problem

    def _push(self, client: redis.Redis, most: int) -> None:
        some = [one for _, one in zip(range(most), self._bad, strict=False)]
        try:
            if some:
                client.lpush("posting", *(one.raw for one in some))
        except redis.RedisError:
            return
        self.pushed += [one._replace(raw=b"") for one in some]

    def look(self) -> dict[str, int]:
        """At the end: how many were pushed, were posted (none must be), and are recorded nowhere."""
        system = self._system
        with redis.Redis.from_url(system.broker_url, socket_timeout=5) as client:
            missing = rubbish.missing(rubbish.Pushed(self.pushed, 0), system.owner.engine, client)
        applied = len(rubbish.applied(system.owner.engine))
        return {"pushed": len(self.pushed), "applied": applied, "not_found": len(missing)}
