"""A run of faults: upstreams that never stop, faults by a seed until the time is over, then silence and the judgement.

python tests/faults/campaign.py --minutes 35 --seed 7          # `make faults MINUTES=35 SEED=7`
python tests/faults/campaign.py --mutant no_idempotency        # must fail
"""

import argparse
import faulthandler
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

import catalogue
import mutants
from crew import Crew
from failpoints import Failpoints
from findings import find
from hurting import Scene
from injecting import Lane
from judging import judge
from killing import PROJECT, System
from planning import Plan, plan_of
from quiet import what_waits
from recovering import Watch
from reporting import Result, report

from ledgermill.usecases.verify import verify

BUILD = PROJECT / "build"
SAY_EVERY_S = 60.0
AFTERWARDS_S = 2.0  # some traffic after the last fault, which shows that it is recovered from
QUIET_WITHIN_S = 150.0
SLEEP_S = {True: 7, False: 22}  # at a failpoint, beyond the lease: in hasty systems, in others


def run(plan: Plan, home: Path, *, say: Callable[[str], None] = print) -> Result:
    """Run it below `home`, which holds the logs and witnesses afterwards."""
    result = Result(plan)
    hasty = plan.minutes is None
    points = None if plan.mutant else Failpoints(home / "points", sleep_s=SLEEP_S[hasty])
    system = System(
        home,
        hasty=hasty,
        worker_app="tests.faults.mutants" if plan.mutant else "tests.faults.failing_app",
        api_factory="ledgermill.api.app:create_app" if plan.mutant else "tests.faults.failing_app:create_app",
        environment={mutants.VARIABLE: plan.mutant} if plan.mutant else points.environment if points else {},
    )
    sys.setswitchinterval(0.001)  # the proxies share this process with the upstreams
    with system, ExitStack() as stack:
        if plan.mutant:
            with system.connect() as connection:
                mutants.prepare(connection, plan.mutant)
        watch = Watch(system)
        stack.callback(watch.stop)
        scene = Scene(system)
        crew = Crew(system, plan, _lanes(plan, scene, points, watch))
        result.started = time.time()
        crew.start()
        try:
            _await(plan, crew.lanes, watch, say)
        finally:
            crew.end_lanes()
            scene.end()
            if points is not None:
                points.disarm()
            for proxy in (system.postgres_proxy, system.redis_proxy):
                proxy.calm()
            time.sleep(AFTERWARDS_S)
            crew.end()
        ended = time.monotonic()
        result.findings += crew.settle(timeout_s=QUIET_WITHIN_S)
        if waiting := what_waits(system, timeout_s=QUIET_WITHIN_S):
            result.findings.append(f"stalled: {waiting}")
        result.quiet_s = time.monotonic() - ended
        time.sleep(1)  # what is still on its way must change nothing
        watch.stop()
        system.stop_programs()
        say("judging")
        judging_at = time.monotonic()
        _judge(result, system, crew)
        result.judged_s = time.monotonic() - judging_at
        result.read_crew(crew)
        result.read_system(system, watch, scene)
    result.took_s = time.time() - result.started
    find(result)
    return result


def _lanes(plan: Plan, scene: Scene, points: Failpoints | None, watch: Watch) -> list[Lane]:
    decks = catalogue.decks(plan.seed, minutes=plan.minutes, is_mutant=plan.mutant is not None)
    faults = catalogue.faults(scene, plan.seed, points)
    return [
        Lane(
            name,
            deck,
            faults,
            scene=scene,
            watch=watch,
            chance=Random(f"{plan.seed} {name} lane"),
            seconds=plan.seconds,
            log=scene.system.home / "faults.log",
        )
        for name, deck in decks.items()
    ]


def _await(plan: Plan, lanes: Sequence[Lane], watch: Watch, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    said_at = started
    while (now := time.monotonic()) < started + plan.seconds:
        time.sleep(0.2)
        if now - said_at > SAY_EVERY_S:
            said_at = now
            done = sum(one.times > 0 for lane in lanes for one in lane.done)
            left = sum(lane.left.total() for lane in lanes)
            say(f"{now - started:.0f} s: {done} faults, {left} to come, {watch.unrecovered} unrecovered")


def _judge(result: Result, system: System, crew: Crew) -> None:
    witnesses = [upstream.witness.path for upstream in crew.upstreams]
    result.judgement = judge(system.settings.url_of("owner"), witnesses, changed=crew.repeater.changed)
    system.owner.engine.dispose()  # its connections are from before the crashes
    result.rubbish = crew.polluting.look()
    verified = verify(system.owner.engine)
    result.violations = sum(check.violations for check in verified.checks)
    result.verified = verified.as_text()


def _plain(value: object) -> object:
    return vars(value) if hasattr(value, "__dict__") else str(value)


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--minutes", type=float)
    ask.add_argument("--seed", type=int, default=20261121)
    ask.add_argument("--mutant", choices=mutants.MUTANTS)
    ask.add_argument("--home", type=Path, help="Keep logs and witnesses here")
    asked = ask.parse_args()
    faulthandler.register(signal.SIGUSR1)  # where is everybody?
    plan = plan_of(asked.seed, minutes=asked.minutes, mutant=asked.mutant)
    home = asked.home or Path(tempfile.mkdtemp(prefix="ledgermill-faults-"))
    home.mkdir(parents=True, exist_ok=True)
    result = run(plan, home, say=lambda text: print(text, flush=True))
    text = report(result)
    print(text)
    BUILD.mkdir(exist_ok=True)
    name = f"faults-{plan.seed}{'-' + plan.mutant if plan.mutant else ''}.json"
    (BUILD / name).write_text(json.dumps({**vars(result), "report": text.splitlines()}, indent=1, default=_plain))
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
