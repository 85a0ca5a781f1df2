"""Messages that come again: the same, or the same key with other content."""

import json
import random
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from uuid import uuid4

import redis
from killing import System
from upstreams import Acknowledged
from witness import CHANGED_BY, ORGANIZATION


class Repeater(threading.Thread):
    """Delivers acknowledged journals again, each in messages as a broker would repeat them, in any order.

    One in a hundred comes with another amount, at any time. Of two contents under way at once the one that is settled
    first counts; the other must be refused. `changed` has the keys of those.
    """

    def __init__(self, system: System, *, seed: int, messages_per_s: float, again: Acknowledged) -> None:
        super().__init__(name="repeater")
        self.delivered: Counter[str] = Counter()  # messages: same, changed
        self.changed: set[str] = set()
        self.is_over = threading.Event()
        self.problem: BaseException | None = None
        self._broker_url, self._again, self._messages_per_s = system.broker_url, again, messages_per_s
        self._chance = random.Random(f"{seed} repeater")

    def run(self) -> None:
        started = time.monotonic()
        client = redis.Redis.from_url(self._broker_url, socket_timeout=5, socket_connect_timeout=3)
        try:
            while not self.is_over.wait(0.25):
                due = int(self._messages_per_s * (time.monotonic() - started)) - self.delivered.total()
                due = min(due, int(self._messages_per_s * 5))  # after an outage some at once, not all
                if due > 0:
                    self._deliver(client, due)
        except BaseException as problem:  # noqa: BLE001 - told by whoever awaits this thread
            self.problem = problem
        finally:
            client.close()

    def _deliver(self, client: redis.Redis, count: int) -> None:
        kinds: Counter[str] = Counter()
        messages = []
        while len(messages) < count and (told := self._again.choose()):
            is_changed = self._chance.random() < 0.01
            message = told.as_message()
            if is_changed:
                message = told._replace(amount=told.amount + CHANGED_BY).as_message()
                self.changed.add(told.key)
            times = self._chance.choice([1, 1, 1, 2, 20])
            raw = raw_message([message], message_id=str(uuid4()))
            messages += [raw] * times
            kinds["changed" if is_changed else "same"] += times
        self._chance.shuffle(messages)
        try:
            if messages:
                client.lpush("posting", *messages)
                self.delivered += kinds
        except redis.RedisError:
            return


def raw_message(journals: Sequence[dict[str, object]], *, message_id: str) -> bytes:
    """A message as Celery would lay it into Redis, a hundred times as fast."""
    body = json.dumps([[], {"organization": ORGANIZATION, "journals": journals}, None]).encode()
    return json.dumps(
        {
            "body": b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "id": message_id,
                "task": "ledgermill.post_journals",
                "argsrepr": "()",
                "kwargsrepr": "1 journal",
            },
            "properties": {
                "body_encoding": "base64",
                "correlation_id": message_id,
                "delivery_info": {"exchange": "", "routing_key": "posting"},
                "delivery_mode": 2,
                "delivery_tag": message_id,
                "priority": 0,
            },
        }
    ).encode()
