"""How long the system takes to recover from each fault, and what it breaks meanwhile, watched from outside.

Faults overlap. A recovery counts for its kind if no fault of a higher limit came, or still lasted, before its end: that
one would have been measured instead. A disturbed recovery counts from when the disturbance was over, for itself, under
the higher limit. Faults of the same or a lower limit disturb nothing: what they add counts against each other.
A job that waits counts for the faults after its acceptance, up to the first that has a higher limit than those.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from hurting import Did
from killing import System

LOOK_EVERY_S = 0.1
LOOK_CLOSELY_EVERY_S = 2.0
GIVEN_UP_AFTER_S = 180.0
FOUND_AGAIN_WITHIN_S = 5.0  # clients of what was away may take that long to try it again

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

    Times are Unix times. From `back_at`, when what was taken away was there again, `took_s` counts. Until `lasts_until`
    something was missing, or may not have been found again.
    """

    kind: str
    at: float
    back_at: float
    lasts_until: float
    limit_s: float
    took_s: float

    @property
    def over_at(self) -> float:
        return self.back_at + self.took_s


@dataclass
class _Open:
    kind: str
    at: float
    back_at: float
    lasts_until: float
    limit_s: float
    floor: float  # what was accepted before belongs to an earlier fault of a higher limit, not recovered from yet


class Watch:
    """Looks at the books ten times a second from a thread of its own, on a connection that no fault of ours cuts."""

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

    def note(self, kind: str, did: Did, *, limit_s: float) -> None:
        """A fault happened."""
        with self._lock:
            floor = max((one.at for one in self._open if one.at < did.at and one.limit_s > limit_s), default=0.0)
            is_outage = did.back_at > did.at
            lasts_until = max(did.back_at + FOUND_AGAIN_WITHIN_S * is_outage, did.at + did.lasts_s)
            self._open.append(_Open(kind, did.at, did.back_at, lasts_until, limit_s, floor))

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
                    took_s = max(0.0, now - one.back_at)
                    self.recoveries.append(
                        Recovery(one.kind, one.at, one.back_at, one.lasts_until, one.limit_s, took_s)
                    )

    def _look_closely(self, connection: psycopg.Connection[Any]) -> None:
        (wrong,) = connection.execute(UNBALANCED).fetchone() or (0,)
        self.snapshots += 1
        if wrong:
            self.unbalanced.append((time.time(), wrong))
        (deadlocks,) = connection.execute(DEADLOCKS).fetchone() or (0,)
        self.deadlocks += max(0, deadlocks - self._deadlocks_seen)
        self._deadlocks_seen = deadlocks  # a crash of the server counts anew from 0


def sorted_out(recoveries: Sequence[Recovery]) -> tuple[list[Recovery], list[Recovery]]:
    """Those that nothing disturbed, and those that something did, as long as they took after that and under its limit."""
    undisturbed, disturbed = [], []
    for one in recoveries:
        by = [
            other
            for other in recoveries
            if other.limit_s > one.limit_s and other.at < one.over_at and other.lasts_until > one.at
        ]
        if by:
            since = max(one.back_at, *(other.lasts_until for other in by))
            limit_s = max(other.limit_s for other in by)
            disturbed.append(one._replace(took_s=max(0.0, one.over_at - since), limit_s=limit_s))
        else:
            undisturbed.append(one)
    return undisturbed, disturbed


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so much of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)] if ordered else 0.0
