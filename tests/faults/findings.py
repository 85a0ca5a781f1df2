"""What speaks against the system, beside the counts of the last line."""

from catalogue import CATALOGUE
from planning import GOALS
from recovering import percentile, sorted_out
from reporting import Result


def find(result: Result) -> None:
    """Add to the findings of a run that is over what its figures say."""
    found, findings = result.judgement, result.findings
    findings += found.examples
    if result.invariant:
        findings.append(
            f"invariant: {result.violations} by verify, {result.unbalanced} of {result.snapshots} snapshots, "
            f"{found.wrong_balances} balances"
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
    if result.logged["unrecoverable"]:
        findings.append(f"{result.logged['unrecoverable']} times a worker gave up by an unrecoverable error")
    _find_slow(result)
    if result.plan.has_goals:
        findings += [
            f"goal: {result.reached[name]} {name}, of {goal}"
            for name, goal in GOALS.items()
            if result.reached[name] < goal
        ]


def _find_slow(result: Result) -> None:
    if result.unrecovered:
        result.findings.append(f"{result.unrecovered} faults were not recovered from at the end")
    undisturbed, disturbed = sorted_out(result.recoveries)
    for name, kind in CATALOGUE.items():
        p99 = percentile([one.took_s for one in undisturbed if one.kind == name], 0.99)
        if p99 > kind.limit_s:
            result.findings.append(f"recovery from {name}: p99 is {p99:.1f} s, more than {kind.limit_s:.0f} s")
    for limit_s in {one.limit_s for one in disturbed}:
        p99 = percentile([one.took_s for one in disturbed if one.limit_s == limit_s], 0.99)
        if p99 > limit_s:
            result.findings.append(f"recovery after a disturbance: p99 is {p99:.1f} s, more than {limit_s:.0f} s")
