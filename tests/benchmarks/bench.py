"""`make bench`: how many journals a second go from the broker into the books, beside the floor of the same server.

bulk_journals_per_s: messages of 1,000 two-entry journals, published through Redis by our Producer, over 1,000 leaves in
a four-level tree with everything on, from the first publish until all are posted.
floor_journals_per_s: raw COPY of the same job and entry rows into tables with the same indexes, in batches of 1,000 on
one connection, with no balances and no rules.
Each is measured several times in turn, on durable settings; the figures are medians.
"""

import argparse
import json
import os
import platform
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from ledgermill import Producer
from ledgermill.config import Settings, with_login
from ledgermill.domain.plans import PostedEntry, PostedJob
from ledgermill.embedded import postgres, redis
from ledgermill.runtime import Runtime
from ledgermill.storage import connections, migrations, roles
from ledgermill.usecases import charts, organizations, verify

LEAVES = 1_000
BATCH = 1_000
POOL = 2
ORGANIZATION = "bench"


def main() -> None:
    arguments = _arguments()
    home = Path(tempfile.mkdtemp(prefix="ledgermill-bench-"))
    try:
        settings = _system(home)
        with _worker(settings, home):
            runs = [_run(settings, run, arguments.journals) for run in range(arguments.runs)]
        with psycopg.connect(settings.database_url.get_secret_value()) as connection:
            durable = {
                name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
                for name in ("fsync", "synchronous_commit", "full_page_writes", "server_version", "shared_buffers")
            }
        report = verify.verify(Runtime(settings, role="readonly").engine)
    finally:
        redis.discard(home)
        postgres.discard(home)
        shutil.rmtree(home, ignore_errors=True)
    if not report.is_clean:
        sys.exit(report.as_text())
    _publish(runs, {**durable, "journals_per_run": arguments.journals, "runs": arguments.runs, **_machine()})


def _run(settings: Settings, run: int, journals: int) -> dict[str, float]:
    messages = [list(_journals(run, start)) for start in range(0, journals, BATCH)]
    before = _posted(settings)
    cpu_before = _cpu_s()
    phases_before = _phases_s(settings)
    started = time.perf_counter()
    with Producer(settings.broker_url.get_secret_value(), ORGANIZATION, most_in_a_message=BATCH) as producer:
        for message in messages:
            producer.post_many(message)
        published_s = time.perf_counter() - started
        while (posted := _posted(settings) - before) < journals:
            if time.perf_counter() - started > 300:
                sys.exit(f"only {posted} of {journals} journals were posted within 300 s")
            time.sleep(0.02)
    bulk_s = time.perf_counter() - started
    bulk = journals / bulk_s
    phases_s = {phase: seconds - phases_before.get(phase, 0.0) for phase, seconds in _phases_s(settings).items()}
    cpu_share = (_cpu_s() - cpu_before) / bulk_s / (os.cpu_count() or 1)
    floor = _floor(settings, journals)
    figures = {
        "bulk_journals_per_s": bulk,
        "floor_journals_per_s": floor,
        "bulk_over_floor": bulk / floor,
        "publish_journals_per_s": journals / published_s,
        "machine_cpu_share": cpu_share,
        **{f"{phase}_us_per_journal": seconds / journals * 1e6 for phase, seconds in phases_s.items()},
    }
    print(f"run {run + 1}: " + ", ".join(f"{name} {value:,.2f}" for name, value in figures.items()), flush=True)
    return figures


def _floor(settings: Settings, journals: int) -> float:
    """The last run's own rows, copied again into empty tables with the same indexes."""
    job_columns, entry_columns = ", ".join(PostedJob._fields), ", ".join(PostedEntry._fields)
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        connection.execute("DROP TABLE IF EXISTS floor_job, floor_entry")
        connection.execute("CREATE TABLE floor_job (LIKE ledgermill.job INCLUDING ALL)")
        connection.execute("CREATE TABLE floor_entry (LIKE ledgermill.entry INCLUDING ALL)")
        last = connection.execute("SELECT max(position) FROM ledgermill.job").fetchone()[0]  # type: ignore[index]
        jobs = connection.execute(
            f"SELECT {job_columns} FROM ledgermill.job WHERE position > %s ORDER BY position", [last - journals]
        ).fetchall()
        entries = connection.execute(
            f"SELECT {entry_columns} FROM ledgermill.entry WHERE position > %s ORDER BY position, line",
            [last - journals],
        ).fetchall()
        connection.commit()
        rows = [(*row[:-2], *("{" + ",".join(map(str, places)) + "}" for places in row[-2:])) for row in jobs]
        started = time.perf_counter()
        for start in range(0, journals, BATCH):
            with connection.cursor() as cursor:
                with cursor.copy(f"COPY floor_job ({job_columns}) FROM STDIN") as copy:
                    for row in rows[start : start + BATCH]:
                        copy.write_row(row)
                with cursor.copy(f"COPY floor_entry ({entry_columns}) FROM STDIN") as copy:
                    for row in entries[2 * start : 2 * (start + BATCH)]:
                        copy.write_row(row)
            connection.commit()
        return journals / (time.perf_counter() - started)


def _journals(run: int, start: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(f"{run}-{start}")
    for number in range(start, start + BATCH):
        amount = chance.randrange(1, 1_000_000)
        debit, credit = chance.sample(range(LEAVES), 2)
        yield {
            "idempotency_key": f"bench-{run}-{number}",
            "transaction": {"type": "payment", "description": "bench"},
            "entries": [
                {"ledger_code": f"LEAF-{debit:04}", "type": "debit", "amount": amount},
                {"ledger_code": f"LEAF-{credit:04}", "type": "credit", "amount": amount},
            ],
        }


def _phases_s(settings: Settings) -> dict[str, float]:
    """Seconds that the workers have spent in each phase so far; `lock` counts the wait for the posting lock."""
    broker = Runtime(settings, role="worker").broker
    counters, _ = broker.counters_and_lengths([])
    broker.close()
    prefix = "seconds:"
    return {name.removeprefix(prefix): value for name, value in counters.items() if name.startswith(prefix)}


def _posted(settings: Settings) -> int:
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        row = connection.execute("SELECT sum(next_position - 1)::bigint FROM ledgermill.posting_lock").fetchone()
        return int(row[0]) if row else 0


def _system(home: Path) -> Settings:
    """Servers, an organization, and 1,000 leaves below 50 groups below 5 classes below a root, all with a floor."""
    server, broker = postgres.start(home), redis.start(home)
    owner = connections.engine(server.url)
    migrations.upgrade(owner)
    passwords = {role: secrets.token_urlsafe(12) for role in roles.LOGINS}
    with owner.begin() as tx:
        roles.set_passwords(tx, passwords)
        organizations.create(tx, code=ORGANIZATION, name="Bench", base_currency="EUR", time_zone="UTC")
    chart: list[dict[str, Any]] = [{"code": "ROOT", "type": "asset"}]
    chart += [{"code": f"CLASS-{number}", "parent_ledger_code": "ROOT"} for number in range(5)]
    chart += [{"code": f"GROUP-{number:02}", "parent_ledger_code": f"CLASS-{number % 5}"} for number in range(50)]
    chart += [
        {
            "code": f"LEAF-{number:04}",
            "parent_ledger_code": f"GROUP-{number % 50:02}",
            "overdraft_enabled": True,
            "overdraft_limit": 10**15,
        }
        for number in range(LEAVES)
    ]
    with owner.begin() as tx:
        charts.open_chart(tx, 1, [(item["code"], item) for item in chart], principal_id=1)  # type: ignore[misc]
    owner.dispose()
    logins = {name: with_login(server.url, user=name, password=password) for name, password in passwords.items()}
    return Settings(
        database_url=server.url,  # type: ignore[arg-type]
        broker_url=broker.url,  # type: ignore[arg-type]
        worker_database_url=logins[roles.WORKER],  # type: ignore[arg-type]
        read_only_database_url=logins[roles.READ_ONLY],  # type: ignore[arg-type]
        log_level="WARNING",
    )


@contextmanager
def _worker(settings: Settings, home: Path) -> Iterator[None]:
    """One posting worker as the README starts it."""
    beat = home / "heartbeat"
    variables = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "WORKER_DATABASE_URL": settings.url_of("worker"),
        "BROKER_URL": settings.broker_url.get_secret_value(),
        "LOG_LEVEL": "WARNING",
        "LEDGERMILL_HEARTBEAT_FILE": str(beat),
    }
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "posting", "-c", str(POOL)]
    process = subprocess.Popen([*command, "--without-gossip", "--without-mingle"], env=variables)
    try:
        deadline = time.monotonic() + 30
        while not beat.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the worker did not start")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _publish(runs: list[dict[str, float]], settings: dict[str, Any]) -> None:
    figures = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    build = Path(__file__).parents[2] / "build"
    build.mkdir(exist_ok=True)
    (build / "bench.json").write_text(json.dumps({"figures": figures, "settings": settings, "runs": runs}, indent=2))
    table = Table("figure", "median", "lowest", "highest", title="ledgermill bench")
    for name, value in figures.items():
        values = [run[name] for run in runs]
        table.add_row(
            name,
            *(f"{number:,.3f}" if number < 10 else f"{number:,.0f}" for number in (value, min(values), max(values))),
        )
    Console().print(table)


def _machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "cpus": os.cpu_count(), "machine": platform.machine(), "pool": POOL}


def _cpu_s() -> float:
    """CPU seconds of the whole machine so far, in use."""
    ticks = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:8]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journals", type=int, default=50_000, help="in each run")
    parser.add_argument("--runs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
