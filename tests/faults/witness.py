"""What upstream means and was told, written down beside the system, and what the books say: for a comparison of both."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psycopg

from ledgermill.runtime import Runtime
from ledgermill.usecases import charts, organizations

ORGANIZATION = "acme"
LEAVES = 50
EMPTY = "EMPTY"  # an asset without overdraft that nothing fills: whatever takes from it must be rejected


def chart() -> dict[str, str | None]:
    """Parents by code, roots first: heads on three levels, below them the leaves; the last is EMPTY."""
    parents: dict[str, str | None] = {}
    for root in ("A", "I"):
        parents[root] = None
        for group in ("1", "2"):
            parents[root + group] = root
            for part in ("1", "2"):
                parents[root + group + part] = root + group
    heads = [code for code in parents if len(code) == 3]
    for number in range(LEAVES - 1):
        head = heads[number % len(heads)]
        parents[f"{head}-{number}"] = head
    parents[EMPTY] = "A11"
    return parents


def leaves() -> list[str]:
    parents = chart()
    return [code for code in parents if code not in parents.values() and code != EMPTY]


def open_books(owner: Runtime) -> str:
    parents = chart()
    heads = set(parents.values())
    items = [
        (
            code,
            {
                "code": code,
                "name": code,
                "type": "income" if code.startswith("I") else "asset",
                "is_head": code in heads,
                "parent_ledger_code": parent,
                **({} if code in heads or code == EMPTY else {"balance_floor": "none"}),
            },
        )
        for code, parent in parents.items()
    ]
    with owner.engine.begin() as tx:
        organizations.create(tx, code=ORGANIZATION, name="Acme", base_currency="EUR", time_zone="UTC")
    with owner.engine.begin() as tx:
        charts.open_chart(tx, 1, items, principal_id=1)  # type: ignore[arg-type]  # a plain dict is a LedgerNewV1
        key = organizations.create_key(
            tx, ORGANIZATION, name="upstream", scopes=["read", "post", "post:system"], expires_at=None
        )
    return key.secret


class Told(NamedTuple):
    """A journal as upstream means it: what it debits, what it credits, how much."""

    key: str
    debit: str
    credit: str
    amount: int

    @property
    def must_be_rejected(self) -> bool:
        return self.credit == EMPTY

    def as_message(self) -> dict[str, object]:
        return {
            "idempotency_key": self.key,
            "transaction": {"description": self.key},  # a journal under another key would still show it
            "entries": [
                {"ledger_code": self.debit, "type": "debit", "amount": self.amount},
                {"ledger_code": self.credit, "type": "credit", "amount": self.amount},
            ],
        }


def make_journals(chance: random.Random, prefix: str, count: int) -> list[Told]:
    names = leaves()
    found = []
    for number in range(count):
        debit, credit = chance.sample(names, 2)
        if chance.random() < 0.01:
            credit = EMPTY
        found.append(Told(f"{prefix}-{number}", debit, credit, chance.randint(1, 10_000)))
    return found


class Witness:
    """One upstream's record of what it sent and what it was told, on disk before it goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a")

    def note(self, journals: Iterable[Told], outcome: str) -> None:
        """Write `unknown` before sending, then `ok` or `fail`. What is ok once stays so."""
        for journal in journals:
            self._file.write(json.dumps([*journal, outcome]) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(paths: Iterable[Path]) -> tuple[dict[str, Told], dict[str, str]]:
        """What the files say: the journals, and the outcome of each."""
        told: dict[str, Told] = {}
        outcomes: dict[str, str] = {}
        for path in paths:
            for line in path.read_text().splitlines():
                *facts, outcome = json.loads(line)
                journal = Told(*facts)
                assert told.setdefault(journal.key, journal) == journal
                if outcomes.get(journal.key) != "ok":
                    outcomes[journal.key] = outcome
        return told, outcomes


class Books(NamedTuple):
    """The books as plain SQL finds them, for a comparison that uses nothing of ours."""

    posted: dict[str, tuple[str, str, int]]  # by key: debited, credited, amount
    rejected: dict[str, str]  # by key: the code
    journals: Counter[str]  # how many journals say that they are this key's
    balances: dict[str, tuple[int, int]]  # by ledger code: debits, credits


def read_books(database_url: str) -> Books:
    with psycopg.connect(database_url) as connection:
        posted = connection.execute("""
            SELECT j.idempotency_key, j.description, d.code, c.code, j.total::bigint
            FROM ledgermill.job j
            JOIN ledgermill.entry de ON de.position = j.position AND de.side = 'D' AND de.amount = j.total
            JOIN ledgermill.entry ce ON ce.position = j.position AND ce.side = 'C' AND ce.amount = j.total
            JOIN ledgermill.ledger d ON d.ledger_id = de.ledger_id
            JOIN ledgermill.ledger c ON c.ledger_id = ce.ledger_id
            WHERE j.state = 'posted'""").fetchall()
        not_posted = connection.execute("SELECT idempotency_key, code FROM ledgermill.job WHERE state <> 'posted'")
        balances = connection.execute("""
            SELECT l.code, b.debits::bigint, b.credits::bigint
            FROM ledgermill.balance b JOIN ledgermill.ledger l USING (ledger_id)""")
        return Books(
            posted={key: (debit, credit, amount) for key, _, debit, credit, amount in posted},
            rejected=dict(not_posted.fetchall()),
            journals=Counter(description for _, description, *_ in posted),
            balances={code: (debits, credits_) for code, debits, credits_ in balances.fetchall()},
        )


def expected_balances(journals: Iterable[Told]) -> dict[str, tuple[int, int]]:
    """Debits and credits of every ledger after these journals, heads too, by nothing but addition."""
    parents = chart()
    debits, credits_ = Counter[str](), Counter[str]()
    for journal in journals:
        for totals, code in ((debits, journal.debit), (credits_, journal.credit)):
            above: str | None = code
            while above is not None:
                totals[above] += journal.amount
                above = parents[above]
    return {code: (debits[code], credits_[code]) for code in parents}
