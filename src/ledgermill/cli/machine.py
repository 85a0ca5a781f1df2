"""The story of `ledgermill up`: servers, migrations, services, the demonstration, and then keeping it all alive."""

import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ledgermill.cli import machine_state, problems
from ledgermill.cli.database import login_passwords
from ledgermill.cli.machine_state import State
from ledgermill.config import Settings, with_login
from ledgermill.embedded import ports, postgres, redis, supervisor
from ledgermill.embedded.processes import tail
from ledgermill.embedded.supervisor import Program, Supervisor
from ledgermill.errors import ServerDidNotStart
from ledgermill.messages import routes
from ledgermill.observability import is_fresh, logger
from ledgermill.storage import connections, migrations, roles
from ledgermill.storage.connections import Engine

POSTGRES_PORT = 5433
REDIS_PORT = 6380
FLOWER_PORT = 5555
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 25.0  # more than a task may take
MOST_DEATHS_AT_START = 3
TEND_EVERY_S = 0.1
LOOK_AT_SERVERS_EVERY_S = 1.0

Server = postgres.PostgresServer | redis.RedisServer

log = logger(__name__)


class Machine:
    """All of ledgermill on this machine, in one home."""

    def __init__(self, settings: Settings, *, with_demonstration: bool) -> None:
        self.settings = settings
        self.home = settings.home
        self.with_demonstration = with_demonstration
        self.supervisor = Supervisor(self.home)
        self.state = State(supervisor=os.getpid())
        self.stop = threading.Event()
        self._own_servers: list[tuple[str, Callable[[Path], Server | None], Callable[[Path], Server]]] = []
        self._server_pids: dict[str, int] = {}
        self._look_at_servers_at = 0.0

    def run(self, announce: Callable[[State], None]) -> None:
        """Bring everything up, call `announce` when it is ready, and keep it up until SIGINT, SIGTERM or SIGHUP.

        The caller holds the lock of this home. Raises ServerDidNotStart, and what the database says.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.stop.set())
        machine_state.write(self.home, self.state)
        try:
            self._bring_up()
            if not self.stop.is_set():
                self._keep_state()
                announce(self.state)
            while not self.stop.wait(TEND_EVERY_S):
                self.supervisor.tend()
                self._tend_servers()
                self._keep_state()
        except Exception as error:
            known = problems.describe(error)
            self.state.problem = "\n".join(known.lines) if known else repr(error)
            raise
        finally:
            self._take_down()

    def _bring_up(self) -> None:
        supervisor.end_leftovers(self.home, within_s=STOP_WITHIN_S)
        self._start_servers()
        workers, others = self._workers(), self._others()
        self.supervisor.start(others)  # they can wait for the migrations, and take their time to start
        engine = connections.engine(self.settings.url_of("owner"))
        try:
            migrations.upgrade(engine)
            with engine.begin() as tx:
                roles.set_passwords(tx, login_passwords(self.settings))
            self.supervisor.start(workers)
            if self.with_demonstration:
                self._demonstrate(engine)
            else:
                self._wait_until_ready()
        finally:
            engine.dispose()

    def _demonstrate(self, engine: Engine) -> None:
        from ledgermill.cli import demonstration  # noqa: PLC0415 - imports Celery, while the others start

        self.state.organization = demonstration.ORGANIZATION
        self.state.api_key = demonstration.open_books(engine, self.home)
        self._wait_until_ready()
        if not self.stop.is_set():
            demonstration.publish_once(engine, self.settings)

    def _start_servers(self) -> None:
        """Use the servers that the settings name, else start our own; the settings then name these."""
        given = self.settings.model_fields_set
        found: dict[str, Any] = {}
        with ThreadPoolExecutor(2) as pool:
            database = (
                None
                if "database_url" in given
                else pool.submit(postgres.start, self.home, preferred_port=POSTGRES_PORT)
            )
            broker = None if "broker_url" in given else pool.submit(redis.start, self.home, preferred_port=REDIS_PORT)
        if database:
            server = database.result()
            self._own_servers.append((postgres.NAME, postgres.running, postgres.start))
            self._server_pids[postgres.NAME] = server.pid
            self._note_port("PostgreSQL", POSTGRES_PORT, server.port)
            passwords = self._passwords()
            found |= {"database_url": server.url} | {
                field: with_login(server.url, user=login, password=passwords[login])
                for login, field in machine_state.URL_OF_LOGIN.items()
            }
        elif unset := [name.upper() for name in machine_state.URL_OF_LOGIN.values() if name not in given]:
            self.state.notes.append(f"{', '.join(unset)}: not set, so services use the login of DATABASE_URL.")
        if broker:
            self._own_servers.append((redis.NAME, redis.running, redis.start))
            self._server_pids[redis.NAME] = broker.result().pid
            found["broker_url"] = broker.result().url
            self._note_port("Redis", REDIS_PORT, broker.result().port)
        api_port, flower_port = ports.next_free(self.settings.api_port), ports.next_free(FLOWER_PORT)
        self._note_port("the API", self.settings.api_port, api_port)
        self._note_port("Flower", FLOWER_PORT, flower_port)
        self.settings = Settings(**{**self.settings.model_dump(), **found, "api_port": api_port})
        host = self.settings.api_host if self.settings.api_host not in {"0.0.0.0", "::"} else ports.LOOPBACK  # noqa: S104
        self.state.api_url = f"http://{host}:{api_port}"
        self.state.flower_url = f"http://{ports.LOOPBACK}:{flower_port}"
        self.state.database_url = self.settings.url_of("owner")
        self.state.broker_url = self.settings.broker_url.get_secret_value()

    def _passwords(self) -> dict[str, str]:
        """The services' passwords: made once, kept in home."""
        kept = machine_state.read_secrets(self.home)
        passwords: dict[str, str] = kept.setdefault("passwords", {})
        if missing := set(roles.LOGINS) - passwords.keys():
            passwords.update({login: secrets.token_hex(16) for login in missing})
            machine_state.write_secrets(self.home, kept)
        return passwords

    def _note_port(self, what: str, preferred: int, port: int) -> None:
        if port != preferred:
            self.state.notes.append(f"Port {preferred} is in use: {what} listens on {port}.")

    def _others(self) -> list[Program]:
        environment = self._environment()
        api_url, flower_url = self.state.api_url or "", self.state.flower_url or ""
        flower_port = flower_url.rpartition(":")[2]
        return [
            Program(
                "api",
                [sys.executable, "-m", "ledgermill.cli", "api"],
                environment,
                lambda: machine_state.answers(api_url, "/readyz"),
            ),
            Program(
                "flower",
                _celery("flower", f"--address={ports.LOOPBACK}", f"--port={flower_port}", "--read_only"),
                environment,
                lambda: machine_state.answers(flower_url, "/healthcheck"),
            ),
            Program(
                "beat",
                _celery("beat", "-s", str(self.home / "run" / "beat"), "--pidfile="),
                environment,
                lambda: True,
            ),
        ]

    def _workers(self) -> list[Program]:
        posting = ",".join(routes.posting_queues(lanes=self.settings.posting_lanes))
        return [
            self._worker("posting", queues=posting, processes=2),
            self._worker("maintenance", queues=routes.MAINTENANCE_QUEUE, processes=2),
        ]

    def _worker(self, name: str, *, queues: str, processes: int) -> Program:
        heartbeat = self.home / "run" / f"{name}.heartbeat"
        options = ["-Q", queues, "--concurrency", str(processes), "--without-gossip", "--without-mingle"]
        return Program(
            name,
            _celery("worker", *options, "-n", f"{name}@%h"),
            {**self._environment(), "LEDGERMILL_HEARTBEAT_FILE": str(heartbeat)},
            lambda: is_fresh(heartbeat, max_age_s=READY_WITHIN_S),
            heartbeat,
        )

    def _environment(self) -> dict[str, str]:
        values: dict[str, Any] = {
            "DATABASE_URL": self.settings.url_of("owner"),
            "WORKER_DATABASE_URL": self.settings.url_of("worker"),
            "API_DATABASE_URL": self.settings.url_of("api"),
            "READ_ONLY_DATABASE_URL": self.settings.url_of("readonly"),
            "BROKER_URL": self.settings.broker_url.get_secret_value(),
            "API_PORT": self.settings.api_port,
            "LEDGERMILL_HOME": self.home,
            "PYTHONUNBUFFERED": "1",
        }
        return {**os.environ, **{name: str(value) for name, value in values.items()}}

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + READY_WITHIN_S
        while not self.stop.is_set():
            self.supervisor.tend()
            if self.supervisor.is_ready:
                return
            failing = [name for name, deaths in self.supervisor.deaths.items() if deaths >= MOST_DEATHS_AT_START]
            if failing or time.monotonic() > give_up_at:
                name = failing[0] if failing else next(iter(self.supervisor.not_ready))
                path = self.supervisor.log_of(name)
                raise ServerDidNotStart(server=name, reason=f"{tail(path)}\n(from {path})")
            self.stop.wait(TEND_EVERY_S / 2)

    def _keep_state(self) -> None:
        ready, pids = self.supervisor.is_ready, {**self._server_pids, **self.supervisor.pids}
        if (ready, pids) != (self.state.ready, self.state.pids):
            self.state.ready, self.state.pids = ready, pids
            machine_state.write(self.home, self.state)

    def _tend_servers(self) -> None:
        """Start our own servers again where they died; on the same port, unless somebody was faster."""
        if time.monotonic() < self._look_at_servers_at:
            return
        self._look_at_servers_at = time.monotonic() + LOOK_AT_SERVERS_EVERY_S
        for name, find, start in self._own_servers:
            try:
                if (server := find(self.home)) is None:
                    log.warning("died; starts again", program=name)
                    server = start(self.home)
            except ServerDidNotStart as error:
                log.error("does not start; tried again soon", program=name, reason=str(error))  # noqa: TRY400 - told
            else:
                self._server_pids[name] = server.pid

    def _take_down(self) -> None:
        self.supervisor.stop(within_s=STOP_WITHIN_S)
        stop_servers(self.home)
        machine_state.write(self.home, State(problem=self.state.problem))


def stop_servers(home: Path) -> None:
    """Stop our own servers, where they run."""
    with ThreadPoolExecutor(2) as pool:
        for stopping in [pool.submit(postgres.stop, home), pool.submit(redis.stop, home)]:
            stopping.result()


def _celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "workers.app", *arguments]
