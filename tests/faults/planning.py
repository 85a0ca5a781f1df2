"""What a run is to do, and what a long one must reach."""

from dataclasses import dataclass
from typing import Final

from failpoints import POINTS

SHORT_S, MUTANT_S = 60.0, 12.0
JOBS_PER_S = 250.0
MUTANT_JOBS_PER_S = 600.0  # more at once: a reversed order of locks shows only where they are contended
GOALS_FROM_MINUTES: Final = 30.0
GOALS: Final = {
    "kills": 1_000,
    "jobs": 500_000,
    "duplicates": 100_000,
    "bad messages": 20_000,
    "cuts": 200,
    "races": 500,
    **{f"failpoint {name}": 25 for name in POINTS},
}


@dataclass
class Plan:
    """What a run is to do. `minutes` None: the short form."""

    seed: int
    minutes: float | None
    mutant: str | None
    jobs_per_s: float
    short_s: float

    @property
    def seconds(self) -> float:
        return self.short_s if self.minutes is None else self.minutes * 60

    @property
    def has_goals(self) -> bool:
        return self.minutes is not None and self.minutes >= GOALS_FROM_MINUTES


def plan_of(seed: int, *, minutes: float | None = None, mutant: str | None = None) -> Plan:
    if mutant:
        return Plan(seed, minutes, mutant, MUTANT_JOBS_PER_S, MUTANT_S)
    return Plan(seed, minutes, None, JOBS_PER_S, SHORT_S)
