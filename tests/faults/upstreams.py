"""Upstream systems that never stop publishing: what all share, by our Producer, and by a plain Celery app.

Each keeps a witness. What is not acknowledged it sends again, as an upstream must that wants it posted.
"""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import redis
from celery import Celery
from killing import System
from kombu.exceptions import OperationalError
from witness import ORGANIZATION, Told, Witness

from ledgermill.errors import BrokerUnavailable, LookupUnavailable
from ledgermill.producer import Producer

ASK_EVERY_S = 2.0
AGAIN_AFTER_S = 5.0
MOST_ASKED = 1_000


class Acknowledged:
    """Some of what was acknowledged, to be delivered again: the newest, and a fair choice of the old."""

    def __init__(self, chance: random.Random) -> None:
        self.newest: deque[Told] = deque(maxlen=2_000)
        self.old: list[Told] = []
        self._chance = chance
        self._seen = 0

    def add(self, journals: Sequence[Told]) -> None:
        self.newest.extend(journals)
        self._seen += 1
        if len(self.old) < 2_000:
            self.old.append(journals[0])
        elif (place := self._chance.randrange(self._seen)) < 2_000:
            self.old[place] = journals[0]

    def choose(self) -> Told | None:
        some = self.newest if not self.old or self._chance.random() < 0.7 else self.old
        return self._chance.choice(some) if some else None


class Upstream(threading.Thread):
    """Publishes `jobs_per_s` from `start` until `is_over`, then sends again what is unacknowledged until `finish`."""

    longest = 200

    def __init__(self, name: str, system: System, *, seed: int, jobs_per_s: float, again: Acknowledged) -> None:
        super().__init__(name=name)
        self.witness = Witness(system.home, name, seed)
        self.system, self.jobs_per_s, self.again = system, jobs_per_s, again
        self.chance = random.Random(f"{seed} {name} batches")
        self.is_over = threading.Event()
        self.problem: BaseException | None = None
        self.refusals: Counter[int] = Counter()  # HTTP answers that were no acceptance, by status

    def run(self) -> None:
        started = time.monotonic()
        try:
            while not self.is_over.is_set():
                ahead_s = self.witness.count / self.jobs_per_s - (time.monotonic() - started)
                if ahead_s > 0:
                    self.ask()
                    self.is_over.wait(min(ahead_s, 0.5))
                    continue
                self.publish(self.witness.make(self._length()))
        except BaseException as problem:  # noqa: BLE001 - told by whoever awaits this thread
            self.problem = problem

    def _length(self) -> int:
        return 1 if self.chance.random() < 0.4 else self.chance.randint(self.longest // 4, self.longest)

    def acknowledged(self, journals: Sequence[Told]) -> None:
        self.witness.note(journals, "ok")
        self.again.add(journals)

    def publish(self, journals: Sequence[Told]) -> None:
        raise NotImplementedError

    def ask(self) -> None:
        """Ask what has arrived, where that is not known by itself; called often."""

    def is_acknowledged(self) -> bool:
        return True

    def finish(self, *, timeout_s: float) -> bool:
        """After the end of publishing: whether all was acknowledged in time that ever can be."""
        deadline = time.monotonic() + timeout_s
        while not self.is_acknowledged() and time.monotonic() < deadline:
            self.ask()
            time.sleep(0.1)
        return self.is_acknowledged()

    def close(self) -> None:
        self.witness.close()


class ProducerUpstream(Upstream):
    """Our Producer: messages of many journals and single ones that it gathers."""

    def __init__(self, name: str, system: System, *, broker_url: str, **options: Any) -> None:
        super().__init__(name, system, **options)
        self.producer = Producer(
            broker_url, ORGANIZATION, api_url=system.api_url, api_key=system.api_key, most_in_a_message=150
        )
        self.unconfirmed: list[Sequence[Told]] = []
        self.ask_at = 0.0

    def publish(self, journals: Sequence[Told]) -> None:
        self.unconfirmed.append(journals)
        try:
            if len(journals) == 1:
                self.producer.post(journals[0].as_message())
            else:
                self.producer.post_many([told.as_message() for told in journals])
        except BrokerUnavailable:
            time.sleep(0.2)  # `confirm` publishes them again

    def ask(self) -> None:
        if time.monotonic() < self.ask_at:
            return
        try:
            missing = set(self.producer.confirm(timeout_s=0.05).missing)
        except LookupUnavailable:
            return
        finally:
            self.ask_at = time.monotonic() + ASK_EVERY_S
        still = []
        for journals in self.unconfirmed:
            if any(told.key in missing for told in journals):
                still.append(journals)
            else:
                self.acknowledged(journals)
        self.unconfirmed = still

    def is_acknowledged(self) -> bool:
        return not self.unconfirmed

    def close(self) -> None:
        super().close()
        self.producer.close()


class CeleryUpstream(Upstream):
    """An app that knows nothing of ours: it sends tasks by name, and asks over HTTP by idempotency key."""

    longest = 80

    def __init__(self, name: str, system: System, **options: Any) -> None:
        super().__init__(name, system, **options)
        self.celery = Celery(f"{name}-upstream", broker=system.broker_url, set_as_current=False)
        self.celery.conf.broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 3}
        self.client = httpx2.Client(base_url=system.api_url, headers={"X-API-Key": system.api_key}, timeout=10)
        self.unconfirmed: dict[str, tuple[float, Sequence[Told]]] = {}  # by message id
        self.ask_at = 0.0

    def publish(self, journals: Sequence[Told]) -> None:
        if self.chance.random() < 0.2:  # some are due a little later, and wait in the inbox
            due_at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
            journals = [told._replace(due_at=due_at) for told in journals]  # part of the content, also when sent again
        self._send(str(uuid4()), journals)

    def _send(self, message_id: str, journals: Sequence[Told]) -> None:
        self.unconfirmed[message_id] = (time.monotonic(), journals)
        arguments = {"organization": ORGANIZATION, "journals": [told.as_message() for told in journals]}
        try:
            self.celery.send_task(
                "ledgermill.post_journals", kwargs=arguments, task_id=message_id, queue="posting", retry=False
            )
        except (OperationalError, OSError, redis.RedisError):
            time.sleep(0.2)

    def ask(self) -> None:
        if time.monotonic() < self.ask_at:
            return
        self.ask_at = time.monotonic() + ASK_EVERY_S
        missing = self._missing()
        for message_id, (sent_at, journals) in list(self.unconfirmed.items()):
            keys = {told.key for told in journals}
            if not keys <= missing.keys():
                continue  # not asked for yet
            if not any(missing[key] for key in keys):
                del self.unconfirmed[message_id]
                self.acknowledged(journals)
            elif time.monotonic() - sent_at > AGAIN_AFTER_S:
                self._send(message_id, journals)

    def _missing(self) -> dict[str, bool]:
        """By key that was asked for: whether nobody knows it."""
        keys = [told.key for _, journals in self.unconfirmed.values() for told in journals]
        found: dict[str, bool] = {}
        for start in range(0, len(keys), MOST_ASKED):
            asked = keys[start : start + MOST_ASKED]
            try:
                answer = self.client.post("/v1/jobs/lookup", json={"idempotency_keys": asked})
            except httpx2.HTTPError:
                break
            if answer.status_code != 200:
                self.refusals[answer.status_code] += 1
                break
            missing = set(answer.json()["missing"])
            found |= {key: key in missing for key in asked}
        return found

    def is_acknowledged(self) -> bool:
        return not self.unconfirmed

    def close(self) -> None:
        super().close()
        self.client.close()
        self.celery.close()
