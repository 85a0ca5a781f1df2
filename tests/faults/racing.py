"""Overdraft races beside the load and the faults, a few at a time until so many have been."""

import threading
import time

import httpx2
import races
from killing import System

from ledgermill.errors import LedgermillError
from ledgermill.usecases import organizations

AT_ONCE = 5


class Racing(threading.Thread):
    """Runs `rounds` races of 64 clients, spread over `seconds` from `start`, on an organization of their own."""

    def __init__(self, system: System, *, rounds: int, seconds: float) -> None:
        super().__init__(name="races")
        self.books = _open_books(system)
        self.rounds: list[races.Round] = []
        self.took_s = 0.0
        self.problem: BaseException | None = None
        self.is_over = threading.Event()
        self._planned, self._seconds = rounds, seconds

    def run(self) -> None:
        started = time.monotonic()
        try:
            while (count := len(self.rounds)) < self._planned:
                due_s = count / self._planned * self._seconds - (time.monotonic() - started)
                if self.is_over.wait(max(0.0, due_s)):
                    return
                report = races.race(self.books, rounds=min(AT_ONCE, self._planned - count), at_once=AT_ONCE)
                self.rounds += report.rounds
                self.took_s += report.took_s
        except (LedgermillError, httpx2.HTTPError, OSError, AssertionError) as problem:
            self.problem = problem

    @property
    def wrong(self) -> list[races.Round]:
        return [one for one in self.rounds if not one.is_right]


def _open_books(system: System) -> races.Books:
    with system.owner.engine.begin() as tx:
        organizations.create(tx, code="races", name="Races", base_currency="EUR", time_zone="UTC")
        key = organizations.create_key(
            tx, "races", name="races", scopes=["read", "post", "post:system", "ledgers"], expires_at=None
        )
    return races.Books(system.broker_url, system.api_url, key.secret, "races")
