"""The catalogue of faults: how many of each a run has, and what is asked of the recovery; five lanes at once."""

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from failpoints import POINTS, Failpoints
from hurting import Did, Scene
from hurting_connections import Connections
from hurting_postgres import Postgres
from hurting_programs import Points, Programs
from hurting_redis import Redis

WHOLE_MINUTES: Final = 35.0


class Kind(NamedTuple):
    """A fault of the catalogue.

    `count` is how many a run of `WHOLE_MINUTES` or longer has, a shorter one its share; `in_short` is for the short
    form. A `kill` ends a process or a server's session for good. `limit_s` bounds the 99th percentile of its recovery.
    Faults of one lane come one after the other.
    """

    lane: str
    count: int
    is_kill: bool = False
    is_cut: bool = False
    limit_s: float = 60.0
    in_short: int = 1


CATALOGUE: Final[dict[str, Kind]] = {
    "child": Kind("children", 630, is_kill=True, limit_s=10, in_short=12),
    "worker": Kind("programs", 62, is_kill=True, in_short=2),
    "api": Kind("programs", 12, is_kill=True),
    "sweeper": Kind("programs", 12, is_kill=True),
    "rolling_restart": Kind("programs", 4),
    "standstill": Kind("programs", 6),
    "clock": Kind("programs", 3, in_short=0),
    "backend_ended": Kind("postgres", 260, is_kill=True, limit_s=10, in_short=3),
    "backend_killed": Kind("postgres", 30, is_kill=True),
    "statement_cancelled": Kind("postgres", 40, limit_s=10),
    "postgres_crash": Kind("postgres", 20, is_kill=True),
    "postgres_restart": Kind("postgres", 6),
    "lock_held": Kind("postgres", 8),
    "redis_killed": Kind("redis", 24, is_kill=True),
    "redis_shut_down": Kind("redis", 12, is_kill=True),
    "redis_flushed": Kind("redis", 12),
    "redis_read_only": Kind("redis", 6),
    "redis_full": Kind("redis", 6),
    "commit_unanswered": Kind("connections", 110, is_cut=True, in_short=3),
    "connections_reset": Kind("connections", 60, is_cut=True),
    "cut_in_message": Kind("connections", 60, is_cut=True),
    "silence": Kind("connections", 6),
    "half_open": Kind("connections", 8, is_cut=True),
    "slow": Kind("connections", 4),
    "error_answered": Kind("connections", 24),
    **{f"failpoint {name}": Kind("points", 26) for name in POINTS},
}
MUTANT_DECK: Final = {"child": 2, "backend_ended": 2, "statement_cancelled": 2}


def faults(scene: Scene, seed: int, points: Failpoints | None) -> dict[str, Callable[[], Did]]:
    """What injects each fault, by name; each subject has a chance of its own, so that lanes do not disturb the seed."""

    def chance(subject: str) -> Random:
        return Random(f"{seed} {subject}")

    lanes = {
        "children": Programs(scene, chance("children")),
        "programs": Programs(scene, chance("programs")),
        "postgres": Postgres(scene, chance("postgres")),
        "redis": Redis(scene, chance("redis")),
        "connections": Connections(scene, chance("connections")),
    }
    found = {name: getattr(lanes[kind.lane], name) for name, kind in CATALOGUE.items() if kind.lane in lanes}
    if points is not None:
        at = Points(scene, chance("points"), points).at
        found |= {f"failpoint {name}": (lambda name=name: at(name)) for name in POINTS}
    return found


def decks(seed: int, *, minutes: float | None, is_mutant: bool) -> dict[str, list[str]]:
    """The faults of a run by lane, in the order of the seed. `minutes` None: the short form."""
    found: dict[str, list[str]] = {}
    for name, kind in CATALOGUE.items():
        if is_mutant:
            count = MUTANT_DECK.get(name, 0)
        elif minutes is None:
            count = kind.in_short
        else:
            count = max(1, round(kind.count * min(1.0, minutes / WHOLE_MINUTES)))
        if count:
            found.setdefault(kind.lane, []).extend([name] * count)
    for lane, names in found.items():
        Random(f"{seed} {lane} deck").shuffle(names)
    return found
