"""Programs kept running: started together, started again when they die, ended together, and found by their mark."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledgermill.embedded import processes
from ledgermill.observability import logger

# In the environment of all that we start, and of what that starts in turn; so leftovers are found, and nobody else is.
MARK: Final = "LEDGERMILL_SUPERVISED_IN"
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
LIVED_LONG_S: Final = 60.0
POLL_S: Final = 0.05

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be kept running. `heartbeat` is a file that it touches, removed before each start."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    is_ready: Callable[[], bool]
    heartbeat: Path | None = None


@dataclass(slots=True)
class _Kept:
    program: Program
    process: subprocess.Popen[bytes]
    started_at: float
    is_ready: bool = False
    deaths: int = 0
    start_again_at: float | None = field(default=None)


class Supervisor:
    """The programs of one home, each in a session of its own with its output in `home/log`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._kept: dict[str, _Kept] = {}

    @property
    def is_ready(self) -> bool:
        """Whether all programs run and have been ready since they started."""
        return bool(self._kept) and all(kept.is_ready for kept in self._kept.values())

    @property
    def not_ready(self) -> list[str]:
        return [name for name, kept in self._kept.items() if not kept.is_ready]

    @property
    def pids(self) -> dict[str, int]:
        return {name: kept.process.pid for name, kept in self._kept.items() if kept.start_again_at is None}

    @property
    def deaths(self) -> dict[str, int]:
        """How often each program died in a row."""
        return {name: kept.deaths for name, kept in self._kept.items() if kept.deaths}

    def start(self, programs: Sequence[Program]) -> None:
        """Start these beside each other; `tend` then says when they are ready."""
        for program in programs:
            log_file = self.log_of(program.name)
            if log_file.exists():
                log_file.replace(log_file.with_suffix(".log.1"))
            self._kept[program.name] = _Kept(program, self._spawn(program), time.monotonic())

    def tend(self) -> None:
        """Look once after every program: note who is ready, and start again who died, later each time."""
        now = time.monotonic()
        for kept in self._kept.values():
            if kept.start_again_at is not None:
                if now >= kept.start_again_at:
                    kept.process, kept.started_at, kept.start_again_at = self._spawn(kept.program), now, None
            elif (exit_code := kept.process.poll()) is not None:
                _signal_group(kept.process.pid, signal.SIGKILL)  # what it leaves behind holds its port or its message
                kept.deaths = 1 if now - kept.started_at > LIVED_LONG_S else kept.deaths + 1
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (kept.deaths - 1))
                kept.start_again_at, kept.is_ready = now + pause_s, False
                log.warning("died; starts again", program=kept.program.name, exit_code=exit_code, in_s=pause_s)
            elif not kept.is_ready:
                kept.is_ready = kept.program.is_ready()

    def stop(self, *, within_s: float) -> None:
        """Ask all to finish what they are at, and kill what is left of them after `within_s`."""
        running = [kept.process for kept in self._kept.values() if kept.process.poll() is None]
        for process in running:
            process.terminate()
        give_up_at = time.monotonic() + within_s
        for process in running:
            try:
                process.wait(max(0.0, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("did not finish in time and is killed", pid=process.pid)
                _signal_group(process.pid, signal.SIGKILL)
                process.wait()
        self._kept.clear()

    def log_of(self, name: str) -> Path:
        return self.home / "log" / f"{name}.log"

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        if program.heartbeat is not None:
            program.heartbeat.unlink(missing_ok=True)
        with self.log_of(program.name).open("ab") as output:
            return subprocess.Popen(
                program.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.home / "run",
                env={**program.environment, MARK: str(self.home)},
                start_new_session=True,  # Ctrl-C in the terminal is for us, who stop them in order
            )


def end_leftovers(home: Path, *, within_s: float) -> int:
    """End what a supervisor of this home left behind when it was killed; how many processes that were."""
    found = set(marked(home))
    for pid in found:
        if _group_of(pid) == pid:  # a worker ends its own children; a signal to these would interrupt their work
            _signal(pid, signal.SIGTERM)
    give_up_at = time.monotonic() + within_s
    while (left := set(marked(home))) and time.monotonic() < give_up_at:
        if not any(_group_of(pid) == pid for pid in left):
            break  # children whose parent is gone end by nobody's word
        time.sleep(POLL_S)
    while left:
        for pid in left:
            _signal(pid, signal.SIGKILL)
        time.sleep(POLL_S)
        left = set(marked(home))
    return len(found)


def marked(home: Path) -> Iterator[int]:
    """The processes that a supervisor of this home started, and those that they started."""
    mark = f"{MARK}={home}"
    if not Path("/proc/self/environ").exists():  # macOS: ps shows the environment behind the arguments
        listed = processes.run(["ps", "-axwwE", "-o", "pid=,command="], account=None).stdout
        yield from (int(line.split()[0]) for line in listed.splitlines() if f"{mark} " in f"{line} ")
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # ended meanwhile, or another account's
                continue
            if os.fsencode(mark) in variables:
                yield int(entry.name)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
