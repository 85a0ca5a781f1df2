"""A year of a real bank, posted by real workers: our balances are the bank's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import environment

from ledgermill.config import Settings

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "bank"

pytestmark = [
    pytest.mark.skipif(not (DATA / "transactions-1993.csv").is_file(), reason="the bank's data is not here"),
    pytest.mark.timeout(400),
]


def run_example(settings: Settings, report: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "examples" / "bank.py"), str(DATA), "--report", str(report), *options]
    ended = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    print(ended.stdout)
    return dict(json.loads(report.read_text()))


def test_a_year_of_a_bank_is_posted_once_and_every_balance_is_the_banks(
    settings: Settings, workers: list[int], tmp_path: Path
) -> None:
    journal = tmp_path / "bank.journal"
    report = run_example(settings, tmp_path / "report.json", "--again", "--hledger", str(journal))

    assert report["posted"] == 28_205
    assert report["rejected"] == {}
    assert report["again"]["changed"] == []
    assert report["again"]["tables"]["entry"].startswith("56410 rows")  # two for each journal

    days = report["account_days"]
    assert days["agree"] + days["rounded"] == 23_440  # every day on which an account was booked on
    assert days["others"] == 0
    assert 0.055 < days["rounded"] / 23_440 < 0.065  # "about 6 of 100", says the data's README
    assert report["wrong_totals"] == 0
    if shutil.which("hledger"):
        assert report["hledger"]["accounts"] > 1_139
        assert report["hledger"]["differences"] == 0
    else:
        assert journal.read_text().count("\n\n") == 28_204

    # A run of another day finds everything there.
    later = run_example(settings, tmp_path / "later.json")
    assert later["posted"] == 28_205
    assert later["account_days"] == days
