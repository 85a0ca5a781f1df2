"""Verify: hold the books against everything that they promise, at one moment, and report what does not hold."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from ledgermill.storage import connections, organizations
from ledgermill.storage import verify as storage
from ledgermill.storage.checks import CHECKS
from ledgermill.storage.connections import Engine


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found. `checked` counts the rows that it looked at, `examples` are the first violations."""

    name: str
    sentence: str
    subject: str
    checked: int
    violations: int
    examples: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks. `positions` has, by organization, the last journal that was looked at."""

    checks: tuple[CheckResult, ...]
    positions: Mapping[str, int]
    took_s: float

    @property
    def is_clean(self) -> bool:
        return not any(check.violations for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "is_clean": self.is_clean,
            "took_s": round(self.took_s, 3),
            "positions": dict(self.positions),
            "checks": [{**asdict(check), "examples": list(check.examples)} for check in self.checks],
        }

    def as_text(self) -> str:
        """The report for people: a line for each check, below it the examples of what is wrong."""
        lines = [f"{code}: up to position {position:,}" for code, position in self.positions.items()]
        for check in self.checks:
            verdict = f"WRONG {check.violations:,}" if check.violations else "ok"
            lines.append(f"{verdict:<8} {check.name}: {check.sentence} ({check.checked:,} of {check.subject})")
            lines.extend(f"         {json.dumps(example)}" for example in check.examples)
        wrong = sum(bool(check.violations) for check in self.checks)
        result = f"{wrong} of {len(self.checks)} checks failed" if wrong else f"all {len(self.checks)} checks hold"
        return "\n".join([*lines, f"{result}; {self.took_s:.1f} s"])


def verify(engine: Engine, *, organization: str | None = None) -> Report:
    """Check one organization, by its code or id, or all of them, in one snapshot that blocks nobody.

    Raises: OrganizationNotFound, and what the database says when it cannot be read (storage.failures.DatabaseError).
    """
    started = perf_counter()
    with connections.snapshot(engine) as tx:
        storage.prepare(tx)
        organization_id = None if organization is None else organizations.find(tx, organization)["organization_id"]
        positions = storage.positions(tx, organization_id)
        rows = storage.count_rows(tx, organization_id)
        results = []
        for check in CHECKS:
            found = storage.find(tx, check, organization_id)
            results.append(
                CheckResult(check.name, check.sentence, check.subject, rows[check.subject], found.count, found.examples)
            )
    return Report(tuple(results), positions, perf_counter() - started)
