"""The planner: goes through the jobs of batches one by one, and notes what each one does."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from ledgermill.domain.journals import LARGEST_MINOR_UNITS, EntryRequest, JournalRequest, Request, UnusableRequest
from ledgermill.domain.leaves import Leaf, add_changes, require_usable
from ledgermill.domain.ledgers import CREDIT, DEBIT, Chart, Ledger, LedgerReference
from ledgermill.domain.plans import (
    Balance,
    Batch,
    Books,
    Plan,
    PostedEntry,
    PostedJob,
    RejectedJob,
    Settled,
)
from ledgermill.errors import (
    BalanceOutOfRange,
    CurrencyNotSupported,
    FutureValueDate,
    HeadLedger,
    InsufficientBalance,
    KeyReused,
    LedgermillError,
    LedgerNotFound,
    LedgerReferenceConflict,
    Quarantined,
)

ZERO: Final = Balance(debits=0, credits=0, held=0, last_number=0)

# Makes a NamedTuple in half the time of its own constructor; here are two or more for each journal.
_new: Final = tuple.__new__


class NotKnownHereError(Exception):
    """A draft met a ledger that the chart in memory does not have; the database may."""


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
        self.leaves: dict[int, Leaf] = {}
        self.by_reference: dict[LedgerReference, Leaf] = {}
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
        add_changes(self.plan, self.leaves, self.chart)
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
    ) -> tuple[list[Leaf], list[tuple[Leaf, int]]]:
        """The ledgers of these entries, once each may take its entry; and those that it lowers towards a floor."""
        leaves: list[Leaf] = []
        falling: list[tuple[Leaf, int]] = []
        known = self.by_reference
        for entry in entries:
            reference, side, amount, own_currency, field, _ = entry
            leaf = known.get(reference) or self._resolve(entry, field or f"entries[{len(leaves)}]")
            if own_currency is not None or not leaf.is_plain:
                require_usable(leaf.ledger, own_currency or currency, value_date, field or f"entries[{len(leaves)}]")
            if side == leaf.falls_by:
                falling.append((leaf, amount))
            leaves.append(leaf)
        return leaves, falling

    def _enter(
        self, entries: Sequence[EntryRequest], leaves: Sequence[Leaf], currency: str, value_date: date
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

    def _resolve(self, entry: EntryRequest, field: str) -> Leaf:
        if entry.is_suspense:
            ledger: Ledger = self.chart.by_id[self.books.suspense_id]
        else:
            found = self.chart.find(entry.ledger)
            first = found[0]
            if first is None or None in found:
                if self.balances is None:
                    raise NotKnownHereError
                raise LedgerNotFound(field=field, ledger=str(entry.ledger))
            if len(found) > 1 and any(other is not first for other in found):
                raise LedgerReferenceConflict(field=field)
            ledger = first
        if ledger.is_head:
            raise HeadLedger(field=field, ledger=ledger.code)
        leaf = self.leaves.get(ledger.ledger_id)
        if leaf is None:
            balance = ZERO if self.balances is None else self.balances[ledger.ledger_id]
            leaf = self.leaves[ledger.ledger_id] = Leaf(ledger, balance, self.books.base_currency)
            self.room = min(self.room, LARGEST_MINOR_UNITS - balance.debits - balance.credits)
        if not entry.is_suspense:
            self.by_reference[entry.ledger] = leaf
        return leaf

    def _require_floors(
        self, entries: Sequence[EntryRequest], leaves: Sequence[Leaf], falling: Sequence[tuple[Leaf, int]]
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

    def _require_range(self, entries: Sequence[EntryRequest], leaves: Sequence[Leaf]) -> None:
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


def _sums(amounts: Iterable[tuple[Leaf, int]]) -> dict[Leaf, int]:
    total: defaultdict[Leaf, int] = defaultdict(int)
    for leaf, amount in amounts:
        total[leaf] += amount
    return total


def _falls(entries: Sequence[EntryRequest], leaves: Sequence[Leaf]) -> list[tuple[Leaf, int]]:
    """By how much ledgers with a floor fall in a journal that names one of them several times."""
    down = _sums(
        (leaf, entry.amount if entry.side == leaf.falls_by else -entry.amount)
        for entry, leaf in zip(entries, leaves, strict=True)
        if leaf.falls_by is not None
    )
    return [(leaf, amount) for leaf, amount in down.items() if amount > 0]
