"""Faults of PostgreSQL: its sessions, its backends, the server; what is missing is back when it answers."""

import signal
import time

import psycopg
from hurting import Did, Hurting, within
from killing import send, wait_until

from ledgermill.embedded import ports, postgres

PORT_FREE_WITHIN_S = 10.0
WORKERS = "usename = 'ledgermill_worker' AND datname = 'ledgermill'"


class Postgres(Hurting):
    def backend_ended(self) -> Did:
        """pg_terminate_backend for one or all connections of the workers (57P01)."""
        return self._to_backends("pg_terminate_backend(pid)", most=self.chance.choice([1, 1, 1, 20]))

    def statement_cancelled(self) -> Did:
        """pg_cancel_backend for what the workers do: what a statement timeout does too (57014)."""
        return self._to_backends("pg_cancel_backend(pid)", most=20)

    def _to_backends(self, act: str, *, most: int) -> Did:
        found: list[object] = []

        def is_done() -> bool:
            found.extend(
                connection.execute(
                    f"SELECT {act} FROM (SELECT pid FROM pg_stat_activity WHERE {WORKERS}"
                    f" ORDER BY state = 'idle', random() LIMIT {most}) AS chosen"
                ).fetchall()
            )
            return bool(found)

        with self._superuser() as connection:
            within(5, is_done)  # workers that could do nothing for a while have no sessions
            at = time.time()
        return Did(at, at, len(found))

    def backend_killed(self) -> Did:
        """SIGKILL to a worker's backend: PostgreSQL then ends all sessions and recovers."""
        with self._superuser() as connection:
            row = connection.execute(f"SELECT pid FROM pg_stat_activity WHERE {WORKERS} ORDER BY random()").fetchone()
        at = time.time()
        if row is None or not send(int(str(row[0])), signal.SIGKILL):
            return Did(at, at, 0)
        time.sleep(0.1)
        wait_until(self._postgres_answers, timeout_s=60, what="PostgreSQL recovers")
        return Did(at, time.time())

    def postgres_crash(self) -> Did:
        """The server killed as by a loss of power, and started again."""
        return self._postgres_again("immediate")

    def postgres_restart(self) -> Did:
        """The server restarted in order, which ends all sessions."""
        return self._postgres_again("fast")

    def _postgres_again(self, mode: str) -> Did:
        server = postgres.running(self.system.home)
        assert server is not None
        at = time.time()
        postgres.stop(self.system.home, mode=mode)  # type: ignore[arg-type]
        time.sleep(self.chance.uniform(0.1, 1.0))
        wait_until(lambda: ports.is_free(server.port), timeout_s=PORT_FREE_WITHIN_S, what="PostgreSQL's port is free")
        assert postgres.start(self.system.home).port == server.port
        return Did(at, time.time())

    def _postgres_answers(self) -> bool:
        try:
            with self.system.connect() as connection:
                return connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
        except psycopg.Error:
            return False

    def _superuser(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.system.postgres.superuser_url, autocommit=True, connect_timeout=3)

    def lock_held(self) -> Did:
        """Somebody else holds the organization's lock longer than the lock timeout (55P03)."""
        with self.system.connect() as connection, connection.transaction():
            connection.execute("SELECT FROM ledgermill.posting_lock WHERE organization_id = 1 FOR UPDATE")
            at = time.time()
            time.sleep(self.chance.uniform(2.2, 4))
        return Did(at, time.time())
