"""A run of faults: upstreams that never stop, faults by a seed until the time is over, then silence and the judgement.

python tests/faults/campaign.py --minutes 40 --seed 7          # `make faults MINUTES=40 SEED=7`
python tests/faults/campaign.py --mutant no_idempotency        # must fail
"""

import argparse
import faulthandler
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import mutants
import races
import redis
import rubbish
from catalogue import CATALOGUE, Did, Faults, deck, inject
from failpoints import Failpoints
from judging import Judgement, judge
from killing import PROJECT, Exit, System, wait_until
from proxy import through
from recovering import Recovery, Watch, percentile
from upstreams import Acknowledged, CeleryUpstream, HttpUpstream, ProducerUpstream, Repeater, Upstream
from witness import ORGANIZATION

from ledgermill.errors import LedgermillError
from ledgermill.usecases import organizations
from ledgermill.usecases.verify import verify

BUILD = PROJECT / "build"
SHORT_S = 75.0
JOBS_PER_S = 240.0
MUTANT_S, MUTANT_JOBS_PER_S = 20.0, 600.0  # more at once: a reversed order of locks shows only where they are contended
SHARES = {"producer": 0.2, "byproxy": 0.15, "celery": 0.15, "ndjson": 0.3, "array": 0.18, "single": 0.02}
SINGLES_PER_S = 4.0
REPEATED_PER_S = 46.0
RUBBISH_PER_S = 9.0
RACES_PER_MINUTE = 12.5
QUIET_WITHIN_S = 150.0
TRIES_OF_A_FAULT = 4
LOGGED = {
    "deadlock": "sqlstate=40P01",
    "lost": "] message LOST",
    "unforeseen": "nobody foresaw",
    "bug": "no job's fault",
}


@dataclass
class Plan:
    """What a run is to do. `minutes` None: the short form."""

    seed: int
    minutes: float | None = None
    mutant: str | None = None
    jobs_per_s: float = JOBS_PER_S
    short_s: float = SHORT_S

    @property
    def seconds(self) -> float:
        return self.short_s if self.minutes is None else self.minutes * 60


@dataclass
class Done:
    """One fault that was injected: when, counted in seconds from the start."""

    kind: str
    at_s: float
    out_s: float
    times: int
    note: str


@dataclass
class Result:
    """All that a run found."""

    plan: Plan
    started: float = 0.0
    took_s: float = 0.0
    done: list[Done] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    judgement: Judgement = field(default_factory=Judgement)
    verified: str = ""
    violations: int = 0
    unbalanced: int = 0
    snapshots: int = 0
    deadlocks: int = 0
    exits: list[Exit] = field(default_factory=list)
    repeated: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    proxied: Counter[str] = field(default_factory=Counter)
    logged: Counter[str] = field(default_factory=Counter)
    rubbish: dict[str, int] = field(default_factory=dict)
    races: dict[str, Any] = field(default_factory=dict)
    quiet_s: float = 0.0
    killed_at_work: int = 0
    left: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @property
    def invariant(self) -> int:
        return self.violations + self.unbalanced + self.judgement.wrong_balances

    @property
    def faults(self) -> int:
        return sum(one.times > 0 for one in self.done)

    def line(self) -> str:
        found = self.judgement
        p99 = percentile([one.took_s for one in self.recoveries], 0.99)
        return (
            f"faults={self.faults} jobs={found.jobs} lost={found.lost} double={found.double} phantom={found.phantom} "
            f"invariant={self.invariant} recovery_p99={p99:.1f}s seed={self.plan.seed}"
        )


def run(plan: Plan, home: Path, *, say: Callable[[str], None] = print) -> Result:
    """Run it below `home`, which holds the logs and witnesses afterwards."""
    result = Result(plan)
    chance = random.Random(plan.seed)
    hasty = plan.minutes is None
    points = None if plan.mutant else Failpoints(home / "points", sleep_s=7 if hasty else 22)
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
        books = _open_races(system)
        faults = Faults(system, random.Random(f"{plan.seed} faults"), points)
        again = Acknowledged(random.Random(f"{plan.seed} again"))
        upstreams = _upstreams(system, plan, again)
        repeater = Repeater(system, seed=plan.seed, messages_per_s=REPEATED_PER_S, again=again)
        watch = Watch(system)
        stack.callback(watch.stop)
        result.started = time.time()
        for thread in (*upstreams, repeater):
            thread.start()
        pushed: list[rubbish.Rubbish] = []
        try:
            _inject(system, plan, chance, faults, watch, result, pushed, say)
        finally:
            faults.end()
            for thread in (*upstreams, repeater):
                thread.is_over.set()
            for thread in (*upstreams, repeater):
                thread.join()
        for thread in (*upstreams, repeater):
            if thread.problem is not None:
                result.findings.append(f"{thread.name} failed: {thread.problem!r}")
        ended = time.monotonic()
        for upstream in upstreams:
            if not upstream.finish(timeout_s=max(1.0, ended + QUIET_WITHIN_S - time.monotonic())):
                result.findings.append(f"{upstream.name}: not all that was published has arrived")
        _await_quiet(system, result)
        result.quiet_s = time.monotonic() - ended
        system.owner.engine.dispose()  # its connections are from before the crashes
        _look_at_rubbish(system, pushed, result)
        if not plan.mutant:
            _race(books, plan, result)
        time.sleep(1)  # what is still on its way must change nothing
        watch.stop()
        for upstream in upstreams:
            upstream.close()
            result.refusals += Counter({f"{upstream.name} {status}": n for status, n in upstream.refusals.items()})
        result.exits = system.exits
        system.stop_programs()
        result.recoveries, result.unbalanced = watch.recoveries, len(watch.unbalanced)
        result.snapshots, result.deadlocks = watch.snapshots, watch.deadlocks
        result.repeated, result.findings = repeater.delivered, [*result.findings, *faults.findings]
        result.killed_at_work = faults.killed_at_work
        for name, proxy in (("postgres", system.postgres_proxy), ("redis", system.redis_proxy)):
            result.proxied += Counter({f"{name} {what}": count for what, count in proxy.counts.items()})
        logs = system.logs()
        result.logged = Counter({name: logs.count(text) for name, text in LOGGED.items()})
        say("judging")
        result.judgement = judge(system.settings.url_of("owner"), [upstream.witness.path for upstream in upstreams])
        system.owner.engine.dispose()  # its connections are from before the crashes
        report = verify(system.owner.engine)
        result.violations = sum(check.violations for check in report.checks)
        result.verified = report.as_text()
    result.took_s = time.time() - result.started
    _find(result)
    return result


def _open_races(system: System) -> races.Books:
    with system.owner.engine.begin() as tx:
        organizations.create(tx, code="races", name="Races", base_currency="EUR", time_zone="UTC")
        key = organizations.create_key(
            tx, "races", name="races", scopes=["read", "post", "post:system", "ledgers"], expires_at=None
        )
    return races.Books(system.broker_url, system.api_url, key.secret, "races")


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


def _inject(
    system: System,
    plan: Plan,
    chance: random.Random,
    faults: Faults,
    watch: Watch,
    result: Result,
    pushed: list[rubbish.Rubbish],
    say: Callable[[str], None],
) -> None:
    started = time.monotonic()
    ends = started + plan.seconds
    left = deck(chance, minutes=plan.minutes)
    if plan.mutant:
        left = ["child", "backend_ended", "statement_cancelled"] * 2
    tries: Counter[str] = Counter()
    bad = rubbish.make(plan.seed, int(RUBBISH_PER_S * plan.seconds), organization=ORGANIZATION)
    said_at = started
    with (
        redis.Redis.from_url(system.broker_url, socket_timeout=5) as client,
        (system.home / "faults.log").open("w") as log,
    ):
        while (now := time.monotonic()) < ends:
            if not plan.mutant:
                _push_rubbish(client, bad, pushed, most=int(RUBBISH_PER_S * (now - started)) - len(pushed))
            if now - said_at > 60:
                said_at = now
                say(
                    f"{now - started:.0f} s: {result.faults} faults, {len(left)} to come, {watch.unrecovered} unrecovered"
                )
            if not left:
                time.sleep(0.2)
                continue
            name = left.pop()
            kind = CATALOGUE[name]
            did = _try(faults, name, result)
            result.done.append(Done(name, did.at - result.started, did.back_at - did.at, did.times, did.note))
            log.write(json.dumps(asdict(result.done[-1])) + "\n")
            log.flush()
            if did.times:
                watch.note(name, at=did.at, back_at=did.back_at)
            elif tries[name] < TRIES_OF_A_FAULT * kind.count:
                tries[name] += 1
                left.insert(chance.randrange(len(left) + 1), name)
            if kind.waits and chance.random() < 0.8:
                _wait_for_recovery(watch, until=min(ends, time.monotonic() + kind.limit_s))
            pause_s = (ends - time.monotonic()) / (len(left) + 1)
            time.sleep(
                max(0.0, min(chance.expovariate(1.4 / max(pause_s, 0.05)), 2 * pause_s, ends - time.monotonic()))
            )
        if left:
            result.left = dict(Counter(left))


def _try(faults: Faults, name: str, result: Result) -> Did:
    try:
        return inject(faults, name)
    except AssertionError as error:
        result.findings.append(f"{name}: {error}")
        return Did(time.time(), time.time(), 0, repr(error)[:200])
    except Exception as error:  # noqa: BLE001 - a fault may come while another one lasts: then it is tried again
        return Did(time.time(), time.time(), 0, repr(error)[:200])


def _wait_for_recovery(watch: Watch, *, until: float) -> None:
    deep = watch.unrecovered
    while watch.unrecovered >= deep and deep and time.monotonic() < until:
        time.sleep(0.02)


def _push_rubbish(client: redis.Redis, bad: Any, pushed: list[rubbish.Rubbish], *, most: int) -> None:
    """As much as is due; what a wiped Redis loses is not missed."""
    some = [one for one, _ in zip(bad, range(min(most, 200)), strict=False)]
    try:
        if some:
            client.lpush("posting", *(one.raw for one in some))
        pushed += [one._replace(raw=b"") for one in some]
    except redis.RedisError:
        return


def _look_at_rubbish(system: System, pushed: Sequence[rubbish.Rubbish], result: Result) -> None:
    result.rubbish = {"pushed": len(pushed), "applied": len(rubbish.applied(system.owner.engine))}
    with redis.Redis.from_url(system.broker_url, socket_timeout=5) as client:
        missing = rubbish.missing(rubbish.Pushed(list(pushed), 0), system.owner.engine, client)
    result.rubbish["not_found"] = len(missing)  # of which Redis lost some when it was wiped


def _race(books: races.Books, plan: Plan, result: Result) -> None:
    rounds = 5 if plan.minutes is None else max(5, round(RACES_PER_MINUTE * plan.minutes))
    try:
        report = races.race(books, rounds=rounds)
    except (LedgermillError, httpx2.HTTPError, OSError, AssertionError) as error:
        result.findings.append(f"the overdraft races ended early: {error!r}")
        return
    result.races = {"rounds": len(report.rounds), "wrong": len(report.wrong), "took_s": round(report.took_s, 1)}
    result.findings += [f"overdraft race: {one}" for one in report.wrong[:5]]


def _await_quiet(system: System, result: Result) -> None:
    """Until nothing waits anywhere: no accepted job, no message, no message that a worker took."""

    def is_quiet() -> bool:
        with system.connect() as connection:
            (waiting,) = connection.execute("SELECT count(*) FROM ledgermill.inbox").fetchone() or (1,)
        with redis.Redis.from_url(system.broker_url, socket_timeout=5) as client:
            return not waiting and not client.llen("posting") and not client.zcard("ledgermill:taken:posting")

    try:
        wait_until(is_quiet, timeout_s=QUIET_WITHIN_S, what=lambda: _what_waits(system))
    except AssertionError as error:
        result.findings.append(f"stalled: {error}")


def _what_waits(system: System) -> str:
    with system.connect() as connection:
        rows = connection.execute(
            "SELECT organization_id, batch_id, part, jobs, next_item, attempts, due_at, claimed_at, last_error, now() FROM ledgermill.inbox"
        ).fetchmany(5)
    with redis.Redis.from_url(system.broker_url, socket_timeout=5) as client:
        return f"inbox {rows}, queue {client.llen('posting')}, taken {client.zrange('ledgermill:taken:posting', 0, 5, withscores=True)}"


def _find(result: Result) -> None:
    """What speaks against the system, beside the counts of the last line."""
    found, findings = result.judgement, result.findings
    findings += found.examples
    if result.invariant:
        findings.append(
            f"invariant: {result.violations} by verify, {result.unbalanced} of {result.snapshots} snapshots, {found.wrong_balances} balances"
        )
    if result.deadlocks or result.logged["deadlock"]:
        findings.append(f"deadlocks: {result.deadlocks} by PostgreSQL's count, {result.logged['deadlock']} in the logs")
    findings += [
        f"exit: {one.program} ended with {one.code} at {one.at - result.started:.1f} s, and no fault meant it to"
        for one in result.exits
        if not one.is_meant
    ]
    if result.rubbish.get("applied"):
        findings.append(f"rubbish was posted: {result.rubbish['applied']}")
    if result.logged["lost"]:
        findings.append(f"{result.logged['lost']} lines in the logs say that a message is lost")
    for name, kind in CATALOGUE.items():
        p99 = percentile([one.took_s for one in result.recoveries if one.kind == name], 0.99)
        if p99 > kind.limit_s:
            findings.append(f"recovery from {name}: p99 is {p99:.1f} s, more than {kind.limit_s:.0f} s")


def report(result: Result) -> str:
    """The table, then the findings, then the line."""
    lines = [f"{'fault':<22}{'count':>6}{'events':>8}{'p50 s':>8}{'p99 s':>8}{'max s':>8}{'limit s':>8}"]
    for name in CATALOGUE:
        done = [one for one in result.done if one.kind == name and one.times]
        took = [one.took_s for one in result.recoveries if one.kind == name]
        figures = "".join(f"{percentile(took, share):>8.1f}" for share in (0.5, 0.99, 1.0))
        lines.append(
            f"{name:<22}{len(done):>6}{sum(one.times for one in done):>8}{figures}{CATALOGUE[name].limit_s:>8.0f}"
        )
    kills = sum(one.times for one in result.done if CATALOGUE[one.kind].is_kill)
    cuts = sum(one.times for one in result.done if CATALOGUE[one.kind].is_cut)
    found = result.judgement
    meant = Counter(f"{one.program} {one.code}" for one in result.exits if one.is_meant)
    lines += [
        f"kills={kills} (children killed at work: {result.killed_at_work}) cuts={cuts} proxies: {dict(result.proxied)}",
        f"jobs: {found.jobs} sent, {found.acknowledged} acknowledged, {found.posted} posted, {found.unknown} unknown of which {found.unknown_posted} arrived; codes {dict(found.codes)}",
        f"delivered again: {dict(result.repeated)}; rubbish: {result.rubbish}; overdraft races: {result.races}",
        f"exits meant by faults: {dict(meant)}; unmeant: {sum(not one.is_meant for one in result.exits)}",
        f"HTTP answers that were no acceptance: {dict(result.refusals)}; logged: {dict(result.logged)}; deadlocks: {result.deadlocks}",
        f"snapshots that must balance: {result.snapshots}, wrong {result.unbalanced}; quiet {result.quiet_s:.1f} s after the end; took {result.took_s:.0f} s",
        *([f"no time was left for: {result.left}"] if result.left else []),
        *(f"FINDING {finding}" for finding in result.findings),
        result.line(),
    ]
    return "\n".join(lines)


def _plain(value: object) -> object:
    return vars(value) if hasattr(value, "__dict__") else str(value)


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--minutes", type=float)
    ask.add_argument("--seed", type=int, default=20261121)
    ask.add_argument("--mutant", choices=mutants.MUTANTS)
    ask.add_argument("--jobs-per-s", type=float)
    ask.add_argument("--home", type=Path, help="Keep logs and witnesses here")
    asked = ask.parse_args()
    faulthandler.register(signal.SIGUSR1)  # where is everybody?
    jobs_per_s = asked.jobs_per_s or (MUTANT_JOBS_PER_S if asked.mutant else JOBS_PER_S)
    plan = Plan(asked.seed, asked.minutes, asked.mutant, jobs_per_s, MUTANT_S if asked.mutant else SHORT_S)
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
