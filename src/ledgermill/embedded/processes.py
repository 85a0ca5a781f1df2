"""Programs that we start: run as another account, recognised by their arguments, waited for until they are gone."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.01
LINES_QUOTED = 15


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the operating system."""

    uid: int
    gid: int


def run(command: Sequence[str | Path], *, account: Account | None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in a session of its own, as `account` if one is given, and return what it printed.

    Output and errors come together in `stdout`. Nothing of our environment but PATH reaches it, so that no PGPORT or
    locale of the caller changes what it does.
    """
    return subprocess.run(
        [str(part) for part in command],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd="/",  # the caller's folder may be closed to the account
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,  # Ctrl-C in the terminal is for the supervisor, which stops servers in order
        umask=0o077,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def is_alive(pid: int, argument: Path) -> bool:
    """Whether the process `pid` is the one that was started with this argument, and not a zombie or a stranger."""
    try:
        given = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for a zombie
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return False
        return str(argument) in run(["ps", "-ww", "-o", "args=", "-p", str(pid)], account=None).stdout  # macOS
    return os.fsencode(argument) in given.split(b"\0")


def is_gone_within(timeout_s: float, pid: int, argument: Path) -> bool:
    """Wait until the process that `is_alive` describes is gone; False if it is still there after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid, argument):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def end(pid: int, argument: Path, signals: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send one signal after the other, each with the seconds that it has to work, until the process is gone."""
    for number, timeout_s in signals:
        if not is_alive(pid, argument):
            return
        os.kill(pid, number)
        if is_gone_within(timeout_s, pid, argument):
            return


def tail(log: Path) -> str:
    """The last lines of a server's log, to be quoted in an error."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LINES_QUOTED:])
