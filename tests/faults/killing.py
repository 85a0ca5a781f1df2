"""A whole ledgermill on servers of its own, and the faults that kill it piece by piece."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import httpx2
from witness import open_books

from ledgermill.config import Settings, with_login
from ledgermill.embedded import ports, postgres, redis
from ledgermill.runtime import Runtime
from ledgermill.storage import migrations, roles

SAME_PORT_WITHIN_S = 5.0
LAST_PORT = 65_535  # beyond it any free port is taken, which no other test asks for meanwhile
POLL_S = 0.02


class Supervised:
    """A program that is started again as soon as it dies, as a host's supervisor would."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], home: Path) -> None:
        self.name, self.command, self.log, self.heartbeat = name, command, home / f"{name}.log", home / f"{name}.alive"
        self.environment = {**environment, "LEDGERMILL_HEARTBEAT_FILE": str(self.heartbeat)}
        self.starts = 0
        self._is_over = threading.Event()
        self.process = self._start()
        self._thread = threading.Thread(target=self._tend, name=f"supervisor of {name}")
        self._thread.start()

    @property
    def children(self) -> list[int]:
        try:
            found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return []
        return [int(pid) for pid in found]

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _tend(self) -> None:
        while not self._is_over.wait(0.05):
            if self.process.poll() is not None:
                self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        self.heartbeat.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)


class System:
    """PostgreSQL, Redis, the API, workers and beat, below one folder; `with` stops them all and deletes their data."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.programs: dict[str, Supervised] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def posting(self) -> Supervised:
        return self.programs["posting"]

    def stop_programs(self) -> None:
        with ThreadPoolExecutor(len(self.programs) or 1) as pool:
            list(pool.map(Supervised.stop, self.programs.values()))
        self.programs.clear()

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')}" for log in self.home.glob("*.log"))

    def _start(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            broker = pool.submit(redis.start, self.home, preferred_port=17380)
            database = pool.submit(postgres.start, self.home, preferred_port=16433)
        self.settings = _settings(database.result().url, broker.result().url, self.home)
        self.owner = Runtime(self.settings, role="owner")
        migrations.upgrade(self.owner.engine)
        with self.owner.engine.begin() as tx:
            roles.set_passwords(tx, dict.fromkeys(roles.LOGINS, "killing"))
        self.api_key = open_books(self.owner)
        self.api_url = f"http://127.0.0.1:{self.settings.api_port}"
        self._start_programs()
        wait_until(self._is_ready, timeout_s=30, what="the system is ready")

    def _start_programs(self) -> None:
        celery = ("celery", "-A", "workers.app")
        worker = ("worker", "--without-gossip", "--without-mingle", "-Q")
        commands: dict[str, Sequence[str]] = {
            "api": (
                *("granian", "--interface", "asgi", "--factory", "--no-ws", "--host", self.settings.api_host),
                *("--port", str(self.settings.api_port), "ledgermill.api.app:create_app"),
            ),
            "posting": (*celery, *worker, "posting", "-c", "2", "-n", "posting@%h"),
            "maintenance": (*celery, *worker, "maintenance", "-c", "1", "-n", "maintenance@%h"),
            "beat": (*celery, "beat", "-s", str(self.home / "beat.schedule")),
        }
        for name, command in commands.items():
            self.programs[name] = Supervised(
                name, [sys.executable, "-m", *command], _environment(self.settings), self.home
            )

    def _is_ready(self) -> bool:
        try:
            answer = httpx2.get(f"{self.api_url}/readyz", timeout=1)
        except httpx2.HTTPError:
            return False
        return answer.is_success and all(self.programs[name].heartbeat.exists() for name in ("posting", "maintenance"))

    def _stop(self) -> None:
        self.stop_programs()
        if "owner" in self.__dict__:
            self.owner.close()
        redis.discard(self.home)
        postgres.discard(self.home)


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_S)


def _settings(database_url: str, broker_url: str, home: Path) -> Settings:
    logins = (("worker", roles.WORKER), ("api", roles.API), ("read_only", roles.READ_ONLY))
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        ledgermill_home=home / "home",
        api_port=ports.next_free(LAST_PORT + 1),
        sweep_every_s=1,
        visibility_timeout_s=8,
        task_time_limit_s=6,
        log_format="text",
        **{f"{name}_database_url": with_login(database_url, user=login, password="killing") for name, login in logins},
    )


def _environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": settings.url_of("owner"),
        "WORKER_DATABASE_URL": settings.url_of("worker"),
        "API_DATABASE_URL": settings.url_of("api"),
        "READ_ONLY_DATABASE_URL": settings.url_of("readonly"),
        "BROKER_URL": settings.broker_url.get_secret_value(),
        "LEDGERMILL_HOME": str(settings.home),
        "SWEEP_EVERY_S": str(settings.sweep_every_s),
        "VISIBILITY_TIMEOUT_S": str(settings.visibility_timeout_s),
        "TASK_TIME_LIMIT_S": str(settings.task_time_limit_s),
        "LOG_FORMAT": "text",
    }


class Fault(NamedTuple):
    """What is done, and when, counted from the first publish."""

    what: str
    at_s: float


def plan_faults(chance: random.Random, *, within_s: float) -> list[Fault]:
    """20 pool children and 3 whole workers killed, Redis emptied once, PostgreSQL crashed once.

    Redis goes while a worker starts again, and takes with it what nobody has taken yet.
    """
    kinds = ["child"] * 20 + ["worker"] * 2 + ["worker and redis", "postgres"]
    chance.shuffle(kinds)
    pauses = [chance.uniform(0.3, 1.7) for _ in kinds]
    found, at_s = [], 0.0
    for kind, pause in zip(kinds, pauses, strict=True):
        at_s += pause * within_s / sum(pauses)
        first, _, second = kind.partition(" and ")
        found += [Fault(first, at_s)] + ([Fault(second, at_s + 0.7)] if second else [])
    return found


@dataclass
class Faults:
    """Does to a system what the plan says, and counts what was done."""

    system: System
    chance: random.Random
    plan: Sequence[Fault]
    done: Counter[str] = field(default_factory=Counter)
    at_work: int = 0  # pool children that were killed while they worked

    def run(self) -> None:
        started = time.monotonic()
        for fault in self.plan:
            time.sleep(max(0.0, started + fault.at_s - time.monotonic()))
            getattr(self, f"_{fault.what}")()
            self.done[fault.what] += 1

    def _child(self) -> None:
        """Most often one that works just now, for an idle one has nothing to lose.

        None of a worker that only starts: Celery then gives up as a whole, which is another fault of the plan.
        """
        posting = self.system.posting
        wait_until(posting.heartbeat.exists, timeout_s=20, what="the worker takes messages")
        prefer_busy_until = time.monotonic() + self.chance.choice([0.0, 1.0, 1.0, 1.0])
        deadline = time.monotonic() + 20
        turns_before: dict[int, int] = {}
        while True:
            assert time.monotonic() < deadline, "no pool child for 20 s"
            turns = {pid: _turns(pid) for pid in posting.children}
            busy = [pid for pid in turns if turns[pid] > turns_before.get(pid, turns[pid])]
            turns_before = turns
            if busy or (turns and time.monotonic() > prefer_busy_until):
                time.sleep(self.chance.uniform(0, 0.03) if busy else 0)
                if _kill(self.chance.choice(busy or list(turns))):
                    self.at_work += bool(busy)
                    return
            time.sleep(0.002)

    def _worker(self) -> None:
        """The main process and its children, as the end of a container does."""
        posting = self.system.posting
        starts, children = posting.starts, posting.children
        posting.process.kill()
        for pid in children:
            _kill(pid)
        wait_until(lambda: posting.starts > starts, timeout_s=5, what="the worker is started again")

    def _redis(self) -> None:
        home, port = self.system.home, self._port_of_redis()
        redis.wipe(home)
        wait_until(lambda: ports.is_free(port), timeout_s=SAME_PORT_WITHIN_S, what="Redis' port is free again")
        server = redis.start(home)
        assert server.port == port

    def _postgres(self) -> None:
        server = postgres.running(self.system.home)
        assert server is not None
        postgres.stop(self.system.home, mode="immediate")
        time.sleep(self.chance.uniform(0.1, 1.0))
        wait_until(lambda: ports.is_free(server.port), timeout_s=SAME_PORT_WITHIN_S, what="PostgreSQL's port is free")
        assert postgres.start(self.system.home).port == server.port

    def _port_of_redis(self) -> int:
        server = redis.running(self.system.home)
        assert server is not None
        return server.port


def _turns(pid: int) -> int:
    """How often a process has waited for something: a pool child without work waits but once."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) if "\nvoluntary" in status else 0


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
