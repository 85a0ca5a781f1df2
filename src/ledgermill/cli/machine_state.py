"""What `ledgermill up` leaves in its home for `status`, `down` and the next `up`: a lock, a state and the secrets."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ledgermill.config import Settings, with_login
from ledgermill.embedded import places

ANSWERS_WITHIN_S = 2.0
LOOKS, LOOK_S = 4, 0.02


URL_OF_LOGIN = {
    "ledgermill_worker": "worker_database_url",
    "ledgermill_api": "api_database_url",
    "ledgermill_readonly": "read_only_database_url",
}


@dataclass(slots=True)
class State:
    """What runs, as it is told to people and programs."""

    ready: bool = False
    supervisor: int | None = None  # its pid; valid while it holds the lock
    api_url: str | None = None
    flower_url: str | None = None
    database_url: str | None = None
    broker_url: str | None = None
    organization: str | None = None
    api_key: str | None = None
    pids: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problem: str | None = None
    paused: str | None = None  # the kinds of jobs that workers do not post


def prepare(home: Path) -> None:
    """Make the folders of the run and log files, for their owner only."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("run", "log"):
        places.make_folder(home / name, mode=0o700, account=None)


@contextmanager
def supervising(home: Path) -> Iterator[bool]:
    """Be the one supervisor of this home, until the block ends or the process dies; False where there is one."""
    descriptor = os.open(home / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield any(_is_locked(descriptor, fcntl.LOCK_EX, after_s=LOOK_S * attempt) for attempt in range(LOOKS))
    finally:
        os.close(descriptor)


def is_supervised(home: Path) -> bool:
    """Whether a supervisor lives here."""
    try:
        descriptor = os.open(home / "run" / "lock", os.O_RDONLY)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        return not _is_locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int, kind: int, *, after_s: float = 0.0) -> bool:
    time.sleep(after_s)  # who only looks holds the lock for a moment
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(home: Path, state: State) -> None:
    """Keep the state, for the owner of home only: there are passwords in it."""
    places.write(home / "run" / "state.json", json.dumps(asdict(state), indent=2), account=None)


def read(home: Path) -> State:
    """The last state that was kept."""
    try:
        found = json.loads((home / "run" / "state.json").read_text())
    except FileNotFoundError:
        return State()
    known = {each.name for each in fields(State)}
    return State(**{name: value for name, value in found.items() if name in known})


def read_secrets(home: Path) -> dict[str, Any]:
    """Passwords and the key of the demonstration."""
    try:
        found: dict[str, Any] = json.loads((home / "secrets.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def write_secrets(home: Path, values: dict[str, Any]) -> None:
    """Keep them, for the owner of home only."""
    places.write(home / "secrets.json", json.dumps(values, indent=2), account=None)


def as_running(settings: Settings) -> Settings:
    """The settings, with the servers of what runs in this home in place of those that nobody set."""
    state = read(settings.home) if is_supervised(settings.home) else State()
    given, found = settings.model_fields_set, {}
    if "database_url" not in given and state.database_url:
        found["database_url"] = state.database_url
        passwords = read_secrets(settings.home).get("passwords", {})
        for login, setting in URL_OF_LOGIN.items():
            if login in passwords:
                found[setting] = with_login(state.database_url, user=login, password=passwords[login])
    if "broker_url" not in given and state.broker_url:
        found["broker_url"] = state.broker_url
    return Settings(**{**settings.model_dump(), **found}) if found else settings


def answers(url: str, path: str) -> bool:
    """Whether a GET on this address is answered with 200; asked directly, whatever proxies are set."""
    return read_answer(url, path) is not None


def read_answer(url: str, path: str) -> bytes | None:
    """What a GET on this address is answered with, where that is a 200; else None."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWERS_WITHIN_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read() if response.status == 200 else None  # noqa: PLR2004 - HTTP's OK
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
