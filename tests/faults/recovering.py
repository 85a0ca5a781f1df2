"""How long the system takes to recover from each fault, and what it breaks meanwhile, watched from outside."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from killing import System

LOOK_EVERY_S = 0.1
LOOK_CLOSELY_EVERY_S = 2.0
GIVEN_UP_AFTER_S = 180.0

# What waits of accepted jobs, and when something was last posted.
STATE = """
    SELECT extract(epoch FROM last_booked_at)::float8,
           (SELECT coalesce(array_agg(DISTINCT extract(epoch FROM accepted_at)::float8), '{}')
            FROM ledgermill.inbox WHERE organization_id = 1 AND part = 0)  -- other parts wait for a time of their own
    FROM ledgermill.posting_lock WHERE organization_id = 1
"""
# In one snapshot, as any client could see it at any moment: a head is the sum of its children, debits equal credits.
UNBALANCED = """
    SELECT count(*) FILTER (WHERE children.ledgers > 0 AND (b.debits, b.credits) <> (children.debits, children.credits))
           + (sum(b.debits) FILTER (WHERE l.parent_id IS NULL)
              <> sum(b.credits) FILTER (WHERE l.parent_id IS NULL))::int
    FROM ledgermill.ledger l
    JOIN ledgermill.balance b USING (organization_id, ledger_id)
    CROSS JOIN LATERAL (
        SELECT count(*) AS ledgers, sum(c.debits) AS debits, sum(c.credits) AS credits
        FROM ledgermill.ledger k JOIN ledgermill.balance c USING (organization_id, ledger_id)
        WHERE k.organization_id = l.organization_id AND k.parent_id = l.ledger_id
    ) AS children
    WHERE l.organization_id = 1
"""
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


class Recovery(NamedTuple):
    """A fault and how long the system took: until jobs accepted before it were settled, and something was posted.

    Times are Unix times; `back_at` is when what was taken away was there again, and from there `took_s` counts.
    """

    kind: str
    at: float
    back_at: float
    took_s: float


@dataclass
class _Open:
    kind: str
    at: float
    back_at: float
    floor: float  # what was accepted before belongs to an earlier fault, that is still being recovered from


class Watch:
    """Looks at the books ten times a second from a thread of its own, on a connection that no fault of ours cuts.

    A job that waits counts for the first fault after its acceptance.
    """

    def __init__(self, system: System) -> None:
        self.recoveries: list[Recovery] = []
        self.unbalanced: list[tuple[float, int]] = []
        self.deadlocks = 0
        self.snapshots = 0
        self._open: list[_Open] = []
        self._lock = threading.Lock()
        self._system = system
        self._is_over = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._deadlocks_seen = 0
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()

    def note(self, kind: str, *, at: float, back_at: float) -> None:
        """A fault happened."""
        with self._lock:
            floor = max((one.at for one in self._open if one.at < at), default=0.0)
            self._open.append(_Open(kind, at, back_at, floor))

    @property
    def unrecovered(self) -> int:
        return len(self._open)

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _run(self) -> None:
        next_close_look = 0.0
        while not self._is_over.wait(LOOK_EVERY_S):
            try:
                if self._connection is None:
                    self._connection = self._system.connect()
                asked_at = time.time()
                row = self._connection.execute(STATE).fetchone()
                assert row is not None
                self._judge(asked_at, row[0] or 0.0, row[1])
                if time.monotonic() > next_close_look:
                    self._look_closely(self._connection)
                    next_close_look = time.monotonic() + LOOK_CLOSELY_EVERY_S
            except psycopg.Error:  # the server is down, which is a fault of the plan
                if self._connection is not None:
                    self._connection.close()
                self._connection = None

    def _judge(self, now: float, booked_at: float, waiting: Sequence[float]) -> None:
        with self._lock:
            for one in list(self._open):
                is_over = booked_at > one.back_at and not any(one.floor < moment <= one.at for moment in waiting)
                if is_over or now - one.back_at > GIVEN_UP_AFTER_S:
                    self._open.remove(one)
                    self.recoveries.append(Recovery(one.kind, one.at, one.back_at, max(0.0, now - one.back_at)))

    def _look_closely(self, connection: psycopg.Connection[Any]) -> None:
        (wrong,) = connection.execute(UNBALANCED).fetchone() or (0,)
        self.snapshots += 1
        if wrong:
            self.unbalanced.append((time.time(), wrong))
        (deadlocks,) = connection.execute(DEADLOCKS).fetchone() or (0,)
        self.deadlocks += max(0, deadlocks - self._deadlocks_seen)
        self._deadlocks_seen = deadlocks  # a crash of the server counts anew from 0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so much of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)] if ordered else 0.0
