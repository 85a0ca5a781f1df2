"""Bulk: messages of 1,000 journals through Redis into the books, evenly, on two hot ledgers, and in trees of 1 and 8."""

import threading
import time
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Final

import books
import floor
import usage
from system import POLL_S, System

from ledgermill import Producer
from ledgermill.messages import routes

IN_A_MESSAGE: Final = 1_000
WAITING: Final = "bench.waiting."  # before a queue's name: one that no worker takes from
UNIFORM, DEEP, FLAT = "bench", "bench-deep", "bench-flat"
PRODUCERS: Final = 16
FLOOR_JOURNALS: Final = 50_000


def open_organizations(system: System) -> None:
    for code, levels in ((UNIFORM, 4), (DEEP, 8), (FLAT, 1)):
        system.open_organization(code, levels=levels)


def measure(system: System, journals: int, run: str) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of one run, and the profile of its bulk.

    Floor and bulk are taken more than once, between the others, since a shared machine's speed wanders.
    """
    bulk(system, UNIFORM, f"{run}-settle", journals // 5)  # after a checkpoint the first write of a page costs more
    rows = floor.read(system, UNIFORM, min(FLOOR_JOURNALS, system.posted(UNIFORM)))
    floors = [floor.run(system, rows)]
    uniform = [bulk(system, UNIFORM, f"{run}-a", journals)]
    queued = queued_bulk(system, {UNIFORM: journals}, run=f"{run}-queued")
    floors.append(floor.run(system, rows))
    hot = bulk(system, UNIFORM, f"{run}-hot", journals, leaves=2)
    uniform.append(bulk(system, UNIFORM, f"{run}-b", journals))
    floors.append(floor.run(system, rows))
    depths = {levels: bulk(system, code, f"{run}-{code}", journals) for levels, code in ((1, FLAT), (8, DEEP))}
    many_producers(system, journals // 5, run=f"{run}-many")
    bulk_rate, floor_rate = mean(journals / used["seconds"] for used in uniform), mean(floors)
    figures = {
        "bulk_journals_per_s": bulk_rate,
        "floor_journals_per_s": floor_rate,
        "bulk_over_floor": bulk_rate / floor_rate,
        "bulk_cpu_share": mean(used["cpu_share"] for used in uniform),
        "bulk_others_cpu_share": mean(used["others_share"] for used in uniform),
        "bulk_journals_in_a_batch": mean(journals / max(1.0, used["batches"]) for used in uniform),
        "publish_journals_per_s": mean(journals / used["published_s"] for used in uniform),
        "bulk_queued_journals_per_s": journals / queued["seconds"],
        "queued_over_floor": journals / queued["seconds"] / floor_rate,
        "hot_journals_per_s": journals / hot["seconds"],
        "hot_over_uniform": journals / hot["seconds"] / bulk_rate,
        "depth1_journals_per_s": journals / depths[1]["seconds"],
        "depth8_journals_per_s": journals / depths[8]["seconds"],
        "depth8_over_depth1": depths[8]["seconds"] / depths[1]["seconds"],
    }
    return figures, usage.per_journal(uniform[0], journals)


def bulk(system: System, organization: str, name: str, count: int, *, leaves: int = books.LEAVES) -> dict[str, Any]:
    """What was used from the first publish until all are posted, while the Producer publishes on the same cores."""
    journals = books.journals(name, count, leaves=leaves)
    with usage.without_collector_pauses(), usage.watching(system) as used:
        published_s = post(system, organization, journals)
    return {**used, "published_s": published_s}


def post(system: System, organization: str, journals: Sequence[Any], *, queue: str = routes.POSTING_QUEUE) -> float:
    """Publish, and wait until all are posted; how long the publishing took."""
    before, started = system.posted(organization), time.perf_counter()
    with Producer(system.broker_url, organization, most_in_a_message=IN_A_MESSAGE, queue=queue) as producer:
        for start in range(0, len(journals), IN_A_MESSAGE):
            producer.post_many(journals[start : start + IN_A_MESSAGE])
    published_s = time.perf_counter() - started
    system.wait_until_posted(before + len(journals), organization)
    return published_s


def queued_bulk(
    system: System,
    counts: Mapping[str, int],
    *,
    run: str,
    queue_of: Mapping[str, str] | None = None,
    leaves: int = books.LEAVES,
) -> dict[str, Any]:
    """The same with all messages in the queues before a worker sees them; organizations of one queue take turns."""
    queue_of = queue_of or dict.fromkeys(counts, routes.POSTING_QUEUE)
    journals = {code: books.journals(f"{run}-{code}", count, leaves=leaves) for code, count in counts.items()}
    _publish(system, journals, queue_of)
    before = system.posted(*counts)
    with usage.watching(system) as used:
        for queue in set(queue_of.values()):
            release(system, queue)
        system.wait_until_posted(before + sum(counts.values()), *counts)
    return used


def release(system: System, queue: str) -> None:
    """Let workers see what was published to the waiting room of their queue."""
    while not system.redis.renamenx(WAITING + queue, queue):  # a ring may be in it for a moment
        time.sleep(POLL_S)


def _publish(system: System, journals: Mapping[str, Sequence[Any]], queue_of: Mapping[str, str]) -> None:
    producers = {
        code: Producer(system.broker_url, code, most_in_a_message=IN_A_MESSAGE, queue=WAITING + queue_of[code])
        for code in journals
    }
    for start in range(0, max(map(len, journals.values())), IN_A_MESSAGE):
        for code, producer in producers.items():
            producer.post_many(journals[code][start : start + IN_A_MESSAGE])
    for producer in producers.values():
        producer.close()


def many_producers(system: System, count: int, *, run: str) -> None:
    """16 producers at once below one root, in small messages; `deadlocks` of the database say how that went."""
    before, each = system.posted(UNIFORM), count // PRODUCERS

    def post(number: int) -> None:
        journals = books.journals(f"{run}-{number}", each)
        with Producer(system.broker_url, UNIFORM, most_in_a_message=50) as producer:
            producer.post_many(journals)

    threads = [threading.Thread(target=post, args=(number,)) for number in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    system.wait_until_posted(before + each * PRODUCERS, UNIFORM)


def deadlocks(system: System) -> int:
    """How many PostgreSQL has seen in all runs."""
    return int(system.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
