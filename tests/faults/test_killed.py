"""Whatever fails while journals are published, each is posted once: the short form of a run, and what it would notice."""

import os
from pathlib import Path

import pytest
from campaign import run
from mutants import MUTANTS
from planning import plan_of
from reporting import report

SEED = int(os.environ.get("LEDGERMILL_SEED", "20261121"))
LEAST_JOBS = 10_000
LEAST_FAULTS = 15  # of some 50, where the machine is busy with other things

# What a mutant must be found by, one of these at least.
FOUND_BY = {
    "no_idempotency": ("double:", "stalled:"),
    "lock_order_reversed": ("deadlocks:", "stalled:"),
    "update_dropped": ("invariant:",),
}


@pytest.mark.timeout(400)
def test_every_acknowledged_journal_is_posted_once_whatever_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print()
        result = run(plan_of(SEED), tmp_path)
        print(report(result))
    assert result.findings == []
    assert result.judgement.jobs >= LEAST_JOBS
    assert result.faults >= LEAST_FAULTS


@pytest.mark.skipif("LEDGERMILL_MUTANTS" not in os.environ, reason="takes minutes: `make faults` runs it")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_a_run_notices_workers_that_are_broken_on_purpose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mutant: str
) -> None:
    with capsys.disabled():
        print(f"\n{mutant}")
        result = run(plan_of(SEED, mutant=mutant), tmp_path)
        print(*(f"FINDING {finding}"[:300] for finding in result.findings), result.line(), sep="\n")
    assert any(finding.startswith(FOUND_BY[mutant]) for finding in result.findings)
