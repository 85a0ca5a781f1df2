"""What a run found, and how that is said."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from catalogue import CATALOGUE
from crew import Crew
from failpoints import POINTS
from hurting import Scene
from injecting import Done
from judging import Judgement
from killing import Exit, System
from planning import Plan
from recovering import Recovery, Watch, percentile, sorted_out

LOGGED: Final = {
    "deadlock": "sqlstate=40P01",
    "lost": "] message LOST",
    "unrecoverable": "Unrecoverable error",
    "unforeseen": "nobody foresaw",
    "bug": "no job's fault",
}


@dataclass
class Result:
    """All that a run found. `left` is what of the plan was not done; `unrecovered` counts faults."""

    plan: Plan
    started: float = 0.0
    took_s: float = 0.0
    done: list[Done] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    unrecovered: int = 0
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
    judged_s: float = 0.0
    killed_at_work: int = 0
    left: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @property
    def invariant(self) -> int:
        return self.violations + self.unbalanced + self.judgement.wrong_balances

    @property
    def faults(self) -> int:
        return sum(one.times > 0 for one in self.done)

    @property
    def reached(self) -> dict[str, int]:
        """What the goals count. A fault counts once, also where it ended several sessions or connections."""
        done = Counter(one.kind for one in self.done if one.times)
        at_points = sum(one.kind.startswith("failpoint") and one.note == "kill" for one in self.done if one.times)
        return {
            "kills": sum(count for name, count in done.items() if CATALOGUE[name].is_kill) + at_points,
            "jobs": self.judgement.jobs,
            "duplicates": self.repeated.total(),
            "bad messages": self.rubbish.get("pushed", 0),
            "cuts": sum(count for name, count in done.items() if CATALOGUE[name].is_cut),
            "races": self.races.get("rounds", 0),
            **{f"failpoint {name}": done[f"failpoint {name}"] for name in POINTS},
        }

    def read_crew(self, crew: Crew) -> None:
        """What those at work counted."""
        self.done = sorted((one for lane in crew.lanes for one in lane.done), key=lambda one: one.at_s)
        self.left = {name: count for lane in crew.lanes for name, count in lane.left.items() if count > 0}
        self.repeated = crew.repeater.delivered
        self.refusals = _counted((one.name, one.refusals) for one in crew.upstreams)
        racing = crew.racing
        self.races = {
            "rounds": len(racing.rounds),
            "wrong": len(racing.wrong),
            "asked again": sum(one.asked_again for one in racing.rounds),
            "took_s": round(racing.took_s),
        }
        self.findings += [f"overdraft race: {one}" for one in racing.wrong[:5]]

    def read_system(self, system: System, watch: Watch, scene: Scene) -> None:
        """What was seen of the system, before its logs are gone."""
        self.findings += scene.findings
        self.killed_at_work, self.exits = scene.killed_at_work, system.exits
        self.recoveries, self.unbalanced = watch.recoveries, len(watch.unbalanced)
        self.unrecovered, self.snapshots, self.deadlocks = watch.unrecovered, watch.snapshots, watch.deadlocks
        self.proxied = _counted((("postgres", system.postgres_proxy.counts), ("redis", system.redis_proxy.counts)))
        logs = system.logs()
        self.logged = Counter({name: logs.count(text) for name, text in LOGGED.items()})

    def line(self) -> str:
        found = self.judgement
        undisturbed, _ = sorted_out(self.recoveries)
        p99 = percentile([one.took_s for one in undisturbed], 0.99)
        return (
            f"faults={self.faults} jobs={found.jobs} lost={found.lost} double={found.double} phantom={found.phantom} "
            f"invariant={self.invariant} recovery_p99={p99:.1f}s seed={self.plan.seed}"
        )


def report(result: Result) -> str:
    """The table of faults, then figures, then the findings, then the line."""
    found = result.judgement
    meant = Counter(f"{one.program} {one.code}" for one in result.exits if one.is_meant)
    reached = {name: count for name, count in result.reached.items() if not name.startswith("failpoint")}
    lines = [
        *_table(result),
        f"reached: {reached} (children killed at work: {result.killed_at_work}); proxies: {dict(result.proxied)}",
        (
            f"jobs: {found.jobs} sent, {found.acknowledged} acknowledged, {found.posted} posted, {found.unknown} unknown of "
            f"which {found.unknown_posted} arrived, {found.overtaken} overtaken by other content; codes {dict(found.codes)}"
        ),
        f"delivered again: {dict(result.repeated)}; rubbish: {result.rubbish}; overdraft races: {result.races}",
        f"exits meant by faults: {dict(meant)}; unmeant: {sum(not one.is_meant for one in result.exits)}",
        (
            f"HTTP answers that were no acceptance: {dict(result.refusals)}; logged: {dict(result.logged)}; "
            f"deadlocks: {result.deadlocks}"
        ),
        (
            f"snapshots that must balance: {result.snapshots}, wrong {result.unbalanced}; "
            f"quiet {result.quiet_s:.1f} s after the end; judged in {result.judged_s:.1f} s; took {result.took_s:.0f} s"
        ),
        *([f"left of the plan: {result.left}"] if result.left else []),
        *(f"FINDING {finding}" for finding in result.findings),
        result.line(),
    ]
    return "\n".join(lines)


def _table(result: Result) -> list[str]:
    undisturbed, disturbed = sorted_out(result.recoveries)
    lines = [
        (
            f"{'fault':<22}{'count':>6}{'events':>8}{'alone':>7}{'p50 s':>8}{'p99 s':>8}{'max s':>8}{'limit s':>8}"
            f"{'disturbed':>11}{'p99 s':>8}"
        )
    ]
    for name, kind in CATALOGUE.items():
        done = [one for one in result.done if one.kind == name and one.times]
        took = [one.took_s for one in undisturbed if one.kind == name]
        others = [one.took_s for one in disturbed if one.kind == name]
        figures = "".join(f"{percentile(took, share):>8.1f}" for share in (0.5, 0.99, 1.0))
        lines.append(
            f"{name:<22}{len(done):>6}{sum(one.times for one in done):>8}{len(took):>7}{figures}{kind.limit_s:>8.0f}"
            f"{len(others):>11}{percentile(others, 0.99):>8.1f}"
        )
    return lines


def _counted(counts: Iterable[tuple[str, Counter[Any]]]) -> Counter[str]:
    return Counter({f"{name} {what}": count for name, found in counts for what, count in found.items()})
