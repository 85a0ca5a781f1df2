"""A whole ledgermill on servers of its own: programs that are started again when they die, and what they died of."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

import httpx2
import psycopg
from proxy import Proxy, through
from witness import open_books

from ledgermill.config import Settings, with_login
from ledgermill.embedded import ports, postgres, redis
from ledgermill.runtime import Runtime
from ledgermill.storage import migrations, roles

PROJECT = Path(__file__).parents[2]
LAST_PORT = 65_535  # beyond it any free port is taken, which no other test asks for meanwhile
POLL_S = 0.02
PAUSE_BEFORE_RESTART_S = 0.2
GRACE_S = 30
POSTING = ("posting-1", "posting-2")


class Exit(NamedTuple):
    """A program that ended: when (Unix time), how (as Popen tells), and whether a fault of ours meant it to."""

    program: str
    at: float
    code: int
    is_meant: bool


class Supervised:
    """A program that is started again as soon as it dies, as a host's supervisor would."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], home: Path) -> None:
        self.name, self.command, self.log, self.heartbeat = name, command, home / f"{name}.log", home / f"{name}.alive"
        self.environment = {**environment, "LEDGERMILL_HEARTBEAT_FILE": str(self.heartbeat)}
        self.starts = 0
        self.exits: list[Exit] = []
        self.meant: list[tuple[float, float]] = []  # from when to when an exit is a fault's doing
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

    @property
    def is_up(self) -> bool:
        """Whether it runs and, where it has a sign of life, has given it since it started."""
        return self.process.poll() is None and self.heartbeat.exists()

    def means_to_end(self, *, within_s: float, since: float | None = None) -> None:
        """From here on, or since then, for so long, an exit is no surprise."""
        start = since or time.time()
        self.meant.append((start, start + within_s))

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()
        for pid in (self.process.pid, *self.children):
            send(pid, signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _tend(self) -> None:
        while not self._is_over.wait(0.05):
            if (code := self.process.poll()) is not None:
                self.exits.append(Exit(self.name, time.time(), code, is_meant=False))
                self._is_over.wait(PAUSE_BEFORE_RESTART_S)
                self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        self.heartbeat.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log, cwd=PROJECT)


class System:
    """PostgreSQL, Redis, the API, two posting workers, maintenance and beat below one folder; `with` stops them all.

    The API and posting-2 reach PostgreSQL by way of `postgres_proxy`, posting-2 Redis by `redis_proxy`; the others go
    straight. `hasty` has short leases, where the product's own would make a short run wait most of its time.
    `worker_app` and `api_factory` name what Celery and the API server load; `environment` goes to all programs.
    """

    def __init__(
        self,
        home: Path,
        *,
        hasty: bool = True,
        worker_app: str = "workers.app",
        api_factory: str = "ledgermill.api.app:create_app",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home, self.hasty = home, hasty
        self.worker_app, self.api_factory = worker_app, api_factory
        self.environment = environment or {}
        self.programs: dict[str, Supervised] = {}
        self._stack = ExitStack()

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
    def posting(self) -> list[Supervised]:
        return [self.programs[name] for name in POSTING]

    @property
    def exits(self) -> list[Exit]:
        """In the order of time."""
        found = [
            one._replace(is_meant=any(start <= one.at <= end for start, end in program.meant))
            for program in self.programs.values()
            for one in program.exits
        ]
        return sorted(found, key=lambda one: one.at)

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """PostgreSQL as the owner of the tables, not by way of the proxy; each statement is a transaction."""
        return psycopg.connect(self.settings.url_of("owner"), autocommit=True, connect_timeout=3)

    def stop_programs(self) -> None:
        with ThreadPoolExecutor(len(self.programs) or 1) as pool:
            list(pool.map(Supervised.stop, self.programs.values()))

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')}" for log in self.home.glob("*.log"))

    def _start(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            # Apart from other runs, which may start a server while one of ours is down.
            broker = pool.submit(redis.start, self.home, preferred_port=random.randint(20_000, 25_000))
            database = pool.submit(postgres.start, self.home, preferred_port=random.randint(25_000, 30_000))
        self.postgres, self.redis = database.result(), broker.result()
        self.settings = _settings(self.postgres.url, self.redis.url, self.home, hasty=self.hasty)
        self.owner = Runtime(self.settings, role="owner")
        migrations.upgrade(self.owner.engine)
        with self.owner.engine.begin() as tx:
            roles.set_passwords(tx, dict.fromkeys(roles.LOGINS, "killing"))
        self.api_key = open_books(self.owner)
        self.api_url = f"http://127.0.0.1:{self.settings.api_port}"
        self.postgres_proxy = self._stack.enter_context(Proxy(self.postgres.port, speaks="postgres"))
        self.redis_proxy = self._stack.enter_context(Proxy(self.redis.port, speaks="redis"))
        self._start_programs()
        wait_until(self._is_ready, timeout_s=60, what="the system is ready")

    def _start_programs(self) -> None:
        celery = ("celery", "-A", self.worker_app)
        worker = ("worker", "--without-gossip", "--without-mingle", "-Q")
        commands: dict[str, Sequence[str]] = {
            "api": (
                *("granian", "--interface", "asgi", "--factory", "--no-ws", "--host", self.settings.api_host),
                *("--port", str(self.settings.api_port), self.api_factory),
            ),
            **{name: (*celery, *worker, "posting", "-c", "2", "-n", f"{name}@%h") for name in POSTING},
            "maintenance": (*celery, *worker, "maintenance", "-c", "1", "-n", "maintenance@%h"),
            "beat": (*celery, "beat", "-s", str(self.home / "beat.schedule")),
        }
        straight = _environment(self.settings) | self.environment
        for name, command in commands.items():
            roundabout = self._by_proxy(redis_too=name != "api") if name in {"api", "posting-2"} else {}
            self.programs[name] = Supervised(name, [sys.executable, "-m", *command], straight | roundabout, self.home)

    def _by_proxy(self, *, redis_too: bool) -> dict[str, str]:
        urls = {
            f"{role.upper()}_DATABASE_URL": through(self.settings.url_of(role), self.postgres_proxy)
            for role in ("worker", "api")
        }
        return urls | ({"BROKER_URL": through(self.broker_url, self.redis_proxy)} if redis_too else {})

    @property
    def broker_url(self) -> str:
        return self.settings.broker_url.get_secret_value()

    def _is_ready(self) -> bool:
        try:
            answer = httpx2.get(f"{self.api_url}/readyz", timeout=1)
        except httpx2.HTTPError:
            return False
        return answer.is_success and all(self.programs[name].heartbeat.exists() for name in (*POSTING, "maintenance"))

    def _stop(self) -> None:
        self.stop_programs()
        if "owner" in self.__dict__:
            self.owner.close()
        self._stack.close()
        redis.discard(self.home)
        postgres.discard(self.home)


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_S)


def send(pid: int, number: signal.Signals) -> bool:
    """Whether there was such a process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def turns(pid: int) -> int:
    """How often a process has waited for something: a pool child without work waits but once."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) if "\nvoluntary" in status else 0


def _settings(database_url: str, broker_url: str, home: Path, *, hasty: bool) -> Settings:
    logins = (("worker", roles.WORKER), ("api", roles.API), ("read_only", roles.READ_ONLY))
    short = {"sweep_every_s": 1, "visibility_timeout_s": 8, "task_time_limit_s": 6} if hasty else {}
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        ledgermill_home=home / "home",
        api_port=ports.next_free(LAST_PORT + 1),
        log_format="text",
        **short,
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
