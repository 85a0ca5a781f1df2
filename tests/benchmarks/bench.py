"""`make bench`: how fast ledgermill is, each figure beside a floor or a rival of the same run. docs/performance.md
explains the figures. Exit code 1: the books are wrong afterwards, or a ratio is worse than the baseline allows.
"""

import argparse
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import figures
import latency
import model
import over_http
import posting
import report
import scale
import singles
import system as system_
from figures import Summary
from system import System

BASELINE: Final = Path(__file__).with_name("baseline.json")
SECTIONS: Final = ("posting", "singles", "latency", "http", "scale")
LEAST_RUNS: Final = 3  # for medians that are compared
WARM_UP: Final = 0.3  # of the sizes: a first run that does not count, since it is slower
LATENCY_LOAD: Final = 0.1  # of the bulk rate


class Sizes(NamedTuple):
    """How much each run measures."""

    journals: int = 100_000
    scale_journals: int = 100_000
    http_journals: int = 50_000
    single_messages: int = 20_000
    no_ops: int = 5_000
    round_trips: int = 200
    latency_s: float = 5.0
    http_s: float = 3.0

    def times(self, share: float) -> "Sizes":
        """Smaller ones; journals stay whole messages."""
        shares = {name: value * share for name, value in self._asdict().items()}
        thousands = ("journals", "scale_journals", "http_journals", "single_messages", "no_ops")
        return Sizes(
            **{name: max(1_000, int(shares[name]) // 1_000 * 1_000) for name in thousands},
            round_trips=max(20, int(shares["round_trips"])),
            latency_s=max(1.0, shares["latency_s"]),
            http_s=max(1.0, shares["http_s"]),
        )


class Run(NamedTuple):
    """The figures of one run, and the profile of its bulk."""

    figures: dict[str, float]
    profile: dict[str, float]


def main() -> None:
    arguments = _arguments()
    started = time.perf_counter()
    sections = arguments.only or SECTIONS
    sizes = Sizes().times(0.1) if arguments.quick else Sizes()
    with system_.running() as system:
        runs = _measure(system, sizes, runs=1 if arguments.quick else arguments.runs, sections=sections)
        settings = {**system.shown_settings(), **sizes._asdict(), "runs": len(runs), "sections": list(sections)}
        deadlocks = posting.deadlocks(system)
        is_clean = system.is_clean()
    for run in runs:
        run.figures["deadlocks"] = deadlocks
    found = figures.summarize([run.figures for run in runs])
    profile = figures.summarize([run.profile for run in runs])
    extrapolated = _extrapolate(found) if "scale" in sections else []
    settings |= {"is_clean": is_clean, "took_s": round(time.perf_counter() - started)}
    is_whole = not arguments.quick and not arguments.only and len(runs) >= LEAST_RUNS
    path = report.BENCH if is_whole else report.BENCH.with_stem("bench-part")
    report.write(path, found, settings=settings, profile=profile, model=extrapolated)
    if is_whole:
        report.add_growth()
    report.show(found, profile=profile, model=extrapolated)
    print(f"{path} was written; verify is {'clean' if is_clean else 'NOT CLEAN'}; {settings['took_s']} s")
    if not is_clean:
        sys.exit("the books are wrong after the runs")
    if is_whole:
        _compare(found, accept=arguments.accept)


def _measure(system: System, sizes: Sizes, *, runs: int, sections: tuple[str, ...]) -> list[Run]:
    """All runs: the sections with one worker first, in turn, then those of two workers."""
    found = [Run({}, {}) for _ in range(runs)]
    posting.open_organizations(system)
    if set(sections) - {"scale"}:
        with ExitStack() as stack:
            stack.enter_context(system_.worker(system))
            url = stack.enter_context(system_.api(system)) if "http" in sections else ""
            _one_worker(system, sizes.times(WARM_UP), Run({}, {}), "warm", sections, url)
            for number, run in enumerate(found, 1):
                _one_worker(system, sizes, run, f"run{number}", sections, url)
    if "scale" in sections:
        by_lane = scale.open_organizations(system)
        with scale.two_workers(system):
            scale.measure(system, by_lane, sizes.times(WARM_UP).scale_journals, "warm")
            for number, run in enumerate(found, 1):
                system.checkpoint()
                run.figures.update(scale.measure(system, by_lane, sizes.scale_journals, f"run{number}"))
                _say(f"run{number}: scale")
    return found


def _one_worker(system: System, sizes: Sizes, run: Run, name: str, sections: tuple[str, ...], url: str) -> None:
    system.checkpoint()
    if "posting" in sections:
        found, profile = posting.measure(system, sizes.journals, name)
        run.figures.update(found)
        run.profile.update(profile)
        _say(f"{name}: posting")
    if "singles" in sections:
        run.figures.update(singles.measure(system, ours=sizes.single_messages, no_ops=sizes.no_ops, run=name))
        _say(f"{name}: singles")
    if {"latency", "http"} & set(sections) and "bulk_journals_per_s" not in run.figures:
        used = posting.bulk(system, posting.UNIFORM, f"{name}-bulk", sizes.journals)
        run.figures["bulk_journals_per_s"] = sizes.journals / used["seconds"]
    if "latency" in sections:
        rate = run.figures["bulk_journals_per_s"] * LATENCY_LOAD
        run.figures.update(latency.measure(system, journals_per_s=rate, seconds=sizes.latency_s, run=name))
        _say(f"{name}: latency")
    if "http" in sections:
        found = over_http.measure(
            system,
            url,
            round_trips=sizes.round_trips,
            journals=sizes.http_journals,
            seconds=sizes.http_s,
            run=name,
        )
        found["ndjson_over_bulk"] = found["ndjson_journals_per_s"] / run.figures["bulk_journals_per_s"]
        run.figures.update(found)
        _say(f"{name}: http")


def _extrapolate(found: dict[str, Summary]) -> list[dict[str, float]]:
    service = model.Service(*(found[f"model_{name}_ms"].median / 1000 for name in ("parallel", "serial", "cpu")))
    return scale.extrapolate(service, batch_journals=found["model_batch_journals"].median)


def _compare(found: dict[str, Summary], *, accept: bool) -> None:
    if accept:
        BASELINE.write_text(json.dumps(figures.new_baseline(found), indent=2) + "\n", encoding="utf-8")
        print(f"{BASELINE.name} holds the ratios of this run from now on")
        return
    baseline = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    if not baseline:
        print("no baseline to compare with: accept one with --accept")
    if worse := figures.regressions({name: summary.median for name, summary in found.items()}, baseline):
        sys.exit("\n".join(worse))


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="that count, after one that does not")
    parser.add_argument("--quick", action="store_true", help="one run of a tenth of the size; compared with nothing")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="these sections, compared with nothing")
    parser.add_argument("--accept", action="store_true", help="make the ratios of this run the baseline")
    return parser.parse_args()


if __name__ == "__main__":
    main()
