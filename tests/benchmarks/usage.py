"""What a measurement used: seconds, CPU by process, time by phase of the workers, and bytes of WAL and tables."""

import gc
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from system import System

from ledgermill.broker.publishing import METRICS_KEY

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PHASE: Final = "seconds:"
BATCHES: Final = "batches"
COUNTED_SOON_AFTER_S: Final = 0.05  # workers count their phases after the commit that we see
BACKEND: Final = re.compile(r"postgres: (\S+) \S+ \S+\(\d+\)")


@contextmanager
def watching(system: System) -> Iterator[dict[str, Any]]:
    """A dict that is filled at the end: `seconds`, `cpu_s` by process, `cpu_share` and `others_share` (what we used of
    all cores, and what somebody else did), `phase_s` by phase, `batches` (transactions of workers), `wal_bytes`,
    `wal_full_pages`, `table_bytes`.
    """
    used: dict[str, Any] = {}
    disk, counted, cpu = _disk(system), _counted(system), cpu_s(system)
    machine, started = _machine_cpu_s(), time.perf_counter()
    yield used
    used["seconds"] = time.perf_counter() - started
    all_s = _machine_cpu_s() - machine
    used["cpu_s"] = _difference(cpu_s(system), cpu)
    ours_s, core_s = sum(used["cpu_s"].values()), used["seconds"] * (os.cpu_count() or 1)
    used["cpu_share"], used["others_share"] = ours_s / core_s, max(0.0, all_s - ours_s) / core_s
    time.sleep(COUNTED_SOON_AFTER_S)
    counted = _difference(_counted(system), counted)
    used["batches"] = counted.pop(BATCHES, 0.0)
    used["phase_s"] = {name.removeprefix(PHASE): seconds for name, seconds in counted.items()}
    used |= _difference(_disk(system), disk)


def per_journal(used: Mapping[str, Any], journals: int) -> dict[str, float]:
    """The profile of one journal: microseconds of wall clock, of each phase and of each process, and bytes."""
    micros = {
        "wall_us": used["seconds"],
        **{f"phase_{name}_us": seconds for name, seconds in used["phase_s"].items()},
        **{f"cpu_{name}_us": seconds for name, seconds in used["cpu_s"].items()},
        "cpu_all_us": sum(used["cpu_s"].values()),
    }
    disk = {name: used[name] / journals for name in ("wal_bytes", "table_bytes")}
    return {name: seconds / journals * 1e6 for name, seconds in micros.items()} | disk


def cpu_s(system: System) -> dict[str, float]:
    """CPU seconds so far, by process; those of ended children count for their parent."""
    everything = _processes()
    seconds: Counter[str] = Counter({"suite": time.process_time()})
    for name, pid in system.processes.items():
        if pid in everything:
            seconds[_name(name)] += everything[pid].cpu_s
        for place, child in enumerate(sorted(_descendants(everything, pid)), 1):
            seconds[_name_of_child(name, child, place)] += everything[child].cpu_s
    return dict(seconds)


@contextmanager
def without_collector_pauses() -> Iterator[None]:
    """What exists now is not looked at by the cycle collector: a client would not hold all that it will send later."""
    gc.freeze()
    yield
    gc.unfreeze()


class _Process(NamedTuple):
    parent: int
    cpu_s: float


def _name(process: str) -> str:
    if process == "postgres":
        return "postgres_background"
    return f"{process}_main" if process.startswith("worker") else process


def _name_of_child(name: str, pid: int, place: int) -> str:
    if name.startswith("worker"):
        return f"{name}_child_{place}"
    if name == "postgres":
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
        except OSError:
            title = ""
        backend = BACKEND.match(title)
        return f"postgres_{backend[1].removeprefix('ledgermill_')}" if backend else "postgres_background"
    return name


def _processes() -> dict[int, _Process]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            found[int(folder.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])) / TICKS_PER_S)
    return found


def _descendants(everything: Mapping[int, _Process], ancestor: int) -> list[int]:
    children = [pid for pid, one in everything.items() if one.parent == ancestor]
    return children + [pid for child in children for pid in _descendants(everything, child)]


def _machine_cpu_s() -> float:
    """CPU seconds of the whole machine so far, in use."""
    ticks = [int(text) for text in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:8]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS_PER_S


def _counted(system: System) -> dict[str, float]:
    """What the workers count: seconds in each phase so far (`lock` holds the wait for the posting lock), and batches."""
    counters: dict[bytes, bytes] = system.redis.hgetall(METRICS_KEY)  # type: ignore[assignment]  # sync client
    found = {name.decode(): float(value) for name, value in counters.items()}
    return {name: value for name, value in found.items() if name.startswith(PHASE) or name == BATCHES}


def _disk(system: System) -> dict[str, float]:
    row = system.database.execute(
        """
        SELECT pg_current_wal_lsn() - '0/0'::pg_lsn,
               (SELECT wal_fpi FROM pg_stat_wal),
               (SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'ledgermill' AND c.relkind = 'r')
        """
    ).fetchone()
    return dict(zip(("wal_bytes", "wal_full_pages", "table_bytes"), map(float, row or ()), strict=True))


def _difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}
