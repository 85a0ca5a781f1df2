"""The metrics' names and meanings."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ledgermill.broker.backlog import Seen
from ledgermill.storage.metrics import EndedJobs, WaitingJobs


class LedgermillCollector:
    """Turns what was read into samples; made anew for each scrape."""

    def __init__(
        self,
        waiting: Iterable[WaitingJobs],
        ended: Iterable[EndedJobs],
        counters: Mapping[str, float],
        queue_lengths: Mapping[str, int],
        in_inbox: Mapping[str, float],
        in_broker: Mapping[str, Seen],
    ) -> None:
        self.waiting, self.ended = list(waiting), list(ended)
        self.counters, self.queue_lengths = counters, queue_lengths
        self.in_inbox, self.in_broker = in_inbox, in_broker

    def collect(self) -> Iterator[Metric]:
        yield self._jobs_waiting()
        oldest = GaugeMetricFamily(
            "ledgermill_oldest_waiting_job_seconds", "For how long the oldest accepted job has been due."
        )
        oldest.add_metric([], max((row.oldest_due_s for row in self.waiting if row.state == "accepted"), default=0.0))
        yield oldest
        yield self._books()
        yield self._jobs_settled()
        yield self._rejections()
        yield self._phases()
        yield self._batch_sizes()
        lengths = GaugeMetricFamily("ledgermill_queue_messages", "Messages in a queue of the broker.", labels=["queue"])
        for queue, length in self.queue_lengths.items():
            lengths.add_metric([queue], length)
        yield lengths
        yield self._oldest_due()
        memory = GaugeMetricFamily(
            "ledgermill_broker_memory_ratio", "Used of the memory that the broker may use; 0 where it has no limit."
        )
        memory.add_metric([], max((seen.memory_share for seen in self.in_broker.values()), default=0.0))
        yield memory

    def _oldest_due(self) -> Metric:
        family = GaugeMetricFamily(
            "ledgermill_oldest_due_seconds",
            "For how long the oldest due work of a posting queue has waited, in the broker or in the inbox.",
            labels=["queue", "where"],
        )
        for queue in sorted(self.in_broker.keys() | self.in_inbox.keys()):
            if seen := self.in_broker.get(queue):
                family.add_metric([queue, "broker"], seen.oldest_s)
            family.add_metric([queue, "inbox"], self.in_inbox.get(queue, 0.0))
        return family

    def _jobs_waiting(self) -> Metric:
        family = GaugeMetricFamily(
            "ledgermill_jobs_waiting", "Jobs in the inbox.", labels=["organization", "state", "kind"]
        )
        for row in self.waiting:
            family.add_metric([row.organization, row.state, row.kind], row.jobs)
        return family

    def _books(self) -> Metric:
        family = CounterMetricFamily(
            "ledgermill_jobs_ended", "Jobs that ever ended, from the books.", labels=["organization", "state"]
        )
        for row in self.ended:
            family.add_metric([row.organization, "posted"], row.posted)
            family.add_metric([row.organization, "not_posted"], row.not_posted)
        return family

    def _jobs_settled(self) -> Metric:
        family = CounterMetricFamily(
            "ledgermill_jobs_settled", "Jobs settled since the broker was set up.", labels=["state", "kind"]
        )
        for name, amount in sorted(self.counters.items()):
            match name.split(":"):
                case ["posted", kind]:
                    family.add_metric(["posted", kind], amount)
        rejected: dict[str, float] = {}
        for name, amount in self.counters.items():
            match name.split(":"):
                case ["rejected", kind, _]:
                    rejected[kind] = rejected.get(kind, 0) + amount
        for kind, amount in sorted(rejected.items()):
            family.add_metric(["rejected", kind], amount)
        return family

    def _rejections(self) -> Metric:
        family = CounterMetricFamily("ledgermill_rejections", "Rejected jobs by reason.", labels=["kind", "code"])
        for name, amount in sorted(self.counters.items()):
            match name.split(":"):
                case ["rejected", kind, code]:
                    family.add_metric([kind, code], amount)
        return family

    def _phases(self) -> Metric:
        family = CounterMetricFamily(
            "ledgermill_phase_seconds", "Time that workers spent in each phase of a transaction.", labels=["phase"]
        )
        for name, amount in sorted(self.counters.items()):
            match name.split(":"):
                case ["seconds", phase]:
                    family.add_metric([phase], amount)
        return family

    def _batch_sizes(self) -> Metric:
        bounds = [name.removeprefix("batch_le:") for name in self.counters if name.startswith("batch_le:")]
        buckets, total = [], 0.0
        for bound in sorted(bounds, key=float):
            total += self.counters[f"batch_le:{bound}"]
            buckets.append(("+Inf" if bound == "inf" else bound, total))
        if not buckets or buckets[-1][0] != "+Inf":
            buckets.append(("+Inf", total))
        family = HistogramMetricFamily("ledgermill_batch_jobs", "Jobs in one transaction.")
        family.add_metric([], buckets=buckets, sum_value=self.counters.get("batch_jobs", 0.0))
        return family
