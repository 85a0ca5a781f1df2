"""Leaves while a batch is planned, and the cascade: what they gained is carried to all heads above."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Final

from ledgermill.domain.ledgers import CREDIT, DEBIT, Chart, Ledger
from ledgermill.domain.plans import Balance, BalanceChange, DayChange, Plan, PostedEntry
from ledgermill.errors import CurrencyMismatch, LedgerInactive, LedgerNotOpen

# Makes a NamedTuple in half the time of its own constructor; here are two or more for each ledger.
_new: Final = tuple.__new__


class Leaf:
    """A ledger while a batch is planned: its balance as it runs, and what each value date adds.

    `falls_by` is the side that lowers it, None where it has no floor. `lowest` is what a draft notes.
    """

    __slots__ = ("balance", "before", "days", "falls_by", "is_plain", "ledger", "ledger_id", "lowest", "number", "rows")

    def __init__(self, ledger: Ledger, before: Balance, base_currency: str) -> None:
        self.ledger = ledger
        self.ledger_id = ledger.ledger_id
        self.is_plain = (
            ledger.active
            and ledger.opening_date is None
            and ledger.closing_date is None
            and ledger.currency == base_currency
        )
        self.before = before
        self.balance = before.debits - before.credits
        self.number = before.last_number
        self.falls_by = None if ledger.limit is None else CREDIT if ledger.normal_side == DEBIT else DEBIT
        self.lowest: int | None = None
        self.days: dict[date, list[int]] = {}
        self.rows: list[PostedEntry] = []

    def gained(self) -> tuple[int, int, int]:
        """Debits, credits and entries of this batch."""
        debits = credits_ = 0
        for day in self.days.values():
            debits += day[0]
            credits_ += day[1]
        return debits, credits_, len(self.rows)


def require_usable(ledger: Ledger, currency: str, value_date: date, field: str) -> None:
    """Raises LedgerInactive, CurrencyMismatch, LedgerNotOpen."""
    if not ledger.active:
        raise LedgerInactive(field=field, ledger=ledger.code)
    if currency != ledger.currency:
        raise CurrencyMismatch(field=field, ledger=ledger.code, ledger_currency=ledger.currency, currency=currency)
    if (ledger.opening_date and value_date < ledger.opening_date) or (
        ledger.closing_date and value_date > ledger.closing_date
    ):
        raise LedgerNotOpen(
            field=field,
            ledger=ledger.code,
            opening_date=ledger.opening_date or "ever",
            closing_date=ledger.closing_date or "ever",
            value_date=value_date,
        )


def add_changes(plan: Plan, leaves: Mapping[int, Leaf], chart: Chart) -> None:
    """Add to the plan what these leaves gained, by their ids, carried to all heads above them, deepest first."""
    moved = {ledger_id: leaf for ledger_id, leaf in leaves.items() if leaf.days}
    gained = {ledger_id: leaf.gained() for ledger_id, leaf in moved.items()}
    balances, days = plan.balances, plan.days
    for depth, ledger_id, (debits, credits_, entries) in _carried_up(gained, chart):
        own = gained[ledger_id][2] if ledger_id in gained else 0
        balances.append(_new(BalanceChange, (ledger_id, depth, debits, credits_, entries, own)))
    value_dates = {value_date for leaf in moved.values() for value_date in leaf.days}
    if len(value_dates) == 1:  # as nearly always; then a day's totals are those of the balances
        (value_date,) = value_dates
        for ledger_id, depth, debits, credits_, _, _ in balances:
            days.append(_new(DayChange, (ledger_id, depth, value_date, debits, credits_)))
        return
    for value_date in value_dates:
        that_day = {
            ledger_id: (*leaf.days[value_date], 0) for ledger_id, leaf in moved.items() if value_date in leaf.days
        }
        for depth, ledger_id, (debits, credits_, _) in _carried_up(that_day, chart):
            days.append(DayChange(ledger_id, depth, value_date, debits, credits_))
    days.sort(key=lambda change: (-change.depth, change.ledger_id, change.value_date))


def _carried_up(gained: Mapping[int, Sequence[int]], chart: Chart) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Depth, ledger, and debits, credits and entries of the leaves and of all heads above.

    Each ledger is added to its parent once.
    """
    levels: defaultdict[int, dict[int, Sequence[int]]] = defaultdict(dict)
    ledgers = chart.by_id
    for ledger_id, amounts in gained.items():
        levels[ledgers[ledger_id].depth][ledger_id] = amounts
    for depth in range(max(levels, default=-1), -1, -1):
        above = levels[depth - 1]
        for ledger_id, amounts in sorted(levels[depth].items()):
            yield depth, ledger_id, amounts
            parent_id = ledgers[ledger_id].parent_id
            if parent_id is not None:
                total = above.get(parent_id)
                if total is None:
                    above[parent_id] = amounts
                else:
                    above[parent_id] = total[0] + amounts[0], total[1] + amounts[1], total[2] + amounts[2]
