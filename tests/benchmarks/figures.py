"""The figures of the suite: what each is held against, how runs become one number, and what counts as a regression."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LEAST_TOLERANCE = 0.10  # of a ratio: what the same code differs by from run to run on a shared machine
SPREADS_TOLERATED = 1.0  # a figure that spread more in its own runs is allowed as much below


class Figure(NamedTuple):
    """A figure with a target. `beside` names the floor or rival of the same run; `compared`: a ratio for the baseline.

    `instead` is another figure, and from which value on it stands in for the target.
    """

    name: str
    target: float
    at_most: bool = False
    beside: str | None = None
    compared: bool = False
    instead: tuple[str, float] | None = None

    def is_met(self, medians: Mapping[str, float]) -> bool:
        if self.instead and medians.get(self.instead[0], 0.0) >= self.instead[1]:
            return True
        value = medians[self.name]
        return value <= self.target if self.at_most else value >= self.target


TARGETS = (
    Figure("bulk_over_floor", 0.45, beside="floor_journals_per_s", compared=True),
    Figure("bulk_journals_per_s", 20_000, beside="floor_journals_per_s"),
    Figure("single_over_noop", 5.0, beside="celery_noop_per_s", compared=True),
    Figure("producer_calls_per_s", 15_000, beside="celery_noop_per_s"),
    Figure("hot_over_uniform", 0.9, beside="bulk_journals_per_s", compared=True),
    Figure("deadlocks", 0, at_most=True),
    Figure("latency_p50_ms", 10, at_most=True, beside="latency_journals_per_s"),
    Figure("latency_p99_ms", 50, at_most=True, beside="latency_journals_per_s"),
    Figure("wait_p50_ms", 12, at_most=True),
    Figure("depth8_over_depth1", 1.25, at_most=True, beside="depth1_journals_per_s", compared=True),
    Figure("growth_rate_ratio", 0.9, beside="rate_small_journals_per_s"),
    Figure("ndjson_over_bulk", 0.7, beside="bulk_journals_per_s", compared=True),
    Figure("job_gets_per_s", 4_000),
    Figure("posts_per_s", 1_000),
    Figure(
        "two_workers_over_one",
        1.5,
        beside="one_worker_journals_per_s",
        compared=True,
        instead=("two_workers_cpu_share", 0.9),
    ),
)
COMPARED = (
    *(figure for figure in TARGETS if figure.compared),
    Figure("queued_over_floor", 0.0, beside="floor_journals_per_s", compared=True),
)


class Summary(NamedTuple):
    """A figure over the runs."""

    median: float
    lowest: float
    highest: float
    runs: list[float]


def summarize(runs: Sequence[Mapping[str, float]]) -> dict[str, Summary]:
    """Each figure's median and spread over the runs that have it, in the order in which they first appear."""
    names = dict.fromkeys(name for run in runs for name in run)
    found = {name: [run[name] for run in runs if name in run] for name in names}
    return {name: Summary(statistics.median(all_), min(all_), max(all_), all_) for name, all_ in found.items()}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many percent of them do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def new_baseline(summaries: Mapping[str, Summary]) -> dict[str, dict[str, float]]:
    """The ratios to hold later runs against, each with how much worse it may be, as a share of it."""
    baseline = {}
    for figure in COMPARED:
        if found := summaries.get(figure.name):
            spread = (found.highest - found.lowest) / found.median
            tolerance = max(LEAST_TOLERANCE, SPREADS_TOLERATED * spread)
            baseline[figure.name] = {"value": round(found.median, 4), "tolerance": round(tolerance, 3)}
    return baseline


def regressions(medians: Mapping[str, float], baseline: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line for each ratio that is worse than the baseline allows. A figure that was not measured says nothing."""
    found = []
    for figure in COMPARED:
        if figure.name not in baseline or figure.name not in medians:
            continue
        before, tolerance = baseline[figure.name]["value"], baseline[figure.name]["tolerance"]
        sign = 1 if figure.at_most else -1
        limit = before * (1 + sign * tolerance)
        now = medians[figure.name]
        if sign * (now - limit) > 0:
            found.append(
                f"REGRESSION {figure.name}: {now:.3f} is {'above' if figure.at_most else 'below'} {limit:.3f} "
                f"(baseline {before:.3f}, tolerance {tolerance:.0%})"
            )
    return found


def verdicts(medians: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The targets of what was measured, and whether they are met."""
    return {
        figure.name: {
            "target": figure.target,
            "must_be": "at most" if figure.at_most else "at least",
            "is_met": figure.is_met(medians),
        }
        for figure in TARGETS
        if figure.name in medians
    }
