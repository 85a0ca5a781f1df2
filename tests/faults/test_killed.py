"""Whatever dies while journals are published, each is posted once: real processes, killed by a plan with a seed."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psycopg
import pytest
from killing import Faults, System, plan_faults, wait_until
from witness import ORGANIZATION, Books, Told, Witness, expected_balances, make_journals, read_books

from ledgermill.errors import BrokerUnavailable
from ledgermill.producer import Producer
from ledgermill.usecases.verify import verify

JOURNALS = 20_000
MESSAGE_UPSTREAMS = 2
HTTP_UPSTREAMS = 3
FAULTS_WITHIN_S = 28.0
SETTLED_WITHIN_S = 40.0
SEED = int(os.environ.get("LEDGERMILL_SEED", "20261121"))


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path) as system:
        yield system


def test_every_acknowledged_journal_is_posted_once_although_workers_redis_and_postgresql_are_killed(
    system: System, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)
    faults = Faults(system, random.Random(SEED + 1), plan_faults(chance, within_s=FAULTS_WITHIN_S))
    with capsys.disabled():
        print(f"\nseed={SEED} plan: {' '.join(f'{fault.what}@{fault.at_s:.1f}' for fault in faults.plan)}")
    started = time.monotonic()

    with Producer(
        system.settings.broker_url.get_secret_value(),
        ORGANIZATION,
        api_url=system.api_url,
        api_key=system.api_key,
        most_in_a_message=150,
    ) as producer:
        upstreams = [
            *(MessageUpstream(tmp_path / f"message-{n}.witness", producer) for n in range(MESSAGE_UPSTREAMS)),
            *(HttpUpstream(tmp_path / f"http-{n}.witness", system) for n in range(HTTP_UPSTREAMS)),
        ]
        shares = [JOURNALS // 2 // MESSAGE_UPSTREAMS] * MESSAGE_UPSTREAMS + _split(JOURNALS // 2, HTTP_UPSTREAMS)
        with ThreadPoolExecutor(len(upstreams) + 1) as pool:
            killing = pool.submit(faults.run)
            publishing = [
                pool.submit(
                    upstream.publish,
                    make_journals(chance, upstream.name, share),
                    random.Random(SEED + 2 + number),
                    lambda: (time.monotonic() - started) / FAULTS_WITHIN_S,
                )
                for number, (upstream, share) in enumerate(zip(upstreams, shares, strict=True))
            ]
            for future in (*publishing, killing):
                future.result()
        published_s = time.monotonic() - started
        confirmed = producer.confirm(timeout_s=SETTLED_WITHIN_S)
    for upstream in upstreams:
        upstream.close()
    wait_until(lambda: waiting_jobs(system) == 0, timeout_s=SETTLED_WITHIN_S, what=lambda: _what_waits(system))
    settled_s = time.monotonic() - started - published_s
    time.sleep(0.5)  # what is still on its way must change nothing
    system.stop_programs()

    assert not confirmed.missing
    told, outcomes = Witness.read(upstream.witness.path for upstream in upstreams)
    for key in told:
        if key.startswith("message"):
            outcomes[key] = "ok"  # confirmed
    books = read_books(system.settings.url_of("owner"))
    lost, double, phantom = judge(books, told, outcomes)
    wrong = {
        code: (books.balances[code], expected)
        for code, expected in expected_balances(told[key] for key in books.posted if key in told).items()
        if books.balances[code] != expected
    }
    system.owner.engine.dispose()  # its connections are from before the crash
    report = verify(system.owner.engine)
    violations = len(wrong) + sum(check.violations for check in report.checks)
    unknown = sum(outcome == "unknown" for outcome in outcomes.values())
    with capsys.disabled():
        print(
            f"faults={faults.done.total()} jobs={len(told)} lost={len(lost)} double={len(double)} "
            f"phantom={len(phantom)} invariant={violations} seed={SEED} | killed_at_work={faults.at_work} "
            f"unknown={unknown} rejected={len(books.rejected)} published_again={confirmed.published_again} "
            f"publishing_s={published_s:.1f} settling_s={settled_s:.1f} codes={dict(Counter(books.rejected.values()))}"
        )
    assert not wrong
    assert report.is_clean, report.as_text()
    assert (lost, double, phantom) == ([], [], [])
    assert len(told) >= JOURNALS
    assert faults.done == {"child": 20, "worker": 3, "redis": 1, "postgres": 1}


def judge(
    books: Books, told: dict[str, Told], outcomes: dict[str, str]
) -> tuple[list[object], list[object], list[object]]:
    """What was acknowledged and has not the one outcome it must have; what is there twice; what nobody asked for."""
    lost: list[object] = []
    phantom: list[object] = [key for key in (*books.posted, *books.rejected) if key not in told]
    for key, journal in told.items():
        posted, rejected = books.posted.get(key), books.rejected.get(key)
        if outcomes[key] == "ok" and (posted is None, rejected) != (
            (True, "INSUFFICIENT_BALANCE") if journal.must_be_rejected else (False, None)
        ):
            lost.append((journal, posted, rejected))
        if outcomes[key] == "fail" and (posted or rejected):
            phantom.append((journal, posted, rejected))
        if posted is not None and (journal.must_be_rejected or posted != journal[1:]):
            phantom.append((journal, posted, rejected))
    return lost, [key for key, count in books.journals.items() if count > 1], phantom


def waiting_jobs(system: System) -> int:
    with psycopg.connect(system.settings.url_of("owner")) as connection:
        row = connection.execute("SELECT coalesce(sum(jobs - next_item), 0) FROM ledgermill.inbox").fetchone()
    assert row is not None
    return int(row[0])


def _what_waits(system: System) -> str:
    with psycopg.connect(system.settings.url_of("owner")) as connection:
        rows = connection.execute(
            "SELECT jobs, next_item, attempts, due_at, claimed_at, last_error, now() FROM ledgermill.inbox"
        )
        return f"the inbox is empty; it has {rows.fetchmany(5)}\n{system.logs()[-20_000:]}"


Progress = Callable[[], float]


class MessageUpstream:
    """Publishes through the broker, most of it in messages of 50 to 200."""

    name: str

    def __init__(self, witness: Path, producer: Producer) -> None:
        self.name = witness.stem
        self.witness = Witness(witness)
        self.producer = producer

    def publish(self, journals: Sequence[Told], chance: random.Random, progress: Progress) -> None:
        for some in _in_batches(journals, chance, progress):
            self.witness.note(some, "unknown")
            try:
                if len(some) == 1:
                    self.producer.post(some[0].as_message())
                else:
                    self.producer.post_many([journal.as_message() for journal in some])
            except BrokerUnavailable:
                time.sleep(0.2)  # `confirm` publishes them again
            if chance.random() < 0.03:
                self._publish_twice(some)

    def close(self) -> None:
        self.witness.close()

    def _publish_twice(self, some: Sequence[Told]) -> None:
        try:
            self.producer.post_many([journal.as_message() for journal in reversed(some)])
        except BrokerUnavailable:
            time.sleep(0.2)


class HttpUpstream:
    """Publishes over HTTP: NDJSON, and single journals without waiting. It gives up on some that got no answer."""

    def __init__(self, witness: Path, system: System) -> None:
        self.name = witness.stem
        self.witness = Witness(witness)
        self.client = httpx2.Client(base_url=system.api_url, headers={"X-API-Key": system.api_key}, timeout=10)

    def publish(self, journals: Sequence[Told], chance: random.Random, progress: Progress) -> None:
        for some in _in_batches(journals, chance, progress):
            self.witness.note(some, "unknown")
            while (outcome := self._send(some)) == "unknown" and chance.random() < 0.7:
                time.sleep(0.3)
            self.witness.note(some, outcome)
            if outcome == "ok" and chance.random() < 0.03:
                self._send(some)
        for journal in (Told(f"{self.name}-invalid-{n}", "A", "I", 1) for n in range(5)):
            self.witness.note([journal], "unknown")
            half = {**journal.as_message(), "entries": []}
            self.witness.note([journal], "fail" if self._is_refused(half) else "unknown")

    def _is_refused(self, body: dict[str, object]) -> bool:
        try:
            answer = self.client.post("/v1/ledgers/journals", json=body)
        except httpx2.TransportError:
            return False
        assert answer.status_code in {400, 503}, answer.text
        return answer.status_code == 400

    def close(self) -> None:
        self.client.close()
        self.witness.close()

    def _send(self, some: Sequence[Told]) -> str:
        path, prefer = "/v1/ledgers/journals", {"Prefer": "respond-async"}
        try:
            if len(some) == 1:
                answer = self.client.post(path, json=some[0].as_message(), headers=prefer)
            else:
                lines = "\n".join(json.dumps(journal.as_message()) for journal in some)
                answer = self.client.post(
                    path, content=lines, headers={**prefer, "Content-Type": "application/x-ndjson"}
                )
        except httpx2.TransportError:
            return "unknown"
        assert answer.status_code in {201, 202, 503}, answer.text
        return "unknown" if answer.status_code == 503 else "ok"


def _in_batches(journals: Sequence[Told], chance: random.Random, progress: Progress) -> Iterator[Sequence[Told]]:
    """Batches of 50 to 200, and some single ones, spread over the time in which faults happen."""
    start = 0
    while start < len(journals):
        while start / len(journals) > progress():
            time.sleep(0.01)
        length = 1 if chance.random() < 0.4 else chance.randint(50, 200)
        yield journals[start : start + length]
        start += length


def _split(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]
