"""The system that is measured: embedded servers on durable settings, organizations, workers and an API process."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import books
import httpx2
import psycopg
import redis as redis_library

from ledgermill.broker import publishing
from ledgermill.config import Settings, with_login
from ledgermill.embedded import ports, postgres, redis
from ledgermill.messages import routes
from ledgermill.runtime import Runtime
from ledgermill.storage import connections, migrations, roles
from ledgermill.usecases import charts, organizations, verify, waiting

BUILD: Final = Path(__file__).parents[2] / "build"
POLL_S: Final = 0.02
READY_WITHIN_S: Final = 60
POSTED_WITHIN_S: Final = 300
SHOWN_SETTINGS: Final = ("fsync", "synchronous_commit", "full_page_writes", "server_version", "shared_buffers")


@dataclass(frozen=True)
class System:
    """What runs. `database` is one connection of the owner, kept open: a new one at each look costs the machine 5 %.

    `processes` are the ids of what was started, by name; their children belong to them.
    """

    home: Path
    settings: Settings
    superuser_url: str
    database: psycopg.Connection[Any]
    redis: redis_library.Redis
    runtime: Runtime
    processes: dict[str, int] = field(default_factory=dict)

    @property
    def broker_url(self) -> str:
        return self.settings.broker_url.get_secret_value()

    def value(self, statement: str, *parameters: object) -> Any:
        """The one value that a statement answers."""
        row = self.database.execute(statement, parameters).fetchone()  # type: ignore[arg-type]
        return row[0] if row else None

    def open_organization(self, code: str, *, levels: int = 4, leaves: int = books.LEAVES) -> int:
        """Its id, once it has a chart of so many levels."""
        owner = connections.engine(self.settings.url_of("owner"))
        with owner.begin() as tx:
            organizations.create(tx, code=code, name=code, base_currency="EUR", time_zone="UTC")
        number = int(self.value("SELECT organization_id FROM ledgermill.organization WHERE code = %s", code))
        with owner.begin() as tx:
            items = books.chart(levels=levels, leaves=leaves)
            charts.open_chart(tx, number, [(item["code"], item) for item in items], principal_id=1)  # type: ignore[misc]
        owner.dispose()
        return number

    def lane_of(self, organization: str, *, lanes: int) -> int:
        found = self.value("SELECT organization_uuid FROM ledgermill.organization WHERE code = %s", organization)
        return routes.lane_of(found) % lanes

    def new_key(self, organization: str) -> str:
        """The secret of an API key that may read and post."""
        owner = connections.engine(self.settings.url_of("owner"))
        with owner.begin() as tx:
            made = organizations.create_key(tx, organization, name="bench", scopes=("read", "post"), expires_at=None)
        owner.dispose()
        return made.secret

    def posted(self, *codes: str) -> int:
        """How many journals these organizations have."""
        found = self.value(
            "SELECT sum(next_position - 1)::bigint FROM ledgermill.posting_lock"
            " JOIN ledgermill.organization USING (organization_id) WHERE code = ANY(%s)",
            list(codes),
        )
        return int(found or 0)

    def wait_until_posted(self, target: int, *codes: str) -> None:
        """Until these organizations have so many journals. The sweep that beat would ring for runs here, and is shown:
        what it rings for was left behind, which costs seconds.
        """
        started = swept_at = time.monotonic()
        while (posted := self.posted(*codes)) < target:
            now = time.monotonic()
            if now > started + POSTED_WITHIN_S:
                sys.exit(f"{target - posted} journals of {codes} were not posted within {POSTED_WITHIN_S} s")
            if now > swept_at + self.settings.sweep_every_s:
                swept_at = now
                if waiting.sweep(self.runtime):
                    print(f"the sweep rang after {now - started:.0f} s, {target - posted} journals of {codes} left")
            time.sleep(POLL_S)

    def checkpoint(self) -> None:
        """So that every measurement starts as far from the next checkpoint."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def is_clean(self) -> bool:
        """Whether `ledgermill verify` finds nothing, in any organization; it prints what it finds."""
        runtime = Runtime(self.settings, role="readonly")
        report = verify.verify(runtime.engine)
        runtime.close()
        if not report.is_clean:
            print(report.as_text())
        return report.is_clean

    def shown_settings(self) -> dict[str, str]:
        return {name: self.value(f"SHOW {name}") for name in SHOWN_SETTINGS}


@contextmanager
def running() -> Iterator[System]:
    """Servers of this run, removed at its end."""
    home = Path(tempfile.mkdtemp(prefix="ledgermill-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stack.callback(postgres.discard, home)
        stack.callback(redis.discard, home)
        server, broker = postgres.start(home), redis.start(home)
        owner = connections.engine(server.url)
        migrations.upgrade(owner)
        passwords = {role: secrets.token_urlsafe(12) for role in roles.LOGINS}
        with owner.begin() as tx:
            roles.set_passwords(tx, passwords)
        owner.dispose()
        logins = {name: with_login(server.url, user=name, password=password) for name, password in passwords.items()}
        settings = Settings(
            database_url=server.url,  # type: ignore[arg-type]
            broker_url=broker.url,  # type: ignore[arg-type]
            worker_database_url=logins[roles.WORKER],  # type: ignore[arg-type]
            api_database_url=logins[roles.API],  # type: ignore[arg-type]
            read_only_database_url=logins[roles.READ_ONLY],  # type: ignore[arg-type]
            ledgermill_home=home / "home",
            log_level="WARNING",
        )
        database = stack.enter_context(psycopg.connect(server.url, autocommit=True))
        client = stack.enter_context(publishing.redis_client(broker.url))
        processes = {"postgres": server.pid, "redis": broker.pid}
        runtime = stack.enter_context(closing(Runtime(settings, role="worker")))
        yield System(home, settings, server.superuser_url, database, client, runtime, processes)


@contextmanager
def worker(
    system: System, *, queues: str = routes.POSTING_QUEUE, children: int = 2, lanes: int = 0, name: str = "worker"
) -> Iterator[None]:
    """A posting worker as the README starts it, from when it takes messages."""
    beat = system.home / f"{name}.alive"
    beat.unlink(missing_ok=True)
    options = ["-Q", queues, "-c", str(children), "-n", f"{name}@%h", "--without-gossip", "--without-mingle"]
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", *options]
    variables = {"LEDGERMILL_HEARTBEAT_FILE": str(beat), "POSTING_LANES": str(lanes)}
    with process(system, name, command, variables, is_ready=beat.exists):
        yield


@contextmanager
def api(system: System) -> Iterator[str]:
    """One API process as `ledgermill api` starts it: its URL, once it is ready."""
    port = ports.next_free(18_080)
    url = f"http://{ports.LOOPBACK}:{port}"

    def is_ready() -> bool:
        try:
            return httpx2.get(f"{url}/readyz", timeout=5).is_success
        except httpx2.TransportError:
            return False

    command = [sys.executable, "-m", "ledgermill.cli", "api"]
    with process(system, "api", command, {"API_PORT": str(port)}, is_ready=is_ready):
        yield url


@contextmanager
def process(
    system: System, name: str, command: list[str], variables: Mapping[str, str], *, is_ready: Callable[[], bool]
) -> Iterator[None]:
    """A process with the settings of the system, and its log in `build`. It is ended by SIGTERM, within half a minute."""
    settings = system.settings
    environment = {
        **os.environ,
        "DATABASE_URL": settings.url_of("owner"),
        "WORKER_DATABASE_URL": settings.url_of("worker"),
        "API_DATABASE_URL": settings.url_of("api"),
        "BROKER_URL": system.broker_url,
        "LEDGERMILL_HOME": str(settings.home),
        "LOG_LEVEL": settings.log_level,
        **variables,
    }
    BUILD.mkdir(exist_ok=True)
    log = BUILD / f"bench-{name}.log"
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=environment, cwd=system.home, stdout=output, stderr=subprocess.STDOUT)
    system.processes[name] = started.pid
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not is_ready():
            if started.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} did not start; see {log}")
            time.sleep(0.1)
        yield
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(30)
        del system.processes[name]
