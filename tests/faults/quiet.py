"""Whether anything waits anywhere: an accepted job, a message, a message that a worker took."""

import time

from killing import System
from psycopg import Error as DatabaseError
from redis import Redis, RedisError

TAKEN = "ledgermill:taken:posting"


def what_waits(system: System, *, timeout_s: float) -> str:
    """What still waits after so long; empty as soon as nothing does."""
    deadline = time.monotonic() + timeout_s
    while not _is_quiet(system):
        if time.monotonic() > deadline:
            return _what_waits(system)
        time.sleep(0.02)
    return ""


def _is_quiet(system: System) -> bool:
    try:
        with system.connect() as connection:
            (waiting,) = connection.execute("SELECT count(*) FROM ledgermill.inbox").fetchone() or (1,)
        with Redis.from_url(system.broker_url, socket_timeout=5) as client:
            return not waiting and not client.llen("posting") and not client.zcard(TAKEN)
    except (DatabaseError, RedisError):
        return False


def _what_waits(system: System) -> str:
    with system.connect() as connection:
        rows = connection.execute(
            "SELECT organization_id, batch_id, part, jobs, next_item, attempts, due_at, claimed_at, last_error, now() "
            "FROM ledgermill.inbox"
        ).fetchmany(5)
    with Redis.from_url(system.broker_url, socket_timeout=5) as client:
        taken = client.zrange(TAKEN, 0, 5, withscores=True)
        return f"inbox {rows}, queue {client.llen('posting')}, taken {taken}"
