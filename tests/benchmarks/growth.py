"""`make bench-growth`: whether posting stays as fast while the books grow, here from 100,000 to 10 million entries.

Both rates are of the same 100,000 ledgers, taken evenly, over windows of the same length that each begin with a
checkpoint and fresh statistics; the messages of a window are in the queue before. Before the first window each of the
two workers posts one entry to each ledger, so that both know all of the chart, and no ledger is new in any window. The
floor beside each rate says how the machine's own speed wandered. Two more windows of each size follow without another
checkpoint: `growth_rate_ratio_later` is theirs, and says how it is in the middle between two checkpoints.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import books
import figures
import floor
import posting
import report
import scale
import system as system_
import usage
from system import System

from ledgermill.messages import routes

ORGANIZATION: Final = "bench-growth"
ENTRIES: Final = 10_000_000
FILLED_AT_ONCE: Final = 50_000
LATER_WINDOWS: Final = 2
SIZES: Final = """
    SELECT c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'ledgermill' AND c.relkind = 'r' AND pg_total_relation_size(c.oid) > 1000000
    ORDER BY pg_total_relation_size(c.oid) DESC
"""


def main() -> None:
    arguments = _arguments()
    with system_.running() as system, scale.two_workers(system):
        system.open_organization(ORGANIZATION, leaves=arguments.ledgers)
        for lane in range(scale.LANES):
            journals = books.each_once(f"growth-{lane}", leaves=arguments.ledgers)
            posting.post(system, ORGANIZATION, journals, queue=routes.queue_of_lane(lane, lanes=scale.LANES))
        small = figures.summarize(_windows(system, "small", arguments))
        _fill(system, arguments)
        large = figures.summarize(_windows(system, "large", arguments))
        is_clean = system.is_clean()
        settings = {**system.shown_settings(), **vars(arguments), **report.machine(), "is_clean": is_clean}
    ratio = large["journals_per_s"].median / small["journals_per_s"].median
    of_floors = large["floor_journals_per_s"].median / small["floor_journals_per_s"].median
    later = large["later_journals_per_s"].median / small["later_journals_per_s"].median
    found = {
        "growth_rate_ratio": ratio,
        "growth_rate_ratio_by_floor": ratio / of_floors,
        "growth_rate_ratio_later": later,
    }
    path = report.GROWTH if arguments.entries >= ENTRIES else report.GROWTH.with_stem("bench-growth-part")
    report.write_growth(path, found, small=small, large=large, settings=settings)
    report.show_growth(found, small=small, large=large)
    print(f"{path} was written; verify is {'clean' if is_clean else 'NOT CLEAN'}")
    if not is_clean:
        sys.exit("the books are wrong after the runs")


def _windows(system: System, name: str, arguments: argparse.Namespace) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    counts = {ORGANIZATION: arguments.window}
    for number in range(arguments.repeats + 1):
        system.checkpoint()
        system.database.execute("ANALYZE")
        used = posting.queued_bulk(system, counts, run=f"growth-{name}-{number}", leaves=arguments.ledgers)
        floor_rate = floor.run(system, floor.read(system, ORGANIZATION, arguments.window))
        if number:  # the first one warms up
            found.append(_as_figures(system, used, arguments.window, floor_rate))
            _say(f"{name}: {found[-1]['journals_per_s']:,.0f} journals/s")
    for number in range(LATER_WINDOWS):
        used = posting.queued_bulk(system, counts, run=f"growth-{name}-later-{number}", leaves=arguments.ledgers)
        found.append({f"later_{figure}": value for figure, value in _rate(used, arguments.window).items()})
        _say(f"{name}, later: {found[-1]['later_journals_per_s']:,.0f} journals/s")
    return found


def _rate(used: Mapping[str, Any], window: int) -> dict[str, float]:
    return {
        "journals_per_s": window / used["seconds"],
        "wal_full_pages_per_journal": used["wal_full_pages"] / window,
        "others_cpu_share": used["others_share"],
    }


def _as_figures(system: System, used: dict[str, Any], window: int, floor_rate: float) -> dict[str, float]:
    posted = system.posted(ORGANIZATION)
    sizes = system.database.execute(SIZES).fetchall()
    found = {
        "entries": 2.0 * posted,
        **_rate(used, window),
        "floor_journals_per_s": floor_rate,
        "database_bytes_per_journal": sum(table + indexes for _, table, indexes in sizes) / posted,
        **usage.per_journal(used, window),
    }
    for name, table, indexes in sizes:
        found |= {f"{name}_mb": table / 1e6, f"{name}_indexes_mb": indexes / 1e6}
    return found


def _fill(system: System, arguments: argparse.Namespace) -> None:
    target = arguments.entries // 2
    while (posted := system.posted(ORGANIZATION)) < target:
        count, started = min(FILLED_AT_ONCE, target - posted), time.perf_counter()
        journals = books.journals(f"growth-fill-{posted}", count, leaves=arguments.ledgers)
        posting.post(system, ORGANIZATION, journals)
        _say(f"filling: {2 * (posted + count):,} entries, {count / (time.perf_counter() - started):,.0f} journals/s")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=ENTRIES, help="that the books have when they are large")
    parser.add_argument("--ledgers", type=int, default=100_000)
    parser.add_argument("--window", type=int, default=50_000, help="journals that a rate is measured over")
    parser.add_argument("--repeats", type=int, default=4, help="windows that count, after one that does not")
    return parser.parse_args()


if __name__ == "__main__":
    main()
