"""What upstream means and was told, written down beside the system line by line, and the chart that it posts to."""

import os
import random
import threading
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ledgermill.runtime import Runtime
from ledgermill.usecases import charts, organizations

ORGANIZATION = "acme"
LEAVES = 50
EMPTY = "EMPTY"  # an asset without overdraft that nothing fills: whatever takes from it must be rejected
CHANGED_BY = 1  # how much more another content asks for under the same key
UNKNOWN, OK, FAIL = 0, 1, 2
OUTCOMES = {"ok": OK, "fail": FAIL}


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
    """The codes that journals use, EMPTY last."""
    parents = chart()
    return [code for code in parents if code not in parents.values()]


def open_books(owner: Runtime) -> str:
    """Organization, chart and a key: the key's secret."""
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
    """A journal as upstream means it: what it debits, what it credits, how much; and from when, if not at once."""

    key: str
    debit: str
    credit: str
    amount: int
    due_at: str = ""

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
            **({"due_at": self.due_at} if self.due_at else {}),
        }


class Witness:
    """One upstream's record of what it sends and what it was told, on disk before it goes on.

    Its keys are its name and a count. A line is a journal, "number debit credit amount", or an outcome of a range,
    "ok first last milliseconds". What has no outcome is unknown; what is ok once stays so. Safe between threads.
    """

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        self.name, self.path = name, folder / f"{name}.witness"
        self._file = self.path.open("a")
        self._chance = random.Random(f"{seed} {name}")
        self._lock = threading.Lock()
        *self._names, _ = leaves()
        self.count = 0

    def make(self, count: int) -> list[Told]:
        """New journals, of which one in a hundred must be rejected; noted as what will be sent."""
        chance = self._chance
        made = []
        for number in range(self.count, self.count + count):
            debit, credit = chance.sample(self._names, 2)
            if chance.random() < 0.01:
                credit = EMPTY
            made.append(Told(f"{self.name}-{number}", debit, credit, chance.randint(1, 10_000)))
        self.count += count
        self._write([f"{told.key.rpartition('-')[2]} {told.debit} {told.credit} {told.amount}\n" for told in made])
        return made

    def note(self, journals: Sequence[Told], outcome: str) -> None:
        """Journals that were made together were acknowledged (ok), or refused before they became jobs (fail)."""
        first, last = (told.key.rpartition("-")[2] for told in (journals[0], journals[-1]))
        self._write([f"{outcome} {first} {last} {int(time.time() * 1000)}\n"])

    def close(self) -> None:
        self._file.close()

    def _write(self, lines: Iterable[str]) -> None:
        with self._lock:
            self._file.writelines(lines)
            self._file.flush()
            os.fsync(self._file.fileno())


class Record:
    """A witness read back, by number: 20 bytes a journal. `names` are the codes that `debits` and `credits_` count."""

    names = leaves()

    def __init__(self, path: Path) -> None:
        places = {code: place for place, code in enumerate(self.names)}
        self.name = path.stem
        self.debits, self.credits_, self.amounts = array("B"), array("B"), array("L")
        outcomes: list[tuple[int, int, int]] = []
        with path.open() as lines:
            for line in lines:
                first, second, third, fourth = line.split()
                if first in OUTCOMES:
                    outcomes.append((OUTCOMES[first], int(second), int(third)))
                else:
                    assert int(first) == len(self.amounts), line
                    self.debits.append(places[second])
                    self.credits_.append(places[third])
                    self.amounts.append(int(fourth))
        self.outcomes = bytearray(len(self.amounts))
        for outcome, start, end in outcomes:
            for number in range(start, end + 1):
                if self.outcomes[number] != OK:
                    self.outcomes[number] = outcome
        self.found = bytearray(len(self.amounts))  # how many journals say that they are this one

    def __len__(self) -> int:
        return len(self.amounts)

    def must_be_rejected(self, number: int) -> bool:
        return self.names[self.credits_[number]] == EMPTY
