"""Where an embedded server lives, what is remembered of it, and the account that runs it."""

import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ledgermill.embedded.processes import Account

MEMORY = "server.json"
# Kept over restarts, and open to every account: for data that root starts below a folder only root can enter.
OUTSIDE = Path("/var/tmp")  # noqa: S108 - the folders made there have random names and one owner


@dataclass(frozen=True, slots=True)
class Place:
    """The folders, port and passwords of one server."""

    home: Path  # holds server.json; its owner is who started the server
    folder: Path  # holds data, configuration and log; `home`, unless the account cannot enter that
    account: Account | None  # who runs the server; None is ourselves
    port: int  # the last one; the next start keeps it if it is free
    passwords: Mapping[str, str]  # by login

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"


def find(home: Path, name: str) -> Place | None:
    """The place of the server `name` below `home`, or None before its first start."""
    own = home.resolve() / name
    try:
        memory = json.loads((own / MEMORY).read_text())
    except FileNotFoundError:
        return None
    folder = Path(memory["folder"]) if memory["folder"] else own
    return Place(
        home=own, folder=folder, account=_account(own, folder), port=memory["port"], passwords=memory["passwords"]
    )


def prepare(home: Path, name: str, *, logins: Sequence[str], port: int) -> Place:
    """Find a server's place or make it, with a new password for each login."""
    if found := find(home, name):
        return found
    own = home.resolve() / name
    account = _account(own, own)
    folder = own
    if not may_run(own, account):
        digest = hashlib.sha256(os.fsencode(own.parent)).hexdigest()[:12]
        # A random end: whoever guesses the name cannot make the folder before us, and a deleted home stays deleted.
        folder = Path(tempfile.mkdtemp(prefix=f"ledgermill-{digest}-{name}-", dir=OUTSIDE))
        folder.chmod(0o711)
    place = Place(
        home=own, folder=folder, account=account, port=port, passwords={each: secrets.token_hex(16) for each in logins}
    )
    remember(place, port=port)
    return place


def remember(place: Place, *, port: int) -> Place:
    """Write down the server's port, beside its passwords and folder, readable by the owner of home only."""
    folder = None if place.folder == place.home else str(place.folder)
    memory = {"folder": folder, "port": port, "passwords": dict(place.passwords)}
    owner = place.home.stat()
    write(place.home / MEMORY, json.dumps(memory, indent=2), account=Account(owner.st_uid, owner.st_gid))
    return replace(place, port=port)


@contextmanager
def locked(home: Path, name: str) -> Iterator[None]:
    """Keep others from starting or stopping the same server meanwhile; makes its folder if need be."""
    home.mkdir(parents=True, exist_ok=True)
    own = home.resolve() / name
    if not own.exists():
        owner = home.stat()
        mode = 0o711 if os.geteuid() == 0 else 0o700  # the account that root chooses passes through to its data
        make_folder(own, mode=mode, account=Account(owner.st_uid, owner.st_gid))
    descriptor = os.open(own, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_folder(path: Path, *, mode: int, account: Account | None) -> None:
    """Make a folder that belongs to the account."""
    path.mkdir(exist_ok=True)
    path.chmod(mode)
    _give(path, account)


def write(path: Path, text: str, *, account: Account | None) -> None:
    """Write a file that only the account can read: whole or not at all, whatever dies meanwhile."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    _give(draft, account)
    draft.replace(path)


def new_log(place: Place) -> None:
    """Begin a new log, and keep the one before: what an error quotes is then of this start, and logs do not pile up."""
    if place.log.exists():
        place.log.replace(place.log.with_suffix(".log.1"))
    write(place.log, "", account=place.account)


def remove(place: Place) -> None:
    """Delete a server's folders with all that is in them."""
    shutil.rmtree(place.home)  # first: a server that is remembered has its data
    if place.folder != place.home:
        shutil.rmtree(place.folder)


def programs(place: Place, site: Path, folders: Sequence[str], *, program: str, version: str) -> Path:
    """Where the account can run `program`, as a path below `site`: there, or in a copy of `folders` beside the data.

    Folders keep their places relative to each other, because programs find their libraries that way.
    """
    if may_run(site / program, place.account):
        return site / program
    copy = place.folder / f"programs-{version}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix="programs.", dir=place.folder))
        for folder in folders:
            if (site / folder).exists():
                shutil.copytree(site / folder, draft / folder, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if runs else 0o644)
        draft.rename(copy)
    return copy / program


def may_run(path: Path, account: Account | None) -> bool:
    """Whether the account (None: we) can run this program or enter this folder, and all that it lies in."""
    return account is None or all(_may_execute(each.stat(), account) for each in (path, *path.parents))


def _account(own: Path, folder: Path) -> Account | None:
    """Root starts servers as whoever owns the data; before there are data, as the owner of home; else as nobody."""
    if os.geteuid() != 0:
        return None
    data_dir = folder / "data"
    if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    home = own.parent.stat()
    try:
        entry = pwd.getpwuid(home.st_uid) if home.st_uid else pwd.getpwnam("nobody")
    except KeyError:  # a folder from outside a container; initdb wants an account with a name
        entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


def _may_execute(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _give(path: Path, account: Account | None) -> None:
    if account and os.geteuid() == 0:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
