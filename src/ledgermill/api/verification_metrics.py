"""The metrics of verify: when it last ran, for how long, what it found, and since when the books are not verified."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from ledgermill.storage.checks import CHECKS
from ledgermill.storage.metrics import Verification


class VerificationCollector:
    """Samples of the last runs over all organizations; `kind` is "new" (what was posted since) or "all"."""

    def __init__(self, verifications: Iterable[Verification]) -> None:
        self.last = list(verifications)
        self.kinds = sorted({run.kind for run in self.last})

    def collect(self) -> Iterator[Metric]:
        ran_at = GaugeMetricFamily(
            "ledgermill_verify_last_run_timestamp_seconds", "When verify last began.", labels=["kind"]
        )
        seconds = GaugeMetricFamily(
            "ledgermill_verify_duration_seconds", "Time of the last runs over all organizations.", labels=["kind"]
        )
        unverified = GaugeMetricFamily(
            "ledgermill_verify_clean_age_seconds",
            "Since the last clean run, of the organization where that is longest ago.",
            labels=["kind"],
        )
        violations = GaugeMetricFamily(
            "ledgermill_verify_violations", "What the last runs found, by check.", labels=["kind", "check"]
        )
        for kind in self.kinds:
            runs = [run for run in self.last if run.kind == kind]
            begun = [run.began_at.timestamp() for run in runs if run.began_at is not None]
            if begun:
                ran_at.add_metric([kind], max(begun))
                seconds.add_metric([kind], sum(run.seconds or 0.0 for run in runs))
            unverified.add_metric([kind], max(run.unverified_s for run in runs))
            names = {check.name for check in CHECKS} | {name for run in runs for name in run.found or {}}
            for name in sorted(names):
                violations.add_metric([kind, name], sum((run.found or {}).get(name, 0) for run in runs))
        yield from (ran_at, seconds, unverified, violations)
