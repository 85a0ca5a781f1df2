"""The suite's arithmetic: medians and spreads, percentiles, verdicts on targets, and what counts as a regression."""

import pytest
from benchmarks import figures
from benchmarks.figures import Summary


def test_a_figure_is_the_median_of_its_runs_with_the_lowest_and_the_highest() -> None:
    runs = [{"rate": 30.0, "ratio": 0.5}, {"rate": 10.0, "ratio": 0.7}, {"rate": 20.0, "ratio": 0.6}]

    assert figures.summarize(runs) == {
        "rate": Summary(20.0, 10.0, 30.0, [30.0, 10.0, 20.0]),
        "ratio": Summary(0.6, 0.5, 0.7, [0.5, 0.7, 0.6]),
    }


def test_a_figure_that_one_run_lacks_is_of_the_others() -> None:
    assert figures.summarize([{"a": 1.0}, {"a": 3.0, "b": 5.0}])["b"] == Summary(5.0, 5.0, 5.0, [5.0])


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0), (0, 1.0), (99.5, 100.0)]
)
def test_a_percentile_is_a_value_that_was_seen_by_nearest_rank(percent: float, expected: float) -> None:
    values = [float(number) for number in range(100, 0, -1)]

    assert figures.percentile(values, percent) == expected


def test_the_percentiles_of_one_value_are_that_value() -> None:
    assert [figures.percentile([7.0], percent) for percent in (0, 50, 99, 100)] == [7.0] * 4


def test_a_baseline_holds_ratios_only_and_tolerates_what_they_spread_but_a_tenth_at_least() -> None:
    summaries = {
        "bulk_over_floor": Summary(0.5, 0.49, 0.51, []),
        "hot_over_uniform": Summary(1.0, 0.9, 1.2, []),
        "bulk_journals_per_s": Summary(25_000, 20_000, 30_000, []),
    }

    assert figures.new_baseline(summaries) == {
        "bulk_over_floor": {"value": 0.5, "tolerance": 0.1},
        "hot_over_uniform": {"value": 1.0, "tolerance": 0.3},
    }


BASELINE = {
    "bulk_over_floor": {"value": 0.5, "tolerance": 0.1},
    "depth8_over_depth1": {"value": 1.1, "tolerance": 0.1},
}


@pytest.mark.parametrize(
    ("name", "value", "is_worse"),
    [
        ("bulk_over_floor", 0.46, False),
        ("bulk_over_floor", 0.44, True),
        ("bulk_over_floor", 0.9, False),
        ("depth8_over_depth1", 1.2, False),
        ("depth8_over_depth1", 1.22, True),
        ("depth8_over_depth1", 0.9, False),
    ],
)
def test_a_ratio_regressed_where_it_is_worse_than_tolerated_whichever_way_is_worse(
    name: str, value: float, is_worse: bool
) -> None:
    found = figures.regressions({name: value}, BASELINE)

    assert [line.split(":")[0] for line in found] == ([f"REGRESSION {name}"] if is_worse else [])


def test_a_regression_says_what_it_was_and_what_it_may_be() -> None:
    (line,) = figures.regressions({"bulk_over_floor": 0.3}, BASELINE)

    assert line == "REGRESSION bulk_over_floor: 0.300 is below 0.450 (baseline 0.500, tolerance 10%)"


def test_what_was_not_measured_or_has_no_baseline_is_no_regression() -> None:
    assert figures.regressions({"single_over_noop": 0.1}, BASELINE) == []
    assert figures.regressions({}, BASELINE) == []


def test_verdicts_are_of_what_was_measured_and_know_which_way_a_target_points() -> None:
    found = figures.verdicts({"latency_p50_ms": 9.0, "bulk_over_floor": 0.3, "floor_journals_per_s": 60_000})

    assert found == {
        "bulk_over_floor": {"target": 0.45, "must_be": "at least", "is_met": False},
        "latency_p50_ms": {"target": 10, "must_be": "at most", "is_met": True},
    }


@pytest.mark.parametrize(("share", "is_met"), [(0.95, True), (0.8, False)])
def test_two_workers_that_fill_the_cores_meet_their_target_too(share: float, is_met: bool) -> None:
    medians = {"two_workers_over_one": 1.2, "two_workers_cpu_share": share}

    assert figures.verdicts(medians)["two_workers_over_one"]["is_met"] is is_met
