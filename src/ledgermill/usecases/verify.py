"""Verify: hold the books against everything that they promise, at one moment, and report what does not hold."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from ledgermill.storage import connections, organizations, verified
from ledgermill.storage import verify as storage
from ledgermill.storage.connections import Engine, Transaction
from ledgermill.storage.scopes import Place, Scope, not_made, subject_of


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
    """The results of all checks that were made.

    `positions` has, by organization, the last journal that was looked at, and `since`, where not all of the books were,
    the last one that was not. `not_made` names the checks that only a full run can make.
    """

    checks: tuple[CheckResult, ...]
    positions: Mapping[str, int]
    took_s: float
    since: Mapping[str, int] = field(default_factory=dict)
    not_made: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return not any(check.violations for check in self.checks)

    @property
    def found(self) -> dict[str, int]:
        """The violations of each check that found any."""
        return {check.name: check.violations for check in self.checks if check.violations}

    def as_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "is_clean": self.is_clean,
            "took_s": round(self.took_s, 3),
            "positions": dict(self.positions),
            "since": dict(self.since),
            "checks": [{**asdict(check), "examples": list(check.examples)} for check in self.checks],
            "not_made": list(self.not_made),
        }

    def as_text(self) -> str:
        """The report for people: a line for each check, below it the examples of what is wrong."""
        lines = [
            f"{code}: {f'after position {self.since[code]:,} ' if code in self.since else ''}up to position {last:,}"
            for code, last in self.positions.items()
        ]
        for check in self.checks:
            verdict = f"WRONG {check.violations:,}" if check.violations else "ok"
            lines.append(f"{verdict:<8} {check.name}: {check.sentence} ({check.checked:,} of {check.subject})")
            lines.extend(f"         {json.dumps(example)}" for example in check.examples)
        if self.not_made:
            lines.append(f"not made, since only a full run can: {', '.join(self.not_made)}")
        wrong = sum(bool(check.violations) for check in self.checks)
        result = f"{wrong} of {len(self.checks)} checks failed" if wrong else f"all {len(self.checks)} checks hold"
        return "\n".join([*lines, f"{result}; {self.took_s:.1f} s"])


def verify(engine: Engine, *, organization: str | None = None, since: int | str | None = None) -> Report:
    """Check one organization, by its code or id, or all of them, in one snapshot that blocks nobody.

    With `since` only what was posted after that position is looked at, or after the "last" clean run by beat.

    Raises: OrganizationNotFound, and what the database says when it cannot be read (storage.failures.DatabaseError).
    """
    with connections.snapshot(engine, may_write=since is not None) as tx:
        organization_id = None if organization is None else organizations.find(tx, organization)["organization_id"]
        return check_books(tx, _scope(tx, organization_id, since))


def check_books(tx: Transaction, scope: Scope, *, statement_timeout_s: float = 0) -> Report:
    """Make the checks of this scope, in a transaction that sees one moment. A statement may take so long; 0: any time.

    Where not all of the books are looked at, it must be a transaction that may write temporary tables.
    """
    started = perf_counter()
    storage.prepare(tx, scope, statement_timeout_s=statement_timeout_s)
    rows = storage.count_rows(tx, scope)
    results = []
    for check in scope.checks:
        found, subject = storage.find(tx, check, scope), subject_of(check, scope)
        results.append(CheckResult(check.name, check.sentence, subject, rows[subject], found.count, found.examples))
    return Report(
        checks=tuple(results),
        positions={place.code: place.position for place in storage.places(tx, scope.organization_id)},
        took_s=perf_counter() - started,
        since={place.code: place.position for place in scope.since or ()},
        not_made=tuple(check.name for check in not_made(scope)),
    )


def _scope(tx: Transaction, organization_id: int | None, since: int | str | None) -> Scope:
    if since is None:
        return Scope(organization_id)
    now = storage.places(tx, organization_id)
    if isinstance(since, int):
        return Scope(organization_id, [storage.place_at(tx, place, since) for place in now])
    return Scope(organization_id, _last(now, verified.checkpoints(tx, organization_id)), from_checkpoint=True)


def _last(now: Sequence[Place], checkpoints: Sequence[Place]) -> list[Place]:
    """The checkpoint of each organization; before its first journal where it was never verified."""
    known = {place.organization_id: place for place in checkpoints}
    return [known.get(place.organization_id, place._replace(position=0, rejection=0)) for place in now]
