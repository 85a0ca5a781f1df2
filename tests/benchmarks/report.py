"""The report: tables for people, and `bench.json` for programs."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from figures import TARGETS, Summary, verdicts
from rich.console import Console
from rich.table import Table

BUILD: Final = Path(__file__).parents[2] / "build"
WIDTH: Final = 130
BENCH: Final = BUILD / "bench.json"
GROWTH: Final = BUILD / "bench-growth.json"


def write(
    path: Path,
    figures: Mapping[str, Summary],
    *,
    settings: Mapping[str, Any],
    profile: Mapping[str, Summary],
    model: Sequence[Mapping[str, float]],
) -> None:
    """Medians under `figures`, by name; how far their runs lie apart under `spread`."""
    medians = {name: found.median for name, found in figures.items()}
    found = {
        "figures": medians,
        "targets": verdicts(medians),
        "spread": {name: summary._asdict() for name, summary in figures.items()},
        "profile_of_a_bulk_journal": {name: summary._asdict() for name, summary in profile.items()},
        "model": list(model),
        "settings": {**settings, **machine()},
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def write_growth(
    path: Path,
    ratios: Mapping[str, float],
    *,
    small: Mapping[str, Summary],
    large: Mapping[str, Summary],
    settings: Mapping[str, Any],
) -> None:
    """The same for `make bench-growth`, in a file of its own; the ratio of a whole run goes into `bench.json` too."""
    sizes = {"small": small, "large": large}
    found = {
        "figures": dict(ratios),
        "targets": verdicts(ratios),
        **{size: {name: one._asdict() for name, one in summaries.items()} for size, summaries in sizes.items()},
        "settings": dict(settings),
    }
    BUILD.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    add_growth()


def add_growth() -> None:
    """Bring the ratio of the last `make bench-growth` into `bench.json`, where both are there."""
    if BENCH.exists() and GROWTH.exists():
        whole, grown = (json.loads(path.read_text(encoding="utf-8")) for path in (BENCH, GROWTH))
        for part in ("figures", "targets"):
            whole.setdefault(part, {})["growth_rate_ratio"] = grown[part]["growth_rate_ratio"]
        whole["settings"]["growth"] = grown["settings"]
        BENCH.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "measured_at": at,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }


def show(
    figures: Mapping[str, Summary], *, profile: Mapping[str, Summary], model: Sequence[Mapping[str, float]]
) -> None:
    """Print the figures with targets, then all others, where the time of a bulk journal went, and the model."""
    console = Console(width=WIDTH)
    medians = {name: found.median for name, found in figures.items()}
    table = Table("figure", "median", "lowest", "highest", "floor or rival, same run", "target", "", title="Targets")
    with_target = [figure for figure in TARGETS if figure.name in medians]
    for figure in with_target:
        beside = f"{figure.beside} {number(medians[figure.beside])}" if figure.beside in medians else ""
        target = f"{'<=' if figure.at_most else '>='} {number(figure.target)}"
        verdict = "met" if figure.is_met(medians) else "[bold]MISSED[/bold]"
        table.add_row(figure.name, *_spread(figures[figure.name]), beside, target, verdict)
    console.print(table)
    others = {name: found for name, found in figures.items() if name not in {figure.name for figure in with_target}}
    _show_summaries(console, "Beside them", others)
    _show_summaries(console, "One journal in bulk: microseconds and bytes", profile)
    if model:
        _show_model(console, model)


def show_growth(ratios: Mapping[str, float], *, small: Mapping[str, Summary], large: Mapping[str, Summary]) -> None:
    """Print the ratios, and both sizes side by side."""
    target = next(figure for figure in TARGETS if figure.name == "growth_rate_ratio")
    table = Table("figure", "small", "lowest", "highest", "large", "lowest", "highest", title="Growth")
    for name in small:
        table.add_row(name, *_spread(small[name]), *_spread(large[name]))
    Console(width=WIDTH).print(table)
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.3f}")
    print(f"target: at least {target.target}, {'met' if target.is_met(ratios) else 'MISSED'}")


def number(value: float) -> str:
    """Three figures after the point where that says something, else none."""
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.0f}"


def _show_summaries(console: Console, title: str, summaries: Mapping[str, Summary]) -> None:
    if summaries:
        table = Table("figure", "median", "lowest", "highest", title=title)
        for name, found in summaries.items():
            table.add_row(name, *_spread(found))
        console.print(table)


def _show_model(console: Console, model: Sequence[Mapping[str, float]]) -> None:
    table = Table(*model[0], title="Model: journals a second of many workers, with cores enough")
    for row in model:
        table.add_row(*(number(value) if value > 100 else str(value) for value in row.values()))
    console.print(table)


def _spread(found: Summary) -> tuple[str, str, str]:
    return number(found.median), number(found.lowest), number(found.highest)
