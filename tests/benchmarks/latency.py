"""Latency: from the publish of a message, and from the call of each journal in it, until workers say it is settled."""

import sys
import threading
import time
from collections import defaultdict
from typing import Final

import books
import usage
from figures import percentile
from posting import UNIFORM
from system import System

from ledgermill import Producer
from ledgermill.broker.publishing import SETTLED_CHANNEL

SETTLED_WITHIN_S: Final = 30.0


def measure(system: System, *, journals_per_s: float, seconds: float, run: str) -> dict[str, float]:
    """Figures of journals that are posted one by one at a steady pace. Published and settled are on one clock, ours."""
    journals = books.journals(f"{run}-latency", int(journals_per_s * seconds))
    called: defaultdict[str, list[float]] = defaultdict(list)
    settled: dict[str, float] = {}
    has_ended = threading.Event()
    with system.redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(SETTLED_CHANNEL)
        channel.get_message(timeout=5)  # the answer to the subscription

        def listen() -> None:
            while not has_ended.is_set():
                if news := channel.get_message(timeout=0.2):
                    now = time.perf_counter()
                    settled.update((batch, now) for batch in news["data"].decode().split())

        listener = threading.Thread(target=listen)
        listener.start()
        with usage.without_collector_pauses(), Producer(system.broker_url, UNIFORM) as producer:
            started = time.perf_counter()
            for number, journal in enumerate(journals):
                ahead_s = started + number / journals_per_s - time.perf_counter()
                if ahead_s > 0:
                    time.sleep(ahead_s)
                at = time.perf_counter()
                called[str(producer.post(journal).batch_id)].append(at)
            offered_s = time.perf_counter() - started
        give_up_at = time.monotonic() + SETTLED_WITHIN_S
        while called.keys() - settled.keys() and time.monotonic() < give_up_at:
            time.sleep(0.02)
        has_ended.set()
        listener.join()
    if missing := called.keys() - settled.keys():
        sys.exit(f"{len(missing)} batches were not settled within {SETTLED_WITHIN_S} s")
    # A message is published right after the last call that it waited for; the calls before it lingered in the Producer.
    published_ms = [(settled[batch] - calls[-1]) * 1000 for batch, calls in called.items() for _ in calls]
    called_ms = [(settled[batch] - at) * 1000 for batch, calls in called.items() for at in calls]
    return {
        "latency_journals_per_s": len(journals) / offered_s,
        "latency_p50_ms": percentile(published_ms, 50),
        "latency_p99_ms": percentile(published_ms, 99),
        "latency_from_call_p50_ms": percentile(called_ms, 50),
        "latency_from_call_p99_ms": percentile(called_ms, 99),
        "latency_most_ms": max(called_ms),
        "latency_journals_in_a_message": len(journals) / len(called),
    }
