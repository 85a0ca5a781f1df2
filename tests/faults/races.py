"""The overdraft race: 64 clients at once take from a balance that has room for 10 of them.

report = race(books, rounds=500)
report.wrong                          # rounds in which not exactly 10 were posted: must be empty
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import httpx2

from ledgermill.errors import BrokerUnavailable
from ledgermill.producer import Producer

WAITING, ASYNCHRONOUS, MESSAGES = 40, 12, 12
CLIENTS = WAITING + ASYNCHRONOUS + MESSAGES
ROOM = 10
AMOUNT = 100
ENDED_WITHIN_S = 150.0
PUBLISHED_AGAIN_AFTER_S = 5.0
TURNS = 400
AGAIN_AFTER_S = 0.3
REFUSED = "INSUFFICIENT_BALANCE"
CONFLICT = 409


class Books(NamedTuple):
    """The ways into an organization; the API key has the scopes read, post and ledgers."""

    broker_url: str
    api_url: str
    api_key: str
    organization: str


class Round(NamedTuple):
    """A ledger's race: how its 64 jobs ended (posted, or a code), how many clients were told otherwise, what is left.

    `asked_again` counts clients that were told "unavailable", or nothing, and asked again with the same key.
    """

    ledger: str
    outcomes: dict[str, int]
    told_wrong: int
    balance: int
    asked_again: int

    @property
    def is_right(self) -> bool:
        right = {"posted": ROOM, REFUSED: CLIENTS - ROOM}
        return self.outcomes == right and not self.told_wrong and self.balance == 0


class Report(NamedTuple):
    """All rounds, and how long they took."""

    rounds: list[Round]
    took_s: float

    @property
    def wrong(self) -> list[Round]:
        return [one for one in self.rounds if not one.is_right]


def race(books: Books, *, rounds: int, at_once: int = 4) -> Report:
    """Race on `rounds` new ledgers, `at_once` of them at a time.

    Of each 64, 40 clients post over HTTP and wait, 12 post over HTTP without waiting, 12 publish messages of their own.
    Codes of ledgers and keys begin with `race-`.
    """
    return asyncio.run(_Race(books).run(rounds, at_once=at_once))


class _Race:
    def __init__(self, books: Books) -> None:
        self.books = books
        self.name = f"race-{uuid4().hex[:8]}"
        self.asked_again: set[str] = set()
        self.limit = httpx2.Limits(max_connections=None, max_keepalive_connections=None)

    async def run(self, rounds: int, *, at_once: int) -> Report:
        started = time.monotonic()
        headers = {"X-API-Key": self.books.api_key}
        turns = asyncio.Semaphore(at_once)
        async with httpx2.AsyncClient(
            base_url=self.books.api_url, headers=headers, timeout=30, limits=self.limit
        ) as self.client:
            # One message for each journal: they are to meet at the lock, not in one batch.
            with Producer(self.books.broker_url, self.books.organization, most_in_a_message=1) as self.producer:
                ledgers = [f"{self.name}-{n}" for n in range(rounds)]
                await self._fill(ledgers)
                found = await asyncio.gather(*(self._round(ledger, turns) for ledger in ledgers))
        return Report(found, time.monotonic() - started)

    async def _fill(self, ledgers: Sequence[str]) -> None:
        """Open the ledgers, assets without overdraft, and put into each what 10 may take."""
        source = f"{self.name}-SOURCE"
        for start in range(0, len(ledgers), 200):
            some = ledgers[start : start + 200]
            opened = [{"code": code, "type": "asset"} for code in some]
            if not start:
                opened.append({"code": source, "type": "asset", "balance_floor": "none"})
            answer = await self._ask("POST", "/v1/ledgers/import", json=opened)
            if answer.status_code != CONFLICT:  # opened by a request whose answer was lost
                answer.raise_for_status()
            journals = [self._journal(f"{code}-fill", code, source, ROOM * AMOUNT) for code in some]
            (await self._ask("POST", "/v1/ledgers/journals", json=journals)).raise_for_status()
            await self._ended([f"{code}-fill" for code in some])

    async def _round(self, ledger: str, turns: asyncio.Semaphore) -> Round:
        async with turns:
            keys = [f"{ledger}-{n}" for n in range(CLIENTS)]
            told = await asyncio.gather(*(self._take(key, ledger, number) for number, key in enumerate(keys)))
            jobs = await self._ended(keys, published={key: self._taking(key, ledger) for key in keys[:MESSAGES]})
            answer = await self._ask("GET", f"/v1/ledgers/{ledger}/balance")
        told_wrong = sum(said is not None and said != jobs[key] for key, (said, _) in zip(keys, told, strict=True))
        balance = int(answer.json()["balance_current"])
        return Round(ledger, dict(Counter(jobs.values())), told_wrong, balance, sum(again for _, again in told))

    async def _take(self, key: str, ledger: str, number: int) -> tuple[str | None, bool]:
        """What one client is told at once (posted, a code, or nothing yet), and whether it had to ask again."""
        journal = self._taking(key, ledger)
        if number < MESSAGES:
            return None, await asyncio.to_thread(self._publish, journal)
        prefer = "wait=20" if number < MESSAGES + WAITING else "respond-async"
        answer = await self._ask("POST", "/v1/ledgers/journals", json=journal, headers={"Prefer": prefer}, key=key)
        asked_again = key in self.asked_again
        if answer.status_code == 202:
            return None, asked_again
        said = "posted" if answer.status_code == 201 else str(answer.json().get("code", answer.status_code))
        return said, asked_again

    def _publish(self, journal: dict[str, Any]) -> bool:
        for turn in range(TURNS):
            try:
                self.producer.post_many([journal])
            except BrokerUnavailable:
                time.sleep(AGAIN_AFTER_S)
            else:
                return turn > 0
        raise BrokerUnavailable

    async def _ask(self, method: str, path: str, *, key: str = "", **options: Any) -> httpx2.Response:
        """An answer, after as many tries as an upstream has patience for: the same key makes that safe."""
        for _ in range(TURNS):
            try:
                answer = await self.client.request(method, path, **options)
            except httpx2.TransportError:
                pass
            else:
                if answer.status_code not in {429, 503}:
                    return answer
            self.asked_again.add(key)
            await asyncio.sleep(AGAIN_AFTER_S)
        raise AssertionError(f"no answer to {method} {path}")

    async def _ended(
        self, keys: Sequence[str], *, published: Mapping[str, dict[str, Any]] = MappingProxyType({})
    ) -> dict[str, str]:
        """How the jobs of these keys ended; what a broker lost of those that were published is published again."""
        deadline = time.monotonic() + ENDED_WITHIN_S
        again_at = time.monotonic() + PUBLISHED_AGAIN_AFTER_S
        while True:
            answer = await self._ask("POST", "/v1/jobs/lookup", json={"idempotency_keys": list(keys)})
            found: dict[str, Any] = answer.raise_for_status().json()
            if not found["missing"] and all(job["ended_at"] for job in found["jobs"]):
                return {job["idempotency_key"]: _outcome(job) for job in found["jobs"]}
            assert time.monotonic() < deadline, json.dumps(found)[:2_000]
            if time.monotonic() > again_at:
                again_at = time.monotonic() + PUBLISHED_AGAIN_AFTER_S
                for key in published.keys() & set(found["missing"]):
                    await asyncio.to_thread(self._publish, published[key])
            await asyncio.sleep(0.05)

    def _taking(self, key: str, ledger: str) -> dict[str, Any]:
        return self._journal(key, f"{self.name}-SOURCE", ledger, AMOUNT)

    @staticmethod
    def _journal(key: str, debit: str, credit: str, amount: int) -> dict[str, Any]:
        entries = [
            {"ledger_code": debit, "type": "debit", "amount": amount},
            {"ledger_code": credit, "type": "credit", "amount": amount},
        ]
        return {"idempotency_key": key, "entries": entries}


def _outcome(job: dict[str, Any]) -> str:
    return str((job.get("error") or {}).get("code") or job["state"])
