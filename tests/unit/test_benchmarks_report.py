"""What the suite writes for programs, and how the ratio of its own long command gets into the same file."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import figures

SUITE = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The module as the suite imports it, beside its siblings, writing to a folder of the test."""
    monkeypatch.syspath_prepend(SUITE)
    found = importlib.import_module("report")
    for name, value in (("BUILD", tmp_path), ("BENCH", tmp_path / "b.json"), ("GROWTH", tmp_path / "g.json")):
        monkeypatch.setattr(found, name, value)
    return found


def write_bench(report: Any) -> dict[str, Any]:
    summaries = figures.summarize(
        [{"bulk_over_floor": 0.5, "floor_journals_per_s": 60_000.0}, {"bulk_over_floor": 0.4}]
    )
    report.write(report.BENCH, summaries, settings={"runs": 2}, profile={}, model=[])
    return dict(json.loads(report.BENCH.read_text()))


def write_growth(report: Any, ratio: float) -> None:
    small = large = figures.summarize([{"journals_per_s": 10_000.0}])
    report.write_growth(
        report.GROWTH, {"growth_rate_ratio": ratio}, small=small, large=large, settings={"entries": 10_000_000}
    )


def test_figures_are_medians_by_name_with_their_runs_and_targets_beside_them(report: Any) -> None:
    found = write_bench(report)

    assert found["figures"] == {"bulk_over_floor": 0.45, "floor_journals_per_s": 60_000.0}
    assert found["spread"]["bulk_over_floor"] == {"median": 0.45, "lowest": 0.4, "highest": 0.5, "runs": [0.5, 0.4]}
    assert found["targets"]["bulk_over_floor"]["is_met"] is True
    assert {"runs", "measured_at", "cpus", "python"} <= found["settings"].keys()


@pytest.mark.parametrize("growth_first", [True, False])
def test_the_growth_ratio_is_in_the_whole_report_whichever_was_measured_first(report: Any, growth_first: bool) -> None:
    if growth_first:
        write_growth(report, 0.95)
        write_bench(report)
        report.add_growth()
    else:
        write_bench(report)
        write_growth(report, 0.95)

    found = json.loads(report.BENCH.read_text())
    assert found["figures"]["growth_rate_ratio"] == 0.95
    assert found["targets"]["growth_rate_ratio"]["is_met"] is True
    assert found["settings"]["growth"] == {"entries": 10_000_000}


def test_growth_alone_makes_no_whole_report(report: Any) -> None:
    write_growth(report, 0.95)

    assert not report.BENCH.exists()


def test_all_tables_print_also_what_has_no_target(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    summaries = figures.summarize([{"bulk_over_floor": 0.3, "floor_journals_per_s": 60_000.0, "deadlocks": 0}])
    rows = [{"workers": 1, "organizations": 1, "bound": 1e4, "one_queue": 1e4, "lanes": 1e4}]

    report.show(summaries, profile=figures.summarize([{"wall_us": 40.0}]), model=rows)
    report.show_growth({"growth_rate_ratio": 0.8}, small=summaries, large=summaries)

    printed = capsys.readouterr().out
    assert "floor_journals_per_s 60,000" in printed
    assert "MISSED" in printed
    assert "wall_us" in printed
    assert "growth_rate_ratio 0.800" in printed


def test_numbers_show_what_says_something(report: Any) -> None:
    assert [report.number(value) for value in (0.4567, 12.3, 61_234.5, 0)] == ["0.457", "12", "61,234", "0.000"]
