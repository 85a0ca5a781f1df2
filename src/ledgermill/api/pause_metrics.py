"""The metric of workers that pause, since jobs fail and none is posted: what to alert on."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from ledgermill.storage.releases import Pause


class PauseCollector:
    """Turns what was read into samples; made anew for each scrape."""

    def __init__(self, pauses: Iterable[Pause]) -> None:
        self.pauses = list(pauses)

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "ledgermill_worker_paused_seconds",
            "For how long workers of a release have paused, since jobs of a kind fail and none is posted.",
            labels=["release", "kind"],
        )
        for pause in self.pauses:
            family.add_metric([pause.release, pause.kind], pause.paused_s)
        yield family
