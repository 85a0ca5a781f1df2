"""Back-pressure as clients and producers see it, with real servers and processes."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from conftest import environment, worker
from redis import Redis
from running import Organization, System, api_process, eventually, journal, running

from ledgermill import Producer
from ledgermill.broker import publishing
from ledgermill.broker.intake import Intake
from ledgermill.config import Settings
from ledgermill.errors import BrokerFull

MOST_BACKLOG_S = 1.0
REFUSED = (503, "BACKLOGGED")


@pytest.fixture
def idle(settings: Settings, tmp_path: Path) -> Iterator[System]:
    """An API process, and nobody who works: what is accepted waits."""
    variables = environment(settings) | {"MOST_BACKLOG_S": str(MOST_BACKLOG_S)}
    with (
        api_process(variables, tmp_path / "api.log") as url,
        running(settings, api_url=url, worker_pid=0) as found,
    ):
        yield found


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    with publishing.redis_client(settings.broker_url.get_secret_value()) as client:
        yield client


def said(answer: httpx2.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


def is_refused(organization: Organization, key: str) -> bool:
    return said(organization.post(journal(key), prefer="respond-async")) == REFUSED


def test_new_jobs_are_refused_while_accepted_ones_wait_too_long_and_reads_are_not(
    idle: System, settings: Settings, redis: Redis, tmp_path: Path
) -> None:
    acme, other = idle.new_organization(), idle.new_organization()
    idle.set_state(other.code, "paused")
    assert other.post(journal("kept"), prefer="respond-async").status_code == 202
    eventually(lambda: redis.delete("posting"))  # the ring, which nobody hears
    time.sleep(MOST_BACKLOG_S + 2.5)
    assert acme.post(journal("first"), prefer="respond-async").status_code == 202, "who is paused holds up nobody"

    eventually(lambda: is_refused(acme, "second"))
    for refused in (
        acme.post(journal("second")),
        acme.post([journal("second")]),
        acme.post(b'{"entries": []}\n', content_type="application/x-ndjson"),
        acme.send("/v1/ledgers/TILL/balance-updates", {"type": "debit", "amount": 1}),
    ):
        assert said(refused) == REFUSED
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["Retry-After"]) == refused.json()["details"]["retry_after_s"] >= 1
        assert refused.json()["details"]["oldest_s"] >= MOST_BACKLOG_S
    assert acme.get("/v1/jobs").status_code == 200
    assert acme.get("/v1/ledgers/TILL/balance").status_code == 200
    keys = [f"second-{number}" for number in range(3)]
    assert acme.send("/v1/jobs/lookup", {"idempotency_keys": keys}).json()["missing"] == keys
    assert said(idle.api.post("/v1/ledgers/journals", content=b"{}")) == (401, "UNAUTHENTICATED")
    (line,) = metric(idle, 'ledgermill_oldest_due_seconds{queue="posting",where="inbox"}')
    assert float(line.split()[-1]) >= MOST_BACKLOG_S

    with worker(settings, tmp_path, queue="posting", processes=1):
        idle.owner.broker.ring(0)
        eventually(lambda: not is_refused(acme, "second"))
        assert acme.job("first")["state"] == acme.job("second")["state"] == "posted"


def test_messages_of_any_producer_that_wait_too_long_count_as_well(
    idle: System, settings: Settings, tmp_path: Path
) -> None:
    acme = idle.new_organization()
    time.sleep(1.5)
    acme.publish([journal("foreign")])

    eventually(lambda: is_refused(acme, "second"))
    (line,) = metric(idle, 'ledgermill_oldest_due_seconds{queue="posting",where="broker"}')
    assert float(line.split()[-1]) >= MOST_BACKLOG_S

    with worker(settings, tmp_path, queue="posting", processes=1):
        eventually(lambda: not is_refused(acme, "second"))
        assert acme.job("foreign")["state"] == "posted"


def metric(system: System, beginning: str) -> list[str]:
    return [line for line in system.api.get("/metrics").text.splitlines() if line.startswith(beginning)]


def test_a_producer_waits_for_room_in_the_queue(settings: Settings, redis: Redis) -> None:
    with Producer(settings.broker_url.get_secret_value(), "acme", most_queued=3, most_in_a_message=1) as producer:
        producer.post_many([journal(f"k{number}") for number in range(3)])
        time.sleep(0.6)  # until it looks again
        waiting = threading.Thread(target=producer.post_many, args=([journal("late")],))
        waiting.start()
        time.sleep(1.2)
        assert waiting.is_alive()
        assert redis.llen("posting") == 3

        taker = Intake(redis, "posting", taker="a", lease_s=60)
        taker.take(most_messages=2)
        taker.drop()
        waiting.join(5)

        assert not waiting.is_alive()
        assert redis.llen("posting") == 2


def test_a_producer_that_finds_no_room_says_so_in_time_and_keeps_the_jobs(settings: Settings, redis: Redis) -> None:
    producer = Producer(
        settings.broker_url.get_secret_value(), "acme", api_url="http://127.0.0.1:1", most_queued=1, most_delay_s=1.0
    )
    producer.post_many([journal("first")])
    time.sleep(0.6)
    started = time.monotonic()
    with pytest.raises(BrokerFull, match="1 messages wait"):
        producer.post_many([journal("second")])
    took_s = time.monotonic() - started

    assert 0.5 <= took_s < 3
    assert set(producer._unconfirmed) == {"first", "second"}
    producer.close()


@pytest.fixture
def full(system: System) -> Iterator[Redis]:
    """A Redis that refuses whatever may need memory, with a system on it."""
    client = system.owner.broker.redis
    limit = client.config_get("maxmemory")["maxmemory"]  # type: ignore[index]  # sync client
    with ExitStack() as stack:
        stack.callback(client.config_set, "maxmemory", limit)
        client.config_set("maxmemory", 1)
        yield client


def test_while_redis_is_full_workers_drain_it_and_the_api_accepts(
    system: System, acme: Organization, full: Redis
) -> None:
    full.config_set("maxmemory", 0)
    processes = children(system.worker_pid)
    keys = [f"queued-{number}" for number in range(300)]
    for key in keys:
        system.celery.send_task(
            "ledgermill.post_journals", kwargs={"organization": acme.code, "journals": [journal(key)]}, queue="parked"
        )
    full.lpush("parked", b"what nobody can read")
    full.config_set("maxmemory", 1)

    full.rename("parked", "posting")  # needs no memory
    jobs = acme.ended(keys)
    accepted = acme.post(journal("over-http"), prefer="respond-async")
    broker_url = system.settings.broker_url.get_secret_value()
    producer = Producer(broker_url, acme.code, api_url=system.api_url, api_key=acme.key, most_delay_s=0.6)
    with pytest.raises(BrokerFull):
        producer.post_many([journal("refused")])

    assert {job["state"] for job in jobs.values()} == {"posted"}
    assert accepted.status_code == 202
    assert eventually(lambda: full.llen("posting") == 0 and not full.exists("ledgermill:taken:posting"))
    full.config_set("maxmemory", 0)
    assert acme.job("over-http")["state"] == "posted", "the sweep rings"
    assert producer.confirm(timeout_s=20).missing == []
    producer.close()
    assert acme.job("refused")["state"] == "posted"
    assert eventually(
        lambda: system.rows("SELECT 1 FROM ledgermill.quarantine WHERE body = :b", b=b"what nobody can read")
    )
    assert acme.balance("TILL") == 30_200
    assert children(system.worker_pid) == processes, "nobody ended of it"


def children(worker_pid: int) -> set[str]:
    return set(Path(f"/proc/{worker_pid}/task/{worker_pid}/children").read_text().split())
