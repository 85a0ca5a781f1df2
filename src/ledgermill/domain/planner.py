"""The planner: goes through the jobs of batches one by one, and carries what they do to all heads above."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from ledgermill.domain.journals import LARGEST_MINOR_UNITS, EntryRequest, JournalRequest, Request, UnusableRequest
from ledgermill.domain.ledgers import CREDIT, DEBIT, Chart, Ledger, LedgerReference
from ledgermill.domain.plans import (
    Balance,
    BalanceChange,
    Batch,
    Books,
    DayChange,
    Plan,
    PostedEntry,
    PostedJob,
    RejectedJob,
    Settled,
)
from ledgermill.errors import (
    BalanceOutOfRange,
    CurrencyMismatch,
    CurrencyNotSupported,
    FutureValueDate,
    HeadLedger,
    InsufficientBalance,
    KeyReused,
    LedgerInactive,
    LedgermillError,
    LedgerNotFound,
    LedgerNotOpen,
    LedgerReferenceConflict,
    Quarantined,
)

ZERO: Final = Balance(debits=0, credits=0, held=0, last_number=0)

# Makes a NamedTuple in half the time of its own constructor; here are two or more for each journal.
_new: Final = tuple.__new__


class NotKnownHereError(Exception):
    """A draft met a ledger that the chart in memory does not have; the database may."""


class _Leaf:
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
        days = self.days.values()
        return sum(day[0] for day in days), sum(day[1] for day in days), len(self.rows)


class Planner:
    """Without balances it makes a draft: it notes what floors would have to allow, instead of asking them."""

    def __init__(
        self,
        chart: Chart,
        balances: Mapping[int, Balance] | None,
        books: Books,
        settled: Mapping[str, Settled],
        recorded: frozenset[UUID],
    ) -> None:
        self.chart, self.balances, self.books = chart, balances, books
        self.settled, self.recorded = settled, recorded
        self.bound: dict[str, tuple[Batch, Request]] = {}
        self.latest = books.today + timedelta(days=books.max_future_days)
        self.position = books.next_position
        self.rejection = books.next_rejection
        self.leaves: dict[int, _Leaf] = {}
        self.by_reference: dict[LedgerReference, _Leaf] = {}
        self.room = LARGEST_MINOR_UNITS  # what every ledger here can take at the least
        self.plan = Plan([], [], [], [], [], [])

    def take(self, batch: Batch) -> None:
        self.batch = batch
        for request in batch.requests:
            try:
                self._settle(request)
            except LedgermillError as error:
                self._reject(request, error)

    def finish(self) -> Plan:
        # Ledger by ledger, as the index of entries is ordered: neighbours there cost PostgreSQL less.
        self.plan.entries.extend(row for _, leaf in sorted(self.leaves.items()) for row in leaf.rows)
        self._cascade()
        return self.plan

    def _settle(self, request: Request) -> None:
        key = request.idempotency_key
        if key is not None:
            if key in self.settled:
                self._replay(request, self.settled[key])
                return
            # Bound from here on, also where the job is rejected below.
            this = self.batch, request
            earlier = self.bound.setdefault(key, this)
            if earlier is not this:
                batch, first = earlier
                self._replay(request, Settled(batch.job_id(first.place), first.fingerprint or b""))
                return
        if isinstance(request, UnusableRequest):
            raise request.error
        self._post(request)

    def _replay(self, request: Request, first: Settled) -> None:
        job_id = self.batch.job_id(request.place)
        if first.fingerprint != request.fingerprint:
            error = KeyReused(idempotency_key=request.idempotency_key, job=first.job_id)
            self._reject(request, error, keyless=True)
        elif self.batch.keeps_replays and first.job_id != job_id:
            self.plan.replays.append((job_id, first.job_id))

    def _post(self, request: JournalRequest) -> None:
        """All checks first: what is refused must leave no trace."""
        place, kind, key, fingerprint, _, currency, entries, total, type_, value_date, *_ = request
        books, batch = self.books, self.batch
        value_date = value_date or books.today
        if value_date > self.latest:
            raise FutureValueDate(value_date=value_date, latest=self.latest)
        currency = currency or books.base_currency
        if currency != books.base_currency:
            raise CurrencyNotSupported(
                field="transaction.currency_code", base_currency=books.base_currency, currency=currency
            )
        leaves, falling = self._leaves(entries, currency, value_date)
        if falling:
            self._require_floors(entries, leaves, falling)
        if self.room < 2 * total:  # perhaps beyond the range: look exactly
            self._require_range(entries, leaves)
        numbers = self._enter(entries, leaves, currency, value_date)
        self.plan.posted.append(
            _new(
                PostedJob,
                (
                    books.organization_id,
                    batch.job_id(place),
                    key,
                    fingerprint,
                    kind,
                    "posted",
                    batch.accepted_at,
                    batch.principal_id,
                    batch.correlation,
                    type_,
                    currency,
                    total,
                    value_date,
                    request.event_at,
                    request.description,
                    request.reference_id,
                    request.metadata,
                    [leaf.ledger_id for leaf in leaves],
                    books.booked_at,
                    self.position,
                    numbers,
                ),
            )
        )
        self.position += 1
        self.room -= 2 * total

    def _leaves(
        self, entries: Sequence[EntryRequest], currency: str, value_date: date
    ) -> tuple[list[_Leaf], list[tuple[_Leaf, int]]]:
        """The ledgers of these entries, once each may take its entry; and those that it lowers towards a floor."""
        leaves: list[_Leaf] = []
        falling: list[tuple[_Leaf, int]] = []
        known = self.by_reference
        for entry in entries:
            reference, side, amount, own_currency, field, _ = entry
            leaf = known.get(reference) or self._resolve(entry, field or f"entries[{len(leaves)}]")
            if own_currency is not None or not leaf.is_plain:
                _require_usable(leaf.ledger, own_currency or currency, value_date, field or f"entries[{len(leaves)}]")
            if side == leaf.falls_by:
                falling.append((leaf, amount))
            leaves.append(leaf)
        return leaves, falling

    def _enter(
        self, entries: Sequence[EntryRequest], leaves: Sequence[_Leaf], currency: str, value_date: date
    ) -> list[int]:
        """Move the balances, and return each entry's number in its ledger."""
        numbers = []
        position, organization_id = self.position, self.books.organization_id
        for line, ((_, side, amount, _, _, _), leaf) in enumerate(zip(entries, leaves, strict=True), 1):
            day = leaf.days.get(value_date)
            if day is None:
                day = leaf.days[value_date] = [0, 0]
            if side == DEBIT:
                leaf.balance = balance = leaf.balance + amount
                day[0] += amount
            else:
                leaf.balance = balance = leaf.balance - amount
                day[1] += amount
            leaf.number = number = leaf.number + 1
            numbers.append(number)
            row = organization_id, leaf.ledger_id, line, side, amount, currency, value_date, number, position, balance
            leaf.rows.append(_new(PostedEntry, row))
        return numbers

    def _resolve(self, entry: EntryRequest, field: str) -> _Leaf:
        if entry.is_suspense:
            ledger: Ledger = self.chart.by_id[self.books.suspense_id]
        else:
            found = self.chart.find(entry.ledger)
            first = found[0]
            if first is None or None in found:
                if self.balances is None:
                    raise NotKnownHereError
                raise LedgerNotFound(field=field, ledger=str(entry.ledger))
            if any(other is not first for other in found):
                raise LedgerReferenceConflict(field=field)
            ledger = first
        if ledger.is_head:
            raise HeadLedger(field=field, ledger=ledger.code)
        leaf = self.leaves.get(ledger.ledger_id)
        if leaf is None:
            balance = ZERO if self.balances is None else self.balances[ledger.ledger_id]
            leaf = self.leaves[ledger.ledger_id] = _Leaf(ledger, balance, self.books.base_currency)
            self.room = min(self.room, LARGEST_MINOR_UNITS - balance.debits - balance.credits)
        if not entry.is_suspense:
            self.by_reference[entry.ledger] = leaf
        return leaf

    def _require_floors(
        self, entries: Sequence[EntryRequest], leaves: Sequence[_Leaf], falling: Sequence[tuple[_Leaf, int]]
    ) -> None:
        """A floor holds where the journal ends; a movement up is never refused. A draft notes what it would need."""
        if len(set(leaves)) < len(leaves):
            falling = _falls(entries, leaves)
        for leaf, amount in falling:
            end = (leaf.balance if leaf.falls_by == CREDIT else -leaf.balance) - amount
            if self.balances is None:
                if leaf.lowest is None or end < leaf.lowest:
                    leaf.lowest = end
                continue
            rest = end + (leaf.ledger.limit or 0) - leaf.before.held
            if rest < 0:
                field = f"entries[{leaves.index(leaf)}]"
                raise InsufficientBalance(field=field, ledger=leaf.ledger.code, available=rest + amount, taken=amount)

    def _require_range(self, entries: Sequence[EntryRequest], leaves: Sequence[_Leaf]) -> None:
        grown = _sums((leaf, entry.amount) for entry, leaf in zip(entries, leaves, strict=True))
        for leaf, amount in grown.items():
            debits, credits_, _ = leaf.gained()
            if leaf.before.debits + leaf.before.credits + debits + credits_ + amount > LARGEST_MINOR_UNITS:
                raise BalanceOutOfRange(field=f"entries[{leaves.index(leaf)}]", ledger=leaf.ledger.code)

    def _reject(self, request: Request, error: LedgermillError, *, keyless: bool = False) -> None:
        batch = self.batch
        has_key = request.idempotency_key is not None and not keyless
        job_id = batch.job_id(request.place) if has_key else batch.keyless_job_id(request.place)
        if job_id in self.recorded:
            return
        self.plan.rejected.append(
            RejectedJob(
                self.books.organization_id,
                job_id,
                request.idempotency_key if has_key else None,
                request.fingerprint if has_key else None,
                request.kind,
                "quarantined" if isinstance(error, Quarantined) else "rejected",
                batch.accepted_at,
                self.books.booked_at,
                batch.principal_id,
                batch.correlation,
                self.position - 1,
                self.rejection,
                error,
                request.asked,
            )
        )
        self.rejection += 1

    def _cascade(self) -> None:
        """Carry what the leaves gained to all heads above them, deepest first."""
        moved = {ledger_id: leaf for ledger_id, leaf in self.leaves.items() if leaf.days}
        gained = {ledger_id: leaf.gained() for ledger_id, leaf in moved.items()}
        balances, days = self.plan.balances, self.plan.days
        for depth, ledger_id, (debits, credits_, entries) in self._carried_up(gained):
            own = gained[ledger_id][2] if ledger_id in gained else 0
            balances.append(BalanceChange(ledger_id, depth, debits, credits_, entries, own))
        value_dates = {value_date for leaf in moved.values() for value_date in leaf.days}
        if len(value_dates) == 1:  # as nearly always; then a day's totals are those of the balances
            (value_date,) = value_dates
            days += [DayChange(ledger_id, depth, value_date, *rest[:2]) for ledger_id, depth, *rest in balances]
            return
        for value_date in value_dates:
            that_day = {
                ledger_id: leaf.days[value_date] for ledger_id, leaf in moved.items() if value_date in leaf.days
            }
            for depth, ledger_id, (debits, credits_) in self._carried_up(that_day):
                days.append(DayChange(ledger_id, depth, value_date, debits, credits_))
        days.sort(key=lambda change: (-change.depth, change.ledger_id, change.value_date))

    def _carried_up(self, gained: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, int, Sequence[int]]]:
        """Depth, ledger and amounts of the leaves and of all heads above; each ledger is added to its parent once."""
        levels: defaultdict[int, dict[int, Sequence[int]]] = defaultdict(dict)
        ledgers = self.chart.by_id
        for ledger_id, amounts in gained.items():
            levels[ledgers[ledger_id].depth][ledger_id] = amounts
        for depth in range(max(levels, default=-1), -1, -1):
            above = levels[depth - 1]
            for ledger_id, amounts in sorted(levels[depth].items()):
                yield depth, ledger_id, amounts
                parent_id = ledgers[ledger_id].parent_id
                if parent_id is not None:
                    total = above.get(parent_id)
                    above[parent_id] = (
                        amounts if total is None else [x + y for x, y in zip(total, amounts, strict=True)]
                    )


def _require_usable(ledger: Ledger, currency: str, value_date: date, field: str) -> None:
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


def _sums(amounts: Iterable[tuple[_Leaf, int]]) -> dict[_Leaf, int]:
    total: defaultdict[_Leaf, int] = defaultdict(int)
    for leaf, amount in amounts:
        total[leaf] += amount
    return total


def _falls(entries: Sequence[EntryRequest], leaves: Sequence[_Leaf]) -> list[tuple[_Leaf, int]]:
    """By how much ledgers with a floor fall in a journal that names one of them several times."""
    down = _sums(
        (leaf, entry.amount if entry.side == leaf.falls_by else -entry.amount)
        for entry, leaf in zip(entries, leaves, strict=True)
        if leaf.falls_by is not None
    )
    return [(leaf, amount) for leaf, amount in down.items() if amount > 0]
