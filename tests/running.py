"""A running system as tests use it: an API process, and organizations that post over HTTP and by message."""

import itertools
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
from celery import Celery
from sqlalchemy import text

from ledgermill.broker import publishing
from ledgermill.config import Settings
from ledgermill.domain.journals import POST_JOURNAL
from ledgermill.embedded import ports
from ledgermill.runtime import Runtime, new_batch_id, now
from ledgermill.usecases import acceptance, charts, delivery, organizations, waiting
from ledgermill.usecases.verify import verify

ROOT = Path(__file__).parents[1]
ALL_SCOPES = ("read", "post", "post:system", "ledgers")
CHART: list[dict[str, Any]] = [
    {"code": "ASSETS", "type": "asset", "is_head": True},
    {"code": "CURRENT", "parent_ledger_code": "ASSETS", "is_head": True},
    {"code": "CASH", "parent_ledger_code": "CURRENT", "is_head": True},
    {"code": "TILL", "parent_ledger_code": "CASH", "ledger_num_id": 1010000101},
    {"code": "BANK", "parent_ledger_code": "CASH", "ledger_num_id": 1010000102},
    {"code": "CLAIMS", "parent_ledger_code": "CURRENT"},
    {"code": "CLOSED", "parent_ledger_code": "CURRENT", "active": False},
    {"code": "INCOME", "type": "income", "is_head": True},
    {"code": "SALES", "parent_ledger_code": "INCOME"},
    {"code": "CARD", "type": "liability"},
]

_numbers = itertools.count(1)


def journal(key: str | None, amount: Any = 100, *, debit: str = "TILL", credit: str = "SALES", **more: Any) -> Any:
    """A journal of two entries, by ledger codes; `more` are its other fields."""
    named = {} if key is None else {"idempotency_key": key}
    entries = [
        {"ledger_code": debit, "type": "debit", "amount": amount},
        {"ledger_code": credit, "type": "credit", "amount": amount},
    ]
    return {**named, "entries": entries, **more}


def eventually(look: Callable[[], Any], *, within_s: float = 15) -> Any:
    """The first value that counts as true."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.03)
    return found


@dataclass(frozen=True)
class System:
    """What runs, and the ways into it. `owner` is the database as its owner."""

    settings: Settings
    api_url: str
    worker_pid: int
    api: httpx2.Client
    owner: Runtime
    celery: Celery

    def new_organization(self, *, chart: Sequence[Mapping[str, Any]] = CHART) -> "Organization":
        """One with a code that no other has, in USD."""
        code = f"org-{next(_numbers)}-{secrets.token_hex(3)}"
        with self.owner.engine.begin() as tx:
            organizations.create(tx, code=code, name=code, base_currency="USD", time_zone="UTC")
        organization = Organization(self, code, self.new_key(code))
        if chart:
            assert organization.send("/v1/ledgers/import", list(chart)).status_code == 201
        return organization

    def new_key(
        self, organization: str, *, scopes: Collection[str] = ALL_SCOPES, expires_at: datetime | None = None
    ) -> str:
        with self.owner.engine.begin() as tx:
            made = organizations.create_key(tx, organization, name="test", scopes=scopes, expires_at=expires_at)
        return made.secret

    def set_state(self, organization: str, state: str) -> None:
        with self.owner.engine.begin() as tx:
            organizations.set_state(tx, organization, state)

    def rows(self, statement: str, **parameters: object) -> list[Any]:
        """What the owner of the database reads."""
        with self.owner.engine.connect() as tx:
            return list(tx.execute(text(statement), parameters).all())

    def publish(self, task: str, *, task_id: str | None = None, **arguments: object) -> str:
        """Send a task as any Celery producer does; its id."""
        return str(self.celery.send_task(f"ledgermill.{task}", kwargs=arguments, task_id=task_id, queue="posting").id)


@dataclass(frozen=True)
class Organization:
    """An organization with a key of all scopes."""

    system: System
    code: str
    key: str

    def get(self, path: str, *, prefer: str | None = None, **parameters: Any) -> httpx2.Response:
        headers = {"X-API-Key": self.key} | ({"Prefer": prefer} if prefer else {})
        return self.system.api.get(path, params=parameters or None, headers=headers)  # {} would remove the path's own

    def send(self, path: str, body: object, *, method: str = "POST", **headers: str) -> httpx2.Response:
        """A body as JSON, or as it is where it is bytes; named arguments become headers."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"content-type": "application/json", "authorization": f"Bearer {self.key}", **named}
        return self.system.api.request(method, path, content=content, headers=sent)

    def post(self, body: object, **headers: str) -> httpx2.Response:
        return self.send("/v1/ledgers/journals", body, **headers)

    def publish(self, journals: object, *, task_id: str | None = None) -> str:
        """Journals in one message."""
        return self.system.publish("post_journals", task_id=task_id, organization=self.code, journals=journals)

    def job(self, key: str) -> dict[str, Any]:
        """The job of a key, once it has ended."""

        def look() -> Any:
            jobs = self.send("/v1/jobs/lookup", {"idempotency_keys": [key]}).json()["jobs"]
            return jobs and jobs[0]["ended_at"] and jobs[0]

        found: dict[str, Any] = eventually(look)
        return found

    def ended(self, keys: Sequence[str], *, within_s: float = 30) -> dict[str, dict[str, Any]]:
        """The jobs of up to 1,000 keys by their keys, once all have ended."""

        def look() -> Any:
            answer = self.send("/v1/jobs/lookup", {"idempotency_keys": list(keys)}).json()
            return not answer["missing"] and all(job["ended_at"] for job in answer["jobs"]) and answer["jobs"]

        return {job["idempotency_key"]: job for job in eventually(look, within_s=within_s)}

    def balance(self, ledger: str) -> int:
        return int(self.get(f"/v1/ledgers/{ledger}/balance").json()["balance_current"])

    def waiting(self) -> int:
        """How many batches are in the inbox."""
        statement = "SELECT count(*) FROM ledgermill.inbox JOIN ledgermill.organization USING (organization_id)"
        return int(self.system.rows(statement + " WHERE code = :code", code=self.code)[0][0])


@contextmanager
def running(settings: Settings, *, api_url: str, worker_pid: int) -> Iterator[System]:
    """The ways into a system that runs."""
    owner, celery = Runtime(settings, role="owner"), publishing.publisher(settings)
    with httpx2.Client(base_url=api_url, timeout=30) as client:
        yield System(settings, api_url, worker_pid, client, owner, celery)
    celery.close()
    owner.close()


class Books:
    """An organization, one worker's runtime, and plain SQL beside them, all in this process."""

    def __init__(self, settings: Settings) -> None:
        self.owner = Runtime(settings, role="owner")
        self.worker = Runtime(settings, role="worker")
        with self.owner.engine.begin() as tx:
            organizations.create(tx, code="acme", name="Acme", base_currency="EUR", time_zone="UTC")
            opened: Any = [(item["code"], item) for item in CHART]
            charts.open_chart(tx, 1, opened, principal_id=1)

    def message(
        self, *items: dict[str, Any], is_redelivered: bool = False, message_id: str | None = None
    ) -> delivery.Message:
        return delivery.Message(
            message_id=message_id or str(new_batch_id()),
            kind=POST_JOURNAL,
            organization="acme",
            items=list(items),
            queue="posting",
            correlation=None,
            is_redelivered=is_redelivered,
            taken_at=now(),
        )

    def deliver(self, *items: dict[str, Any], is_redelivered: bool = False, message_id: str | None = None) -> None:
        delivery.take(self.worker, [self.message(*items, is_redelivered=is_redelivered, message_id=message_id)])

    def accept(self, *items: dict[str, Any]) -> None:
        with self.owner.engine.begin() as tx:
            acceptance.accept(tx, 1, kind=POST_JOURNAL, items=items, principal_id=1, correlation=None, now=now())

    def look(self) -> int:
        return waiting.look(self.worker, 0)

    def outlast_the_lease(self) -> None:
        self.run("UPDATE ledgermill.inbox SET claimed_at = claimed_at - interval '1 hour'")

    def run(self, statement: str) -> None:
        with self.owner.engine.begin() as tx:
            tx.exec_driver_sql(statement)

    def query(self, statement: str) -> list[Any]:
        """Rows, or their values where they have but one column."""
        with self.owner.engine.begin() as tx:
            return [tuple(row) if len(row) > 1 else row[0] for row in tx.exec_driver_sql(statement)]

    def outcomes(self) -> dict[str | None, str]:
        return dict(self.query("SELECT idempotency_key, coalesce(code, state) FROM ledgermill.job"))

    def till(self) -> int:
        balance: int = self.query(
            "SELECT (debits - credits)::bigint FROM ledgermill.balance JOIN ledgermill.ledger USING (ledger_id)"
            " WHERE code = 'TILL'"
        )[0]
        return balance

    def inbox(self) -> list[tuple[int, int, int]]:
        """Jobs, settled jobs and attempts of each batch that waits."""
        return self.query("SELECT jobs, next_item, attempts FROM ledgermill.inbox ORDER BY batch_id, part")


@contextmanager
def open_books(settings: Settings) -> Iterator[Books]:
    """Books that have to verify when the test ends."""
    books = Books(settings)
    yield books
    report = verify(books.owner.engine)
    books.worker.close()
    books.owner.close()
    assert report.is_clean, report.as_text()


@contextmanager
def refusing(books: Books, table: str, condition: str, *, sqlstate: str) -> Iterator[None]:
    """Meanwhile the database refuses rows of this kind."""
    books.run(f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '{sqlstate}'; END $$""")
    books.run(f"""
        CREATE TRIGGER refuse BEFORE INSERT ON ledgermill.{table} FOR EACH ROW
        WHEN ({condition}) EXECUTE FUNCTION refuse()""")
    yield
    books.run(f"DROP TRIGGER refuse ON ledgermill.{table}")
    books.run("DROP FUNCTION refuse()")


@dataclass(frozen=True)
class WorkerProcess:
    """A Celery worker: its main process, its pool, what it logged."""

    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> set[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(pid) for pid in found}

    def rss_mb(self) -> float:
        """What the main process and its pool have in memory, together."""
        found = 0.0
        for pid in (self.process.pid, *self.children()):
            found += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
        return found


@contextmanager
def worker_process(
    environment: Mapping[str, str],
    folder: Path,
    *,
    app: str = "workers.app",
    queues: str = "posting,maintenance",
    name: str = "worker",
    processes: int = 2,
    with_beat: bool = True,
) -> Iterator[WorkerProcess]:
    """A worker from when it takes messages; it is ended at the end, if it has not ended by itself."""
    alive = folder / f"{name}.alive"
    alive.unlink(missing_ok=True)  # a worker that was killed leaves it behind
    options = ["-Q", queues, "-n", f"{name}@%h", "-c", str(processes), "--without-gossip", "--without-mingle"]
    options += ["-B", "-s", str(folder / f"{name}.schedule")] if with_beat else []
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", app, "worker", *options],
            env={**environment, "LEDGERMILL_HEARTBEAT_FILE": str(alive)},
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(lambda: alive.exists() or process.poll() is not None, within_s=40)
        assert alive.exists(), log.read_text()
        yield WorkerProcess(process, log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        with suppress(ProcessLookupError):  # its beat outlives a worker that ended itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def api_process(environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """An API process on a free port, from when it is ready: its URL."""
    port = ports.next_free(random.randint(20_000, 30_000))  # other runs on this machine look for ports too
    url = f"http://127.0.0.1:{port}"
    options = ["--interface", "asgi", "--factory", "--host", "127.0.0.1", "--port", str(port), "--no-ws"]
    command = [sys.executable, "-m", "granian", *options, "ledgermill.api.app:create_app"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output) as process,
    ):
        try:
            eventually(lambda: process.poll() is not None or _is_ready(url), within_s=30)
            assert process.poll() is None, log.read_text()
            yield url
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
