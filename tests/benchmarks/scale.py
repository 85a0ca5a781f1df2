"""Scale: two posting workers of one process each, on two organizations, beside one; and the model held against them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import mean
from typing import Any, Final

import model
import system as system_
from posting import queued_bulk
from system import System

from ledgermill.messages import routes

LANES: Final = 2
PLAYED: Final = 30  # times that the model plays a case of few batches, each with other chances
UNDER_THE_LOCK: Final = ("lock", "plan", "write", "commit")  # without rivals, `lock` is the locking itself
SHOWN: Final = tuple((workers, organizations) for organizations in (1, 4, 16) for workers in (1, 2, 4, 8, 16))


def open_organizations(system: System) -> dict[int, str]:
    """An organization for each lane, by its lane. The lane follows from an id by chance, so some are left over."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < LANES:
        code = f"bench-scale-{number}"
        system.open_organization(code)
        found.setdefault(system.lane_of(code, lanes=LANES), code)
        number += 1
    return found


def measure(system: System, by_lane: Mapping[int, str], journals: int, run: str) -> dict[str, float]:
    """The figures of one run, while two workers run: each takes its own lane, and both the queue that names none.

    All messages are in the queues before, so that no producer takes the cores. The model's service times are those of
    one worker alone; what it says of two is held against what was measured.
    """
    first, second = by_lane[0], by_lane[1]
    lanes = {code: routes.queue_of_lane(lane, lanes=LANES) for lane, code in by_lane.items()}
    one = queued_bulk(system, {first: journals}, run=f"{run}-one", queue_of={first: lanes[first]})
    both = queued_bulk(system, {first: journals, second: journals}, run=f"{run}-both")
    own = queued_bulk(system, {first: journals, second: journals}, run=f"{run}-own", queue_of=lanes)
    same = queued_bulk(system, {first: journals}, run=f"{run}-same")
    rates = {
        "one_worker": journals / one["seconds"],
        "two_workers": 2 * journals / both["seconds"],
        "two_lanes": 2 * journals / own["seconds"],
        "two_workers_one_organization": journals / same["seconds"],
    }
    size = journals / max(1.0, one["batches"])  # a worker gathers messages into one transaction
    service = service_of(one)

    def predict(count: int, **case: Any) -> float:
        """Journals a second, of as few batches as there were: the last ones leave workers idle."""
        batches = max(1, round(count / size))
        cores = os.cpu_count() or 1
        return size * mean(
            model.simulate(service, **case, cores=cores, batches=batches, seed=seed) for seed in range(PLAYED)
        )

    predicted = {
        "one_worker": predict(journals, workers=1, organizations=1),
        "two_workers": predict(2 * journals, workers=2, organizations=2),
        "two_lanes": predict(2 * journals, workers=2, organizations=2, lanes=(0, 1)),
        "two_workers_one_organization": predict(journals, workers=2, organizations=1),
    }
    return {
        **{f"{name}_journals_per_s": rate for name, rate in rates.items()},
        "one_worker_cpu_share": one["cpu_share"],
        "scale_others_cpu_share": max(used["others_share"] for used in (one, both, own)),
        "two_workers_cpu_share": both["cpu_share"],
        "two_lanes_cpu_share": own["cpu_share"],
        "two_workers_over_one": rates["two_workers"] / rates["one_worker"],
        "two_lanes_over_one": rates["two_lanes"] / rates["one_worker"],
        **{f"model_error_{name}": predicted[name] / rate - 1 for name, rate in rates.items()},
        "one_worker_unnamed_share": 1 - sum(one["phase_s"].values()) / one["seconds"],
        "model_batch_journals": size,
        "model_parallel_ms": service.parallel_s * 1000,
        "model_serial_ms": service.serial_s * 1000,
        "model_cpu_ms": service.cpu_s * 1000,
    }


def service_of(used: Mapping[str, Any]) -> model.Service:
    """What a batch took of a worker that had no rival: what was not under the lock was beside it."""
    batches = max(1.0, used["batches"])
    serial_s = sum(used["phase_s"].get(name, 0.0) for name in UNDER_THE_LOCK)
    parallel_s = used["seconds"] - serial_s
    return model.Service(parallel_s / batches, serial_s / batches, sum(used["cpu_s"].values()) / batches)


def extrapolate(service: model.Service, *, batch_journals: float) -> list[dict[str, float]]:
    """Journals a second of N workers on M organizations, where PostgreSQL and the workers have cores enough."""
    found = []
    for workers, organizations in SHOWN:
        sizes = {"workers": workers, "organizations": organizations}
        lanes = model.lanes_by_chance(organizations, workers)
        found.append(
            {
                **sizes,
                "bound": model.bound(service, **sizes) * batch_journals,
                "one_queue": model.simulate(service, **sizes) * batch_journals,
                "lanes": model.simulate(service, **sizes, lanes=lanes) * batch_journals,
            }
        )
    return found


@contextmanager
def two_workers(system: System) -> Iterator[None]:
    """Two workers of one process each, with a lane each."""
    with ExitStack() as stack:
        for lane in range(LANES):
            queues = f"{routes.queue_of_lane(lane, lanes=LANES)},{routes.POSTING_QUEUE}"
            stack.enter_context(
                system_.worker(system, queues=queues, children=1, lanes=LANES, name=f"worker_{lane + 1}")
            )
        yield
