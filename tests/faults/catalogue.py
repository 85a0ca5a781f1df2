"""The faults: what each does to a system, and how many of them a run of 40 minutes has."""

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
import redis as redis_library
from failpoints import POINTS, Action, Failpoints
from killing import Supervised, System, send, turns, wait_until

from ledgermill.embedded import ports, postgres, redis

PORT_FREE_WITHIN_S = 10.0
WORKERS = "usename = 'ledgermill_worker' AND datname = 'ledgermill'"


class Did(NamedTuple):
    """What a fault did: when it began, when what it took away was back, how often (0: it found nothing to do)."""

    at: float
    back_at: float
    times: int = 1
    note: str = ""


class Findings(list[str]):
    """What must not be, said in a sentence each; safe to add to from any thread."""


class Faults:
    """The ways to hurt a system. Each is a method without arguments that returns what it `Did`.

    What is to end later (a process that stands still goes on, a delay is lifted) ends by itself, and by `end`.
    """

    def __init__(self, system: System, chance: random.Random, points: Failpoints | None) -> None:
        self.system, self.chance, self.points = system, chance, points
        self.findings = Findings()
        self.killed_at_work = 0
        self._later: list[threading.Timer] = []
        self._standing: set[str] = set()  # workers that stand still
        self._lease_s = float(system.settings.visibility_timeout_s)

    def end(self) -> None:
        """Wait until what still lasts is over."""
        for timer in self._later:
            timer.join()
        if self.points is not None:
            self.points.disarm()
        for proxy in (self.system.postgres_proxy, self.system.redis_proxy):
            proxy.calm()

    def _after(self, pause_s: float, act: Callable[[], object]) -> None:
        self._later = [timer for timer in self._later if timer.is_alive()]
        timer = threading.Timer(pause_s, act)
        self._later.append(timer)
        timer.start()

    # Processes

    def child(self) -> Did:
        """SIGKILL to a pool process, most often one that works just now: an idle one has nothing to lose."""
        worker = self._a_worker()
        prefer_busy_until = time.monotonic() + self.chance.choice([0.0, 1.0, 1.0, 1.0])
        deadline = time.monotonic() + 10
        before: dict[int, int] = {}
        while time.monotonic() < deadline:
            now = {pid: turns(pid) for pid in worker.children}
            busy = [pid for pid in now if now[pid] > before.get(pid, now[pid])]
            before = now
            if worker.is_up and (busy or (now and time.monotonic() > prefer_busy_until)):
                time.sleep(self.chance.uniform(0, 0.03) if busy else 0)
                at = time.time()
                if send(self.chance.choice(busy or list(now)), signal.SIGKILL):
                    self.killed_at_work += bool(busy)
                    return Did(at, at, note=f"{worker.name}{' at work' if busy else ''}")
            time.sleep(0.004)
        return Did(time.time(), time.time(), 0, "no pool process for 10 s")

    def worker(self) -> Did:
        """SIGKILL to a whole worker; half the time to its main process only: its children must end by themselves."""
        worker = self._a_worker()
        main, children, starts = worker.process.pid, worker.children, worker.starts
        worker.means_to_end(within_s=5)
        at = time.time()
        send(main, signal.SIGKILL)
        if self.chance.random() < 0.5:
            for pid in children:
                send(pid, signal.SIGKILL)
        else:
            self._after(15, lambda: self._require_gone(children, worker.name))
        wait_until(lambda: worker.starts > starts, timeout_s=10, what="the worker is started again")
        return Did(at, at, note=worker.name)

    def _require_gone(self, pids: list[int], name: str) -> None:
        for pid in pids:
            with suppress(OSError):
                if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    self.findings.append(f"pool process {pid} of {name} lives 15 s after its worker was killed")

    def api(self) -> Did:
        """SIGKILL to the API server and its processes."""
        api = self.system.programs["api"]
        children, starts = api.children, api.starts
        api.means_to_end(within_s=5)
        at = time.time()
        for pid in (api.process.pid, *children):
            send(pid, signal.SIGKILL)
        wait_until(lambda: api.starts > starts, timeout_s=10, what="the API is started again")
        return Did(at, time.time())

    def sweeper(self) -> Did:
        """SIGKILL to the maintenance worker or to beat."""
        program = self.system.programs[self.chance.choice(["maintenance", "beat"])]
        program.means_to_end(within_s=5)
        at = time.time()
        for pid in (program.process.pid, *program.children):
            send(pid, signal.SIGKILL)
        return Did(at, at, note=program.name)

    def rolling_restart(self) -> Did:
        """SIGTERM to one worker after the other; each must end by itself, with success, within the grace of 30 s."""
        at = time.time()
        for worker in self.system.posting:
            if worker.name in self._standing or not _within(20, lambda worker=worker: worker.is_up):  # type: ignore[misc]
                continue
            main, starts = worker.process.pid, worker.starts
            before = len(worker.exits)
            worker.means_to_end(within_s=60)
            send(main, signal.SIGTERM)
            if not _within(40, lambda: worker.starts > starts):  # noqa: B023 - called at once
                self.findings.append(f"{worker.name} did not end within 40 s of SIGTERM")
                continue
            code = worker.exits[before].code
            worker.meant_until = 0.0
            if code != 0:
                self.findings.append(f"{worker.name} ended with {code} after SIGTERM")
            _within(30, lambda: worker.is_up)  # noqa: B023
        return Did(at, time.time(), len(self.system.posting))

    def standstill(self) -> Did:
        """SIGSTOP to a worker with its children for longer than its lease, then SIGCONT: it must commit nothing stale."""
        worker = self._a_worker()
        pids = [*worker.children, worker.process.pid]
        for_s = self._lease_s + self.chance.uniform(1, 6)
        worker.means_to_end(within_s=for_s + 20)  # it may find that it was replaced, and end
        at = time.time()
        for pid in pids:
            send(pid, signal.SIGSTOP)
        self._standing.add(worker.name)

        def go_on() -> None:
            for pid in reversed(pids):
                send(pid, signal.SIGCONT)
            self._standing.discard(worker.name)

        self._after(for_s, go_on)
        return Did(at, at, note=f"{worker.name} for {for_s:.0f} s")

    def failpoint(self, name: str) -> Did:
        """A process dies, fails, sleeps or stands still at a named point of the code."""
        assert self.points is not None
        point = POINTS[name]
        actions: list[Action] = [*point.actions, *(["kill"] * 3 if "kill" in point.actions else [])]
        action = self.chance.choice(actions)
        for program in self.system.programs.values():
            if program.name.startswith(point.programs):
                program.means_to_end(within_s=25 if action in {"kill", "stop"} else 0)
        self.points.arm(name, action=action, nth=self.chance.choice([1, 1, 2, 3]))
        armed_at = time.time()
        fired = self.points.wait(timeout_s=8)
        at = time.time()
        if fired is None:
            self.points.disarm()
            return Did(armed_at, at, 0, f"{action}: nobody came")
        back_at = at
        if fired.stopped:
            for_s = self.chance.choice([1.0, 3.0, self._lease_s + 2])
            self._after(for_s, lambda: self.points and self.points.resume(fired))
            if point.programs == ("api",):
                back_at += for_s
        return Did(at, back_at, note=action)

    # PostgreSQL

    def backend_ended(self) -> Did:
        """pg_terminate_backend for one or all connections of the workers (57P01)."""
        return self._to_backends("pg_terminate_backend(pid)", most=self.chance.choice([1, 1, 1, 20]))

    def statement_cancelled(self) -> Did:
        """pg_cancel_backend for what the workers do: what a statement timeout does too (57014)."""
        return self._to_backends("pg_cancel_backend(pid)", most=20)

    def _to_backends(self, act: str, *, most: int) -> Did:
        with self._superuser() as connection:
            at = time.time()
            done = connection.execute(
                f"SELECT {act} FROM (SELECT pid FROM pg_stat_activity WHERE {WORKERS}"
                f" ORDER BY state = 'idle', random() LIMIT {most}) AS chosen"
            ).fetchall()
        return Did(at, at, len(done))

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

    # Redis

    def redis_killed(self) -> Did:
        """SIGKILL; it starts again from its append-only file, which lacks up to a second."""
        at = time.time()
        redis.stop(self.system.home, save=False)
        return self._redis_again(at)

    def redis_shut_down(self) -> Did:
        """SHUTDOWN NOSAVE, and all data deleted before it starts again."""
        at = time.time()
        with self._redis() as client, suppress(redis_library.ConnectionError):
            client.shutdown(nosave=True)
        redis.wipe(self.system.home)
        return self._redis_again(at)

    def redis_flushed(self) -> Did:
        """FLUSHALL."""
        with self._redis() as client:
            at = time.time()
            client.flushall()
        return Did(at, at)

    def redis_read_only(self) -> Did:
        """It refuses all writes for some seconds, as a replica after a fail-over."""
        with self._redis() as client:
            at = time.time()
            client.replicaof("127.0.0.1", 9)
            time.sleep(self.chance.uniform(1, 4))
            client.replicaof("NO", "ONE")
        return Did(at, time.time())

    def redis_full(self) -> Did:
        """maxmemory is reached for some seconds: it refuses whatever needs memory."""
        with self._redis() as client:
            at = time.time()
            client.config_set("maxmemory", 1)
            time.sleep(self.chance.uniform(1, 4))
            client.config_set("maxmemory", 0)
        return Did(at, time.time())

    def _redis(self) -> redis_library.Redis:
        return redis_library.Redis.from_url(self.system.broker_url, socket_timeout=5)

    def _redis_again(self, at: float) -> Did:
        port = self.system.redis.port
        wait_until(lambda: ports.is_free(port), timeout_s=PORT_FREE_WITHIN_S, what="Redis' port is free again")
        time.sleep(self.chance.choice([0.0, 0.0, 1.0, 3.0]))
        assert redis.start(self.system.home).port == port
        return Did(at, time.time())

    # Connections of the API and of one worker, by the proxies

    def commit_unanswered(self) -> Did:
        """The answer to a COMMIT of that worker is lost; every third time that to an acceptance by the API."""
        proxy = self.system.postgres_proxy
        before = proxy.counts["swallowed"]
        accepts = self.chance.random() < 0.33
        proxy.swallow_answer("SELECT * FROM ledgermill_api.accept_jobs" if accepts else "COMMIT")
        found = _within(6, lambda: proxy.counts["swallowed"] > before)
        at = time.time()
        if not found:
            proxy.calm()
        return Did(at, at, int(found), "acceptance" if accepts else "COMMIT")

    def connections_reset(self) -> Did:
        """RST on all connections of the API and that worker to PostgreSQL, or of the worker to Redis."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        at = time.time()
        return Did(at, at, proxy.reset())

    def cut_in_message(self) -> Did:
        """RST in the middle of what a client sends."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        before = proxy.counts["cut_after"]
        proxy.cut_after(self.chance.randint(1, 20_000))
        found = _within(5, lambda: proxy.counts["cut_after"] > before)
        at = time.time()
        if not found:
            proxy.calm()
        return Did(at, at, int(found))

    def silence(self) -> Did:
        """Nothing goes through to PostgreSQL or Redis for some seconds, and nothing is closed."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        for_s = self.chance.uniform(2, 12)
        at = time.time()
        proxy.blackhole(for_s)
        time.sleep(for_s)
        return Did(at, time.time(), note=f"{for_s:.0f} s")

    def half_open(self) -> Did:
        """The open connections hang for ever; new ones work."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        at = time.time()
        return Did(at, at, proxy.half_open())

    def slow(self) -> Did:
        """Every answer takes 0.2 s longer for some seconds."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        at = time.time()
        proxy.delay(0.1)
        time.sleep(self.chance.uniform(2, 6))
        proxy.delay(0)
        return Did(at, time.time())

    def error_answered(self) -> Did:
        """PostgreSQL says that it is full, or busy: statements of that worker fail that never ran."""
        proxy = self.system.postgres_proxy
        before = proxy.counts["refused"]
        proxy.answer_error(
            self.chance.choice(["COMMIT", "COPY", "SELECT"]),
            sqlstate=self.chance.choice(["53100", "53300", "40001", "40P01", "57P03", "55P03"]),
            times=self.chance.choice([1, 3]),
        )
        found = _within(5, lambda: proxy.counts["refused"] > before)
        at = time.time()
        if not found:
            proxy.calm()
        return Did(at, at, int(found))

    def _a_worker(self) -> Supervised:
        """One that takes messages, if there is one."""
        posting = self.system.posting
        _within(20, lambda: any(worker.is_up for worker in posting))
        moving = [worker for worker in posting if worker.name not in self._standing] or posting
        return self.chance.choice([worker for worker in moving if worker.is_up] or moving)


class Kind(NamedTuple):
    """A fault of the catalogue.

    `count` is how many a run of 40 minutes has. A `kill` ends a process or a server's session for good. `limit_s` bounds
    the 99th percentile of its recovery. `waits`: the next fault comes when this one is recovered from; else, or by
    chance, while it is not.
    """

    count: int
    is_kill: bool = False
    is_cut: bool = False
    limit_s: float = 60.0
    waits: bool = True
    in_short: int = 1


CATALOGUE: Final[dict[str, Kind]] = {
    "child": Kind(620, is_kill=True, limit_s=10, in_short=12),
    "worker": Kind(60, is_kill=True, waits=False, in_short=2),
    "api": Kind(12, is_kill=True),
    "sweeper": Kind(12, is_kill=True, waits=False),
    "rolling_restart": Kind(6),
    "standstill": Kind(8, waits=False),
    "backend_ended": Kind(260, is_kill=True, in_short=3),
    "backend_killed": Kind(30, is_kill=True),
    "statement_cancelled": Kind(40),
    "postgres_crash": Kind(20, is_kill=True),
    "postgres_restart": Kind(6),
    "lock_held": Kind(8),
    "redis_killed": Kind(24, is_kill=True),
    "redis_shut_down": Kind(12, is_kill=True),
    "redis_flushed": Kind(12),
    "redis_read_only": Kind(6),
    "redis_full": Kind(6),
    "commit_unanswered": Kind(110, is_cut=True, in_short=3),
    "connections_reset": Kind(60, is_cut=True),
    "cut_in_message": Kind(60, is_cut=True),
    "silence": Kind(6),
    "half_open": Kind(8, is_cut=True),
    "slow": Kind(4),
    "error_answered": Kind(24),
    **{f"failpoint {name}": Kind(25, waits=False) for name in POINTS},
}


def deck(chance: random.Random, *, minutes: float | None) -> list[str]:
    """The faults of a run in the order of the seed: a share of the catalogue, or its short form."""
    found: list[str] = []
    for name, kind in CATALOGUE.items():
        found += [name] * (kind.in_short if minutes is None else max(1, round(kind.count * minutes / 40)))
    chance.shuffle(found)
    return found


def inject(faults: Faults, name: str) -> Did:
    if name.startswith("failpoint "):
        return faults.failpoint(name.removeprefix("failpoint "))
    did: Did = getattr(faults, name)()
    return did


def _within(timeout_s: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
