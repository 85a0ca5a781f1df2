"""A model of many posting workers: what N of them reach on M organizations, from what one batch costs.

A batch is read and drafted by any worker beside the others (`parallel_s`), then settled under the lock of its
organization (`serial_s`). So one organization ends at 1 / serial_s however many workers there are, and a machine at its
cores. What lies below these bounds is waiting, for the lock or for work, which `simulate` plays through.
"""

import heapq
import random
from collections.abc import Sequence
from typing import NamedTuple

VARIATION = 0.25  # standard deviation of a service time, of its mean


class Service(NamedTuple):
    """Seconds that one batch takes: outside its organization's lock, under it, and of CPU in all processes together."""

    parallel_s: float
    serial_s: float
    cpu_s: float


def bound(service: Service, *, workers: int, organizations: int, cores: int | None = None) -> float:
    """Batches a second that cannot be exceeded: by the workers, by the locks, by the cores (None: never short)."""
    limits = [workers / (service.parallel_s + service.serial_s), organizations / service.serial_s]
    if cores is not None:
        limits.append(cores / service.cpu_s)
    return min(limits)


def workers_that_fill_a_lock(service: Service) -> float:
    """From so many workers on, one organization gets no faster."""
    return (service.parallel_s + service.serial_s) / service.serial_s


def lanes_by_chance(organizations: int, workers: int, *, seed: int = 1) -> list[int]:
    """The worker of each organization, as hashed ids spread them."""
    chance = random.Random(seed)
    return [chance.randrange(workers) for _ in range(organizations)]


def simulate(
    service: Service,
    *,
    workers: int,
    organizations: int,
    lanes: Sequence[int] | None = None,
    cores: int | None = None,
    batches: int = 2_000,
    seed: int = 1,
) -> float:
    """Batches a second until a backlog is gone, equally many of each organization, in random order.

    `lanes` names the worker of each organization: then nobody waits for a lock, but who has more of them works longer.
    Without, each worker takes the next of all. Cores are a bound only: that everything slows down together is not
    played.
    """
    chance = random.Random(seed)
    backlog = [number % organizations for number in range(batches)]
    chance.shuffle(backlog)
    queues = [backlog]
    if lanes is not None:
        queues = [[one for one in backlog if lanes[one] == worker] for worker in range(workers)]
    rate = batches / _play(service, queues, workers, organizations, chance)
    return rate if cores is None else min(rate, cores / service.cpu_s)


def _play(service: Service, queues: list[list[int]], workers: int, organizations: int, chance: random.Random) -> float:
    """When the last batch is settled. An event is (time, worker, organization whose lock it asks for; -1: it is free)."""
    lock_is_free_at = [0.0] * organizations
    events: list[tuple[float, int, int]] = [(0.0, worker, -1) for worker in range(workers)]
    ended_s = 0.0
    while events:
        now, worker, organization = heapq.heappop(events)
        if organization >= 0:  # in the order of asking, as PostgreSQL queues them
            begins = max(now, lock_is_free_at[organization])
            now = ended_s = lock_is_free_at[organization] = begins + _vary(service.serial_s, chance)
            heapq.heappush(events, (now, worker, -1))
        elif queue := queues[worker % len(queues)]:
            heapq.heappush(events, (now + _vary(service.parallel_s, chance), worker, queue.pop()))
    return max(ended_s, *lock_is_free_at)


def _vary(mean_s: float, chance: random.Random) -> float:
    shape = 1 / VARIATION**2
    return chance.gammavariate(shape, mean_s / shape) if mean_s else 0.0
