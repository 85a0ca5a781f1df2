"""Programs for the focused fault tests: workers and an API, each with settings and variables of its own."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from proxy import Proxy, through
from pydantic import SecretStr
from running import Organization, System, eventually, journal, running

from ledgermill.config import Settings
from ledgermill.embedded import ports
from ledgermill.usecases.verify import verify

ROOT = Path(__file__).parents[2]
NO_API = "http://127.0.0.1:9"

# Minutes of sleeping past leases, and of large numbers, are not for every run.
long = pytest.mark.skipif("LEDGERMILL_FAULTS" not in os.environ, reason="takes long; LEDGERMILL_FAULTS=1 runs it")


@dataclass
class Fleet:
    """Starts programs, and ends them all with the test."""

    settings: Settings
    folder: Path
    stack: ExitStack
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def worker(
        self,
        name: str = "worker",
        *,
        settings: Settings | None = None,
        app: str = "workers.app",
        queues: str = "posting,maintenance",
        processes: int = 2,
        has_beat: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """A worker, from when it takes messages."""
        alive = self.folder / f"{name}.alive"
        alive.unlink(missing_ok=True)
        options = ["-Q", queues, "-n", f"{name}@%h", "-c", str(processes), "--without-gossip", "--without-mingle"]
        if has_beat:
            options += ["-B", "-s", str(self.folder / f"{name}.schedule")]
        process = self._start(
            name,
            [sys.executable, "-m", "celery", "-A", app, "worker", *options],
            settings or self.settings,
            {"LEDGERMILL_HEARTBEAT_FILE": str(alive), **(environment or {})},
        )
        eventually(lambda: alive.exists() or process.poll() is not None, within_s=40)
        assert process.poll() is None, self.log(name)
        return process

    def api(
        self,
        name: str = "api",
        *,
        settings: Settings | None = None,
        app: str = "ledgermill.api.app:create_app",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """An API, from when it is ready: its URL."""
        port = ports.next_free(random.randint(20_000, 30_000))  # other runs on this machine look for ports too
        options = ["--interface", "asgi", "--factory", "--host", ports.LOOPBACK, "--port", str(port), "--no-ws"]
        process = self._start(
            name,
            [sys.executable, "-m", "granian", *options, "--respawn-failed-workers", "--respawn-interval", "0.1", app],
            settings or self.settings,
            environment or {},
        )
        url = f"http://{ports.LOOPBACK}:{port}"
        eventually(lambda: process.poll() is not None or is_ready(url), within_s=30)
        assert process.poll() is None, self.log(name)
        return url

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def system(self, *, api_url: str = NO_API) -> System:
        """The ways in, past all proxies of the programs."""
        return self.stack.enter_context(running(self.settings, api_url=api_url, worker_pid=0))

    def _start(
        self, name: str, command: list[str], settings: Settings, more: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, **variables(settings), **more}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        self.started[name] = process
        self.stack.callback(end, process)
        return process


@contextmanager
def fleet(settings: Settings, folder: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(settings, folder, stack)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):  # beat inside a worker outlives one that is killed, or ends itself
        os.killpg(process.pid, signal.SIGKILL)


def variables(settings: Settings) -> dict[str, str]:
    """The variables that give a process these settings."""
    found = {name: value for name, value in settings if value is not None}
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in found.items()
    }


def proxied(settings: Settings, *, postgres: Proxy | None = None, redis: Proxy | None = None) -> Settings:
    """The same settings, by way of these proxies."""
    changed: dict[str, Any] = {}
    for name, value in settings:
        proxy = postgres if name.endswith("database_url") else redis if name == "broker_url" else None
        if proxy is not None and value is not None:
            changed[name] = SecretStr(through(value.get_secret_value(), proxy))
    return settings.model_copy(update=changed)


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def new_books(system: System, *, code: str = "acme") -> str:
    """An organization with TILL and SALES, without an API: its code."""
    from running import CHART  # noqa: PLC0415

    from ledgermill.usecases import charts, organizations  # noqa: PLC0415

    with system.owner.engine.begin() as tx:
        organizations.create(tx, code=code, name=code, base_currency="USD", time_zone="UTC")
    with system.owner.engine.begin() as tx:
        opened: Any = [(item["code"], item) for item in CHART]
        charts.open_chart(tx, 1, opened, principal_id=1)
    return code


def publish(system: System, keys: list[str], *, code: str = "acme", each: int = 1, **more: Any) -> None:
    """Journals of 1.00 from SALES to TILL with these keys, `each` to a message."""
    for start in range(0, len(keys), each):
        journals = [journal(key, **more) for key in keys[start : start + each]]
        system.publish("post_journals", organization=code, journals=journals)


def ended(system: System, keys: list[str]) -> dict[str, str]:
    """By key, how those ended that have: posted, or a code."""
    rows = system.rows(
        "SELECT idempotency_key, coalesce(code, state) FROM ledgermill.job WHERE idempotency_key = ANY(:keys)",
        keys=keys,
    )
    return {row[0]: row[1] for row in rows}


def require_posted_once(system: System, keys: list[str], *, within_s: float = 30) -> None:
    """Wait until all have ended; each has one journal of 1.00 in TILL, nothing else has, and the books verify."""
    eventually(lambda: len(ended(system, keys)) == len(keys), within_s=within_s)
    assert set(ended(system, keys).values()) == {"posted"}
    ((entries, amount),) = system.rows(
        "SELECT count(*), sum(e.amount) FROM ledgermill.entry e JOIN ledgermill.ledger l USING (ledger_id) WHERE l.code = 'TILL'"
    )
    ((balance,),) = system.rows(
        "SELECT debits - credits FROM ledgermill.balance JOIN ledgermill.ledger l USING (ledger_id) WHERE l.code = 'TILL'"
    )
    assert (entries, amount, balance) == (len(keys), 100 * len(keys), 100 * len(keys))
    report = verify(system.owner.engine)
    assert report.is_clean, report.as_text()


__all__ = ["Fleet", "Organization", "System", "fleet", "long"]
