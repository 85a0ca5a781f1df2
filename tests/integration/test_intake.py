"""The intake of a queue: whatever a taker does or dies of, each message is in one place in Redis."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from ledgermill.broker.intake import Intake, leases_key, left_key
from ledgermill.embedded import redis as embedded_redis

QUEUE = "posting"
COUNT = left_key(QUEUE).encode()  # all that is there once everything is settled


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home: Path = tmp_path_factory.mktemp("redis")
    yield embedded_redis.start(home).url
    embedded_redis.discard(home)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


def intake(redis: Redis, taker: str, *, lease_s: float = 60) -> Intake:
    return Intake(redis, QUEUE, taker=taker, lease_s=lease_s)


def put(redis: Redis, *messages: bytes) -> None:
    """As Celery does: the oldest leaves first."""
    for message in messages:
        redis.lpush(QUEUE, message)


def test_messages_come_oldest_first_and_stay_in_redis_until_they_are_dropped(redis: Redis) -> None:
    put(redis, b"1", b"2", b"3")
    taker = intake(redis, "a")

    taken = taker.take()

    assert taken is not None
    assert (taken.messages, taken.is_redelivered) == ([b"1", b"2", b"3"], False)
    assert redis.lrange("ledgermill:taken:posting:a", 0, -1) == [b"1", b"2", b"3"]
    assert redis.llen(QUEUE) == 0
    taker.drop()
    assert redis.keys("*") == [COUNT]


def test_the_next_take_drops_what_its_taker_settled_and_nothing_of_others(redis: Redis) -> None:
    put(redis, b"1", b"2", b"3")
    taker, other = intake(redis, "a"), intake(redis, "b")
    taker.take(most_messages=1)
    other.take(most_messages=1)

    again = taker.take()

    assert again is not None
    assert again.messages == [b"3"]
    assert redis.lrange("ledgermill:taken:posting:a", 0, -1) == [b"3"]
    assert redis.lrange("ledgermill:taken:posting:b", 0, -1) == [b"2"]
    assert taker.take() is None
    assert redis.zrange(leases_key(QUEUE), 0, -1) == [b"b"]
    assert not redis.exists("ledgermill:taken:posting:a")


def test_nothing_waits_in_an_empty_queue(redis: Redis) -> None:
    assert intake(redis, "a").take() is None
    assert not intake(redis, "a").is_waiting()
    assert redis.keys("*") == []


def test_a_take_ends_at_its_number_of_messages_and_at_its_bytes(redis: Redis) -> None:
    put(redis, *[b"x" * 10] * 10)

    first, second = intake(redis, "a").take(most_messages=3), intake(redis, "b").take(most_bytes=35)

    assert first is not None
    assert len(first.messages) == 3
    assert second is not None
    assert len(second.messages) == 4  # the fourth is the first that reaches 35 bytes


def test_a_message_larger_than_a_take_may_be_is_taken_alone(redis: Redis) -> None:
    put(redis, b"x" * 100, b"y")

    taken = intake(redis, "a").take(most_bytes=10)

    assert taken is not None
    assert taken.messages == [b"x" * 100]


def test_what_is_given_back_leaves_in_its_old_order_before_what_came_later(redis: Redis) -> None:
    put(redis, b"1", b"2", b"3", b"4")
    taker = intake(redis, "a")
    taker.take(most_messages=3)
    put(redis, b"5")

    taker.give_back()

    assert not redis.exists("ledgermill:taken:posting:a", leases_key(QUEUE))
    again = intake(redis, "b").take()
    assert again is not None
    assert (again.messages, again.is_redelivered) == ([b"1", b"2", b"3", b"4", b"5"], False)


def test_what_a_dead_taker_had_comes_again_after_its_lease_and_says_so(redis: Redis) -> None:
    put(redis, b"1", b"2")
    intake(redis, "dead", lease_s=0.2).take()
    put(redis, b"3")
    early = intake(redis, "b").take()
    assert early is not None
    assert early.messages == [b"3"]
    assert not intake(redis, "c").is_waiting()
    time.sleep(0.25)
    assert intake(redis, "c").is_waiting()

    late = intake(redis, "c").take()

    assert late is not None
    assert (late.messages, late.is_redelivered) == ([b"1", b"2"], True)
    assert intake(redis, "d").take() is None  # it is leased again


def test_what_a_taker_leaves_comes_again_at_once(redis: Redis) -> None:
    put(redis, b"1")
    taker = intake(redis, "a")
    taker.take()

    taker.leave()

    again = intake(redis, "b").take()
    assert again is not None
    assert (again.messages, again.is_redelivered) == ([b"1"], True)


def test_a_taker_that_was_thought_dead_drops_nothing_of_its_successor(redis: Redis) -> None:
    put(redis, b"1")
    stale = intake(redis, "stale", lease_s=0.05)
    stale.take()
    time.sleep(0.1)
    intake(redis, "successor").take()

    stale.drop()
    stale.give_back()
    stale.leave()

    assert redis.lrange("ledgermill:taken:posting:successor", 0, -1) == [b"1"]
    assert redis.zrange(leases_key(QUEUE), 0, -1) == [b"successor"]
    assert redis.llen(QUEUE) == 0


def test_messages_with_a_priority_are_taken_too(redis: Redis) -> None:
    redis.lpush("posting\x06\x169", b"urgent")
    assert intake(redis, "a").is_waiting()

    taken = intake(redis, "a").take()

    assert taken is not None
    assert taken.messages == [b"urgent"]


def test_who_waits_at_an_empty_queue_is_woken_by_a_message_and_leaves_it_there(redis_url: str, redis: Redis) -> None:
    assert not intake(redis, "a").wait(0.01)
    woken: list[bool] = []

    def wait() -> None:
        with Redis.from_url(redis_url) as client:
            woken.append(intake(client, "a").wait(10))

    waiting = [threading.Thread(target=wait) for _ in range(2)]
    for thread in waiting:
        thread.start()
    time.sleep(0.1)
    put(redis, b"1")
    for thread in waiting:
        thread.join()

    assert woken == [True, True]
    assert redis.lrange(QUEUE, 0, -1) == [b"1"]


def test_takers_at_once_take_each_message_once(redis_url: str, redis: Redis) -> None:
    put(redis, *(str(number).encode() for number in range(3_000)))
    found: list[bytes] = []

    def take_all(name: str) -> None:
        with Redis.from_url(redis_url) as client:
            taker = intake(client, name)
            while taken := taker.take(most_messages=7):
                found.extend(taken.messages)
                taker.drop()

    threads = [threading.Thread(target=take_all, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(int, found)) == list(range(3_000))
    assert redis.keys("*") == [COUNT]
    assert redis.get(COUNT) == b"3000"
