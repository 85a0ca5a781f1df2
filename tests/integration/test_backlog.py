"""What a queue holds and for how long, and what a Redis that is full still does."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from running import eventually

from ledgermill.broker import envelopes, publishing
from ledgermill.broker.backlog import MOST_MOMENTS, Backlog
from ledgermill.broker.intake import Intake
from ledgermill.broker.publishing import Sender
from ledgermill.broker.unreadable import set_aside, take_unreadable
from ledgermill.config import Settings
from ledgermill.embedded import redis as embedded_redis
from ledgermill.errors import BrokerFull
from ledgermill.messages import routes

QUEUE = "posting"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home: Path = tmp_path_factory.mktemp("redis")
    yield embedded_redis.start(home).url
    embedded_redis.discard(home)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        client.flushall()
        before = client.config_get("maxmemory")["maxmemory"]
        yield client
        client.config_set("maxmemory", before)


def put(redis: Redis, count: int) -> None:
    redis.lpush(QUEUE, *[b"x" * 1_000] * count)


def take(redis: Redis, count: int) -> None:
    taker = Intake(redis, QUEUE, taker="a", lease_s=60)
    assert taker.take(most_messages=count)
    taker.drop()


def fill_up(redis: Redis) -> None:
    """From here on Redis refuses whatever may need memory."""
    redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        redis.set("more", "x")


def test_the_age_is_that_of_the_oldest_message_also_while_others_leave_and_come(redis: Redis) -> None:
    backlog = Backlog(redis, QUEUE)
    assert backlog.look(now_s=0)[:2] == (0, 0.0)

    put(redis, 3)
    assert backlog.look(now_s=10)[:2] == (3, 0.0), "at least: they may have come just now"
    put(redis, 2)
    assert backlog.look(now_s=20)[:2] == (5, 10.0)
    take(redis, 2)
    assert backlog.look(now_s=30)[:2] == (3, 20.0)
    take(redis, 1)
    assert backlog.look(now_s=31)[:2] == (2, 11.0), "the first three are gone"
    take(redis, 2)
    assert backlog.look(now_s=40)[:2] == (0, 0.0)
    put(redis, 1)
    assert backlog.look(now_s=50)[:2] == (1, 0.0), "what came after all had left is not older"


def test_a_queue_that_was_emptied_or_given_back_to_or_lost_counts_anew(redis: Redis) -> None:
    backlog = Backlog(redis, QUEUE)
    put(redis, 4)
    backlog.look(now_s=0)
    taker = Intake(redis, QUEUE, taker="a", lease_s=60)
    taker.take(most_messages=2)
    taker.give_back()
    assert backlog.look(now_s=5)[:2] == (4, 5.0)

    redis.delete(QUEUE)
    put(redis, 1)
    assert backlog.look(now_s=10)[:2] == (1, 0.0)
    redis.flushall()
    put(redis, 1)
    assert backlog.look(now_s=20)[:2] == (1, 10.0), "one as before; nobody can tell"
    redis.flushall()
    assert backlog.look(now_s=30)[:2] == (0, 0.0)


def test_a_backlog_that_lasts_is_remembered_in_bounds(redis: Redis) -> None:
    backlog = Backlog(redis, QUEUE)
    for second in range(MOST_MOMENTS + 10):
        redis.lpush(QUEUE, b"x")
        seen = backlog.look(now_s=second)

    assert seen.oldest_s == MOST_MOMENTS + 9
    assert len(backlog._moments) < MOST_MOMENTS


def test_the_share_of_memory_is_of_what_redis_may_use(redis: Redis) -> None:
    redis.config_set("maxmemory", 0)
    assert Backlog(redis, QUEUE).look().memory_share == 0.0
    redis.config_set("maxmemory", 2 * int(redis.info("memory")["used_memory"]))
    assert 0.4 < Backlog(redis, QUEUE).look().memory_share < 0.7


def test_the_embedded_redis_has_a_limit_and_forgets_nothing(redis: Redis) -> None:
    assert int(redis.config_get("maxmemory")["maxmemory"]) > 0
    assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_a_redis_that_is_full_refuses_messages_and_still_gives_out_those_it_has(redis: Redis, redis_url: str) -> None:
    put(redis, 50)
    redis.lpush(QUEUE + "\x06\x169", b"urgent")
    fill_up(redis)

    with pytest.raises(BrokerFull):
        Sender(redis_url).send(routes.POST_JOURNALS, arguments={}, shown="", task_id="a", queue=QUEUE)
    taker = Intake(redis, QUEUE, taker="a", lease_s=0.001)
    assert taker.take(most_messages=20)
    time.sleep(0.01)
    again = Intake(redis, QUEUE, taker="b", lease_s=60).take()
    assert again is not None
    assert (len(again.messages), again.is_redelivered) == (20, True)
    set_aside(redis, raw=again.messages[0], queue=QUEUE, reason="a test")
    Intake(redis, QUEUE, taker="b", lease_s=60).give_back()
    assert redis.llen(QUEUE) == 50
    taker = Intake(redis, QUEUE, taker="c", lease_s=60)
    last = taker.take()
    assert last is not None
    assert len(last.messages) == 51
    taker.drop()

    assert not taker.is_waiting()
    assert len(take_unreadable(redis, limit=10)) == 1


def test_a_message_of_ours_is_field_by_field_what_celery_writes(redis: Redis, redis_url: str) -> None:
    arguments = {"organization": "acme", "journals": '[{"idempotency_key": "Zürich ☃"}]'}
    publisher = publishing.publisher(Settings(broker_url=redis_url))
    sender = Sender(redis_url)

    publisher.send_task(
        routes.POST_JOURNALS.task, kwargs=arguments, argsrepr="()", kwargsrepr="1", task_id="t", queue=QUEUE
    )
    sender.send(routes.POST_JOURNALS, arguments=arguments, shown="1", task_id="t", queue=QUEUE)
    publisher.close()
    sender.close()

    ours, theirs = (json.loads(raw) for raw in redis.lrange(QUEUE, 0, -1))
    for message in (ours, theirs):
        message["body"] = json.loads(base64.b64decode(message["body"]))
        for made_anew in ("delivery_tag", "reply_to"):
            assert len(message["properties"].pop(made_anew)) == 36
    assert ours == theirs
    assert list(ours["headers"]) == list(theirs["headers"])


def test_on_another_broker_celery_sends_and_nobody_knows_what_waits() -> None:
    sender = Sender("memory://")

    sender.send(routes.POST_JOURNALS, arguments={"organization": "acme"}, shown="1", task_id="t", queue="elsewhere")

    with publishing.publisher(Settings(broker_url="memory://")).connection_for_read() as connection:
        message = connection.SimpleQueue("elsewhere").get(timeout=5)
    assert (message.headers["task"], message.headers["id"]) == (routes.POST_JOURNALS.task, "t")
    assert message.payload[1] == {"organization": "acme"}
    assert sender.look("elsewhere") is None
    sender.close()


STOCK_WORKER = """
import sys
from celery import Celery

app = Celery(broker=sys.argv[1])
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)

@app.task(name="ledgermill.post_journals")
def post_journals(*, organization, journals):
    print(f"got {organization} {journals} {post_journals.request.id}", flush=True)

app.worker_main(["worker", "-P", "solo", "-Q", "posting", "--without-gossip", "--without-mingle"])
"""


def test_a_stock_celery_worker_takes_a_message_of_ours(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    arguments = {"organization": "acme", "journals": "[1]"}
    redis.lpush(QUEUE, envelopes.message(routes.POST_JOURNALS.task, arguments, shown="1", task_id="id-1", queue=QUEUE))
    program, log = tmp_path / "stock.py", tmp_path / "stock.log"
    program.write_text(STOCK_WORKER)
    with (
        log.open("wb") as output,
        subprocess.Popen([sys.executable, program, redis_url], stdout=output, stderr=output, cwd=tmp_path) as process,
    ):
        try:
            eventually(lambda: "got acme [1] id-1" in log.read_text(), within_s=30)
            eventually(lambda: not redis.exists("unacked"))
        finally:
            process.kill()
