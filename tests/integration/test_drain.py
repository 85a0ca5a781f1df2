"""Single messages of foreign producers, taken off their queue many at once by real workers."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Organization, System, eventually, journal
from unreadable_corpus import BAD

from ledgermill.broker.publishing import METRICS_KEY

PARKED = "parked-by-a-test"
SINGLES = 400


@pytest.fixture(autouse=True)
def same_worker(system: System) -> Iterator[None]:
    """Whatever arrives, the pool's processes are the ones that they were."""
    before = children(system.worker_pid)
    yield
    assert children(system.worker_pid) == before


def children(worker_pid: int) -> set[str]:
    return set(Path(f"/proc/{worker_pid}/task/{worker_pid}/children").read_text().split())


def raw_messages(system: System, *arguments: dict[str, Any], task: str = "post_journals") -> list[bytes]:
    """Messages byte for byte as Celery puts them on a list of Redis."""
    for kwargs in arguments:
        system.celery.send_task(f"ledgermill.{task}", kwargs=kwargs, queue=PARKED)
    redis = system.owner.broker.redis
    raws: list[bytes] = redis.lrange(PARKED, 0, -1)[::-1]  # type: ignore[index]  # sync client
    redis.delete(PARKED)
    return raws


def counter(system: System, name: str) -> float:
    value: Any = system.owner.broker.redis.hget(METRICS_KEY, name)
    return float(value or 0)


def test_journals_that_came_one_to_a_message_are_posted_together(system: System, acme: Organization) -> None:
    keys = [f"single-{number}" for number in range(SINGLES)]
    raws = raw_messages(system, *({"organization": acme.code, "journals": [journal(key)]} for key in keys))
    transactions = counter(system, "batches")

    system.owner.broker.redis.lpush("posting", *raws)

    assert {job["state"] for job in acme.ended(keys).values()} == {"posted"}
    assert acme.balance("TILL") == 100 * SINGLES
    assert counter(system, "batches") - transactions <= SINGLES / 20


def test_journals_of_one_take_are_posted_in_the_order_in_which_they_were_published(
    system: System, acme: Organization
) -> None:
    keys = [f"ordered-{number}" for number in range(50)]
    raws = raw_messages(system, *({"organization": acme.code, "journals": [journal(key)]} for key in keys))

    system.owner.broker.redis.lpush("posting", *raws)

    acme.ended(keys)
    posted = system.rows(
        "SELECT idempotency_key FROM ledgermill.job JOIN ledgermill.organization USING (organization_id)"
        " WHERE organization.code = :code ORDER BY position",
        code=acme.code,
    )
    assert [row[0] for row in posted] == keys


def test_one_bad_message_among_singles_is_rejected_alone(system: System, acme: Organization) -> None:
    singles = [{"organization": acme.code, "journals": [journal(f"fine-{number}")]} for number in range(30)]
    singles.insert(10, {"organization": acme.code, "journals": [journal("wrong", amount="1.5")]})
    singles.insert(20, {"organization": "nobody's", "journals": [journal("lost")]})

    system.owner.broker.redis.lpush("posting", *raw_messages(system, *singles))

    jobs = acme.ended([*(f"fine-{number}" for number in range(30)), "wrong"])
    assert jobs["wrong"]["error"]["code"] == "INVALID_AMOUNT"
    assert acme.balance("TILL") == 3_000
    assert eventually(lambda: system.rows("SELECT 1 FROM ledgermill.quarantine WHERE body LIKE :b", b=b"%nobody's%"))


def test_the_same_message_many_times_over_has_one_effect(system: System, acme: Organization) -> None:
    keyless = raw_messages(system, {"organization": acme.code, "journals": [journal(None)]})
    keyed = raw_messages(system, {"organization": acme.code, "journals": [journal("again")]})

    system.owner.broker.redis.lpush("posting", *(keyless + keyed) * 40)

    acme.ended(["again"])
    eventually(lambda: system.owner.broker.redis.llen("posting") == 0)
    eventually(lambda: not system.owner.broker.redis.exists("ledgermill:taken:posting"))
    assert acme.balance("TILL") == 200


def test_rubbish_of_all_kinds_between_singles_is_set_aside_and_the_singles_are_posted(
    system: System, acme: Organization
) -> None:
    keys = [f"between-{number}" for number in range(len(BAD))]
    raws = raw_messages(system, *({"organization": acme.code, "journals": [journal(key)]} for key in keys))

    for good, bad in zip(raws, BAD.values(), strict=True):
        system.owner.broker.redis.lpush("posting", bad, good)

    assert {job["state"] for job in acme.ended(keys).values()} == {"posted"}
    for content in BAD.values():
        assert eventually(lambda raw=content: system.rows("SELECT 1 FROM ledgermill.quarantine WHERE body = :b", b=raw))


def test_a_message_with_a_priority_is_posted(system: System, acme: Organization) -> None:
    arguments = {"organization": acme.code, "journals": [journal("urgent")]}

    system.celery.send_task("ledgermill.post_journals", kwargs=arguments, queue="posting", priority=9)

    assert acme.job("urgent")["state"] == "posted"


def test_balance_updates_and_journals_in_one_queue_keep_their_kinds(system: System, acme: Organization) -> None:
    update = {"idempotency_key": "up", "ledger_code": "TILL", "type": "debit", "amount": 7}
    raws = raw_messages(system, {"organization": acme.code, "updates": [update]}, task="update_balances")
    raws += raw_messages(system, {"organization": acme.code, "journals": [journal("down")]})

    system.owner.broker.redis.lpush("posting", *raws)

    jobs = acme.ended(["up", "down"])
    assert (jobs["up"]["kind"], jobs["down"]["kind"]) == ("update_balance", "post_journal")
    assert acme.balance("TILL") == 107


def test_monitors_see_how_many_journals_were_posted_for_whom(system: System, acme: Organization) -> None:
    seen: list[dict[str, Any]] = []
    stop = threading.Event()

    def listen() -> None:
        with system.celery.connection_for_read() as connection:
            receiver = system.celery.events.Receiver(connection, handlers={"task-received": seen.append})
            ready.set()
            while not stop.is_set():
                for _ in receiver.itercapture(limit=None, timeout=0.5, wakeup=False):
                    pass

    ready = threading.Event()
    listener = threading.Thread(target=lambda: _quietly(listen), daemon=True)
    listener.start()
    ready.wait(10)
    time.sleep(0.5)

    acme.publish([journal(f"seen-{number}") for number in range(20)], task_id="seen-by-monitors")

    event = eventually(lambda: next((e for e in seen if e["uuid"] == "seen-by-monitors"), None))
    stop.set()
    assert (event["name"], event["kwargs"]) == ("ledgermill.post_journals", f"20 journals, {acme.code}")


def _quietly(listen: Callable[[], None]) -> None:
    try:
        listen()
    except (TimeoutError, OSError):
        return
