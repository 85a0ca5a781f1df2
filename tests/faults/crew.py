"""All that is at work in a run beside the system itself: upstreams, what comes again, bad messages, races, and the lanes."""

import time
from collections.abc import Sequence
from random import Random
from typing import Any

import catalogue
from injecting import Lane
from killing import System
from planning import Plan
from polluting import Polluting
from proxy import through
from racing import Racing
from repeating import Repeater
from upstreams import Acknowledged, CeleryUpstream, ProducerUpstream, Upstream
from upstreams_http import HttpUpstream

SHARES = {"producer": 0.2, "byproxy": 0.15, "celery": 0.15, "ndjson": 0.3, "array": 0.18, "single": 0.02}
SINGLES_PER_S = 4.0
REPEATED_PER_S = 53.0
RUBBISH_PER_S = 10.5
RACES_PER_S = 510 / (catalogue.WHOLE_MINUTES * 60)
SHORT_RACES = 5


class Crew:
    """The threads of a run; started together, ended the lanes first."""

    def __init__(self, system: System, plan: Plan, lanes: Sequence[Lane]) -> None:
        again = Acknowledged(Random(f"{plan.seed} again"))
        self.lanes = lanes
        self.upstreams = _upstreams(system, plan, again)
        self.repeater = Repeater(system, seed=plan.seed, messages_per_s=REPEATED_PER_S, again=again)
        rounds = SHORT_RACES if plan.minutes is None else max(SHORT_RACES, round(RACES_PER_S * plan.seconds))
        self.racing = Racing(system, rounds=0 if plan.mutant else rounds, seconds=plan.seconds * 0.9)
        count = 0 if plan.mutant else round(RUBBISH_PER_S * plan.seconds)
        self.polluting = Polluting(system, seed=plan.seed, count=count, seconds=plan.seconds)
        self._others = (*self.upstreams, self.repeater, self.racing, self.polluting)

    def start(self) -> None:
        for thread in (*self._others, *self.lanes):
            thread.start()

    def end_lanes(self) -> None:
        for lane in self.lanes:
            lane.is_over.set()
        for lane in self.lanes:
            lane.join()

    def end(self) -> None:
        for thread in self._others:
            thread.is_over.set()
        for thread in self._others:
            thread.join()

    def settle(self, *, timeout_s: float) -> list[str]:
        """After the end: until all that was published has arrived. What went wrong, in a sentence each."""
        found = [f"{one.name} failed: {one.problem!r}" for one in (*self._others, *self.lanes) if one.problem]
        deadline = time.monotonic() + timeout_s
        for upstream in self.upstreams:
            if not upstream.finish(timeout_s=max(1.0, deadline - time.monotonic())):
                found.append(f"{upstream.name}: not all that was published has arrived")
            upstream.close()
        return found


def _upstreams(system: System, plan: Plan, again: Acknowledged) -> list[Upstream]:
    def options(name: str) -> dict[str, Any]:
        share = SINGLES_PER_S if name == "single" else SHARES[name] * plan.jobs_per_s
        return {"seed": plan.seed, "jobs_per_s": share, "again": again}

    by_proxy = through(system.broker_url, system.redis_proxy)
    return [
        ProducerUpstream("producer", system, broker_url=system.broker_url, **options("producer")),
        ProducerUpstream("byproxy", system, broker_url=by_proxy, **options("byproxy")),
        CeleryUpstream("celery", system, **options("celery")),
        *(HttpUpstream(form, system, form=form, **options(form)) for form in ("ndjson", "array", "single")),
    ]
