"""A worker whose queue holds anything at all: it goes on, executes what is good and keeps the rest byte for byte."""

import hashlib
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kombu.transport import redis as kombu_redis
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from unreadable_corpus import ARRIVES, BAD, DEEP, QUEUE, SECRET, good

from ledgermill.broker.unreadable import (
    UNREADABLE_LIST,
    Unreadable,
    drop_unreadable,
    set_aside,
    take_unreadable,
    unreadable_id,
)
from ledgermill.embedded import ports
from ledgermill.embedded import redis as embedded_redis
from ledgermill.observability import is_fresh
from workers.consumer import nests_too_deep
from workers.unreadable import give_back, put_aside

ROOT = Path(__file__).parents[2]


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    redis: Redis
    log: Path
    heartbeat: Path

    def pids(self) -> list[str]:
        main = self.process.pid
        return [str(main), *Path(f"/proc/{main}/task/{main}/children").read_text().split()]

    def rss_mb(self) -> float:
        """Of the main process and its pool."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids()]
        return sum(pages) * os.sysconf("SC_PAGESIZE") / 1e6

    def arrived(self) -> list[str]:
        return [item.decode() for item in self.redis.lrange("test:arrived", 0, -1)]

    def unreadable(self) -> list[Unreadable]:
        return take_unreadable(self.redis, limit=10_000)

    def is_idle(self) -> bool:
        return self.redis.llen(QUEUE) == 0 and self.redis.hlen("unacked") == 0


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def redis_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("redis")
    yield home
    embedded_redis.discard(home)


@pytest.fixture(scope="module")
def redis_url(redis_home: Path) -> str:
    return embedded_redis.start(redis_home).url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(scope="module")
def worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    home = tmp_path_factory.mktemp("worker")
    log, heartbeat = home / "log", home / "heartbeat"
    command = [sys.executable, "-m", "celery", "-A", "tests.integration.unreadable_app", "worker"]
    options = ["--concurrency=2", "--without-mingle", "--without-gossip", "--loglevel=INFO"]
    environment = os.environ | {"TEST_BROKER_URL": redis_url, "LEDGERMILL_HEARTBEAT_FILE": str(heartbeat)}
    with (
        log.open("wb") as output,
        Redis.from_url(redis_url) as client,
        subprocess.Popen([*command, *options], stdout=output, stderr=output, cwd=ROOT, env=environment) as process,
    ):
        wait_until(lambda: b"ready." in log.read_bytes())
        yield Worker(process, client, log, heartbeat)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def test_a_worker_keeps_every_bad_message_byte_for_byte_and_goes_on_with_the_good_ones(worker: Worker) -> None:
    rss_before_mb, pids = worker.rss_mb(), worker.pids()
    for number, bad in enumerate(BAD.values(), start=1_000):
        worker.redis.lpush(QUEUE, bad, good(number))

    wait_until(lambda: len(worker.arrived()) >= len(BAD) and worker.is_idle())

    assert sorted(worker.arrived()) == [str(number) for number in range(1_000, 1_000 + len(BAD))]
    kept = worker.unreadable()
    names = {content: name for name, content in BAD.items()}
    assert Counter(names[message.raw] for message in kept) == Counter(list(BAD))
    assert {message.queue for message in kept} == {QUEUE}
    assert len({message.id for message in kept}) == len(BAD)
    assert worker.process.poll() is None
    log = worker.log.read_text()
    assert log.count("unreadable message set aside") == len(BAD)
    assert "Traceback" not in log
    assert "Connection to broker lost" not in log
    assert SECRET not in log
    assert "x-secret" not in log
    assert worker.pids() == pids
    print(f"bad messages: {len(BAD)}, memory of worker and pool: {rss_before_mb:.0f} MB, then {worker.rss_mb():.0f} MB")
    rss_after_mb = worker.rss_mb()
    assert rss_after_mb < rss_before_mb + 50

    for bad in BAD.values():  # and no more than that, however many come
        worker.redis.lpush(QUEUE, bad)
    wait_until(lambda: len(worker.unreadable()) == 2 * len(BAD) and worker.is_idle())
    assert worker.rss_mb() < rss_after_mb + 10


@pytest.mark.parametrize("name", ARRIVES)
def test_a_readable_message_arrives_with_its_odd_values(worker: Worker, name: str) -> None:
    content, expected = ARRIVES[name]
    worker.redis.delete("test:arrived", UNREADABLE_LIST)

    worker.redis.lpush(QUEUE, content)
    wait_until(lambda: bool(worker.arrived()) and worker.is_idle())

    assert worker.arrived() == [expected]
    assert worker.unreadable() == []


def test_messages_with_the_same_delivery_tag_do_not_acknowledge_each_other(worker: Worker) -> None:
    worker.redis.delete("test:arrived")
    worker.redis.lpush(QUEUE, *(good(number) for number in range(200)))

    wait_until(lambda: len(worker.arrived()) >= 200 and worker.is_idle())

    assert sorted(worker.arrived(), key=int) == [str(number) for number in range(200)]


@pytest.mark.parametrize("content", [b"1", b"[]", b"x", b"[" * DEEP])
def test_a_broken_control_message_is_ignored(worker: Worker, content: bytes) -> None:
    worker.redis.delete("test:arrived")
    heard_by = worker.redis.publish("/0.celery.pidbox", content)
    worker.redis.lpush(QUEUE, good(1))

    wait_until(lambda: bool(worker.arrived()) and worker.is_idle())

    assert heard_by == 1
    assert worker.process.poll() is None


def test_a_flood_of_large_rubbish_leaves_the_memory_of_the_worker_as_it_was(worker: Worker) -> None:
    worker.redis.delete("test:arrived", UNREADABLE_LIST)
    rss_before_mb = worker.rss_mb()
    for number in range(20):
        worker.redis.lpush(QUEUE, b"%d" % number + bytes(2_000_000))
    worker.redis.lpush(QUEUE, *(b"%d?" % number for number in range(2_000)))
    worker.redis.lpush(QUEUE, good(1))

    wait_until(lambda: bool(worker.arrived()) and worker.is_idle())

    assert worker.redis.llen(UNREADABLE_LIST) == 2_020
    assert worker.rss_mb() < rss_before_mb + 50
    worker.redis.delete(UNREADABLE_LIST)


def test_the_heartbeat_file_is_fresh_while_the_worker_lives(worker: Worker, tmp_path: Path) -> None:
    wait_until(lambda: is_fresh(worker.heartbeat, max_age_s=6))

    os.utime(worker.heartbeat, (0, 0))
    assert not is_fresh(worker.heartbeat, max_age_s=6)
    wait_until(lambda: is_fresh(worker.heartbeat, max_age_s=6), timeout_s=8)

    assert not is_fresh(tmp_path / "none", max_age_s=6)


def test_two_takers_at_a_time_drop_only_what_both_have_seen(redis: Redis) -> None:
    redis.delete(UNREADABLE_LIST)
    for content in (b"1", b"2", b"2", b"3"):
        set_aside(redis, raw=content, queue=QUEUE, reason="a test")

    first, second = take_unreadable(redis, limit=2), take_unreadable(redis, limit=2)
    drop_unreadable(redis, first)
    drop_unreadable(redis, second)

    assert [message.raw for message in first] == [b"1", b"2"]
    left = take_unreadable(redis, limit=10)
    assert [message.raw for message in left] == [b"2", b"3"]
    assert left[0].id == first[1].id == unreadable_id(b"2")
    redis.delete(UNREADABLE_LIST)


def test_a_message_that_redis_refuses_is_reported_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with (
        Redis(port=1, retry=Retry(NoBackoff(), 0)) as unreachable,
        caplog.at_level(logging.CRITICAL, logger="ledgermill.worker"),
    ):
        assert not put_aside(unreachable, raw=SECRET.encode(), queue=QUEUE, reason="a test")
        give_back(unreachable, key=QUEUE, raw=SECRET.encode())

    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "unreadable message not set aside",
        "message LOST",
    ]
    assert str(unreadable_id(SECRET.encode())) in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("text", "is_too_deep"),
    [
        (b"[" * 64 + b"]" * 64, False),
        (b"[" * 129 + b"]" * 129, True),
        (b'{"a":' * 129 + b"1" + b"}" * 129, True),
        (json.dumps("[" * 500).encode(), False),
        (json.dumps(json.dumps(['\\"' + "[" * 500, "\\", '"', "\n"])).encode(), False),
        (json.dumps([{"a": [1, {}]}] * 1_000).encode(), False),
    ],
)
def test_depth_counts_brackets_outside_of_texts(text: bytes, is_too_deep: bool) -> None:
    assert nests_too_deep(text) is is_too_deep


def test_kombu_still_reads_its_queues_as_our_transport_does() -> None:
    """When this fails, compare `Channel._brpop_read` of the new kombu with ours, then write its digest here."""
    source = inspect.getsource(kombu_redis.Channel._brpop_read)

    assert (
        hashlib.sha256(source.encode()).hexdigest()
        == "c42518699709f2df90f55a048fe6346612ae5527e5c4a6819f2c0920dc62088f"
    )


def test_a_worker_outlives_restarts_of_redis_with_tasks_in_flight(worker: Worker, redis_home: Path) -> None:
    port = worker.redis.connection_pool.connection_kwargs["port"]
    for restart in range(3):
        worker.redis.lpush(QUEUE, *(good(number) for number in range(400)), *(b"%d?" % restart for _ in range(10)))
        embedded_redis.stop(redis_home, save=False)
        wait_until(lambda: ports.is_free(port))  # else the server would come back on another
        embedded_redis.start(redis_home)
        last = 10_000 + restart
        worker.redis.lpush(QUEUE, good(last))

        wait_until(lambda: str(last) in worker.arrived())  # noqa: B023 - called within this round

        assert worker.process.poll() is None
