"""A year as the bank recorded it: its transactions in the order of booking, read and checked without ledgermill.

Amounts and balances are in haléře (0.01 CZK); a customer's balance is positive where the bank owes it.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

TRANSACTIONS_FILE: Final = "transactions-1993.csv"
CREDIT_TYPE: Final = "PRIJEM"
INTEREST_SYMBOLS: Final = frozenset({"UROK", "SANKC. UROK"})  # credited, and charged as a penalty

SHOWN_TO: Final = 10  # the bank shows amounts and balances to 0.10 CZK
HIDDEN_AT_MOST: Final = SHOWN_TO // 2


class Transaction(NamedTuple):
    """A booking on one customer's account, and the balance that the bank recorded after it."""

    trans_id: str
    account_id: str
    value_date: date
    is_credit: bool
    operation: str
    amount: int
    balance: int
    symbol: str
    bank: str
    counter_account: str

    @property
    def change(self) -> int:
        return self.amount if self.is_credit else -self.amount

    @property
    def is_interest(self) -> bool:
        return self.symbol in INTEREST_SYMBOLS


class Booked(NamedTuple):
    """A transaction in its place: `off` is by how much its recorded balance misses the one before plus its change."""

    transaction: Transaction
    off: int
    is_explained: bool


class Account(NamedTuple):
    """A customer's account, and the days of its year, each in the order in which the bank booked."""

    account_id: str
    district_id: str
    opened_on: date
    days: dict[date, list[Booked]]


class Year(NamedTuple):
    """All accounts with bookings, by id; `districts` gives each district's name and region."""

    accounts: dict[str, Account]
    districts: dict[str, tuple[str, str]]

    def transactions(self) -> Iterator[Transaction]:
        return (b.transaction for account in self.accounts.values() for day in account.days.values() for b in day)


def read_year(folder: Path) -> Year:
    """Read the three files of the data set. An account starts the year, in which it was opened, with 0."""
    by_account: defaultdict[str, defaultdict[date, list[Transaction]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(folder / TRANSACTIONS_FILE):
        transaction = _transaction(row)
        by_account[transaction.account_id][transaction.value_date].append(transaction)
    accounts = {
        row["account_id"]: Account(
            row["account_id"], row["district_id"], date.fromisoformat(row["date"]), book(by_account[row["account_id"]])
        )
        for row in _rows(folder / "accounts.csv")
        if row["account_id"] in by_account
    }
    districts = {row["district_id"]: (row["district"], row["region"]) for row in _rows(folder / "districts.csv")}
    return Year(accounts, districts)


def book(days: dict[date, list[Transaction]]) -> dict[date, list[Booked]]:
    """One account's days in the order of booking. A day whose balances follow in no order stays as it is given."""
    balance = 0
    steps: list[tuple[Transaction, int]] = []
    for _, day in sorted(days.items()):
        for transaction in booking_order(balance, day) or day:
            steps.append((transaction, transaction.balance - balance - transaction.change))
            balance = transaction.balance
    explained = explained_by_interest((transaction.is_interest, off) for transaction, off in steps)
    booked: defaultdict[date, list[Booked]] = defaultdict(list)
    for (transaction, off), is_explained in zip(steps, explained, strict=True):
        booked[transaction.value_date].append(Booked(transaction, off, is_explained))
    return dict(booked)


def booking_order(opening: int, day: Sequence[Transaction]) -> list[Transaction] | None:
    """The order in which each recorded balance follows from the one before, with as few roundings as can be.

    A rounding is a balance that is 0.10 CZK off. None: there is no such order.
    """
    orders = (_order(opening, list(day), roundings) for roundings in range(len(day) + 1))
    return next((order for order in orders if order is not None), None)


def explained_by_interest(steps: Iterable[tuple[bool, int]]) -> Iterator[bool]:
    """For each step (is it interest, how far is its balance off): whether rounded interest explains all so far.

    The bank reckons interest more finely than it shows it: an interest may differ from its shown amount, and a balance
    from its recorded one, by up to 0.05 CZK. Every other amount is exact. So the part of the balance that is not shown
    only changes by interest, and a range holds what it can be; where the range is empty, something else is at work.
    """
    least = most = 0  # of the balance that the bank reckons with, less the recorded one
    for is_interest, off in steps:
        change = HIDDEN_AT_MOST if is_interest else 0
        least = max(least - change - off, -HIDDEN_AT_MOST)
        most = min(most + change - off, HIDDEN_AT_MOST)
        yield least <= most
        if least > most:
            least, most = -HIDDEN_AT_MOST, HIDDEN_AT_MOST


def _order(balance: int, rest: list[Transaction], roundings: int) -> list[Transaction] | None:
    if not rest:
        return []
    for place, transaction in enumerate(rest):
        off = abs(transaction.balance - balance - transaction.change)
        left = roundings - (off > 0)
        if off in {0, SHOWN_TO} and left >= 0:
            later = _order(transaction.balance, rest[:place] + rest[place + 1 :], left)
            if later is not None:
                return [transaction, *later]
    return None


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _transaction(row: dict[str, str]) -> Transaction:
    return Transaction(
        trans_id=row["trans_id"],
        account_id=row["account_id"],
        value_date=date.fromisoformat(row["date"]),
        is_credit=row["type"] == CREDIT_TYPE,
        operation=row["operation"],
        amount=_minor_units(row["amount"]),
        balance=_minor_units(row["balance"]),
        symbol=row["k_symbol"],
        bank=row["bank"],
        counter_account=row["account"],
    )


def _minor_units(crowns: str) -> int:
    minor_units = Decimal(crowns) * 100
    if minor_units != int(minor_units):
        raise ValueError(f"{crowns} CZK is no whole number of haléře")
    return int(minor_units)
