"""The planner: goes through the jobs of batches one by one, and carries what they do to all heads above."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from uuid import UUID

from ledgermill.domain.journals import LARGEST_MINOR_UNITS, EntryRequest, JournalRequest, Request, UnusableRequest
from ledgermill.domain.ledgers import DEBIT, Chart, Ledger, LedgerReference
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

ZERO = Balance(debits=0, credits=0, held=0, last_number=0)


class NotKnownHereError(Exception):
    """A draft met a ledger that the chart in memory does not have; the database may."""


class _Leaf:
    """A ledger while a batch is planned: its balance as it runs, and what each value date adds."""

    __slots__ = (
        "balance",
        "credits",
        "currency",
        "days",
        "debits",
        "entries",
        "held",
        "is_plain",
        "ledger",
        "ledger_id",
        "limit",
        "lowest",
        "normal_side",
        "number",
        "sign",
    )

    def __init__(self, ledger: Ledger, balance: Balance) -> None:
        self.ledger = ledger
        self.ledger_id = ledger.ledger_id
        self.currency = ledger.currency
        self.is_plain = ledger.active and ledger.opening_date is None and ledger.closing_date is None
        self.debits = balance.debits
        self.credits = balance.credits
        self.balance = balance.debits - balance.credits
        self.held = balance.held
        self.number = balance.last_number
        self.limit = ledger.limit
        self.normal_side = ledger.normal_side
        self.sign = 1 if ledger.normal_side == DEBIT else -1
        self.entries = 0
        self.lowest: int | None = None
        self.days: dict[date, list[int]] = {}


class Planner:
    """Without balances it makes a draft: it notes what floors would have to allow, instead of asking them."""

    def __init__(
        self,
        chart: Chart,
        balances: Mapping[int, Balance] | None,
        books: Books,
        settled: dict[str, Settled],
        recorded: frozenset[UUID],
    ) -> None:
        self.chart, self.balances, self.books = chart, balances, books
        self.settled, self.recorded = settled, recorded
        self.latest = books.today + timedelta(days=books.max_future_days)
        self.position = books.next_position
        self.rejection = books.next_rejection
        self.leaves: dict[int, _Leaf] = {}
        self.by_reference: dict[LedgerReference, _Leaf] = {}
        self.plan = Plan([], [], [], [], [], [])

    def take(self, batch: Batch) -> None:
        self.batch = batch
        for request in batch.requests:
            try:
                self._settle(request)
            except LedgermillError as error:
                self._reject(request, error)

    def finish(self) -> Plan:
        self._cascade()
        return self.plan

    def _settle(self, request: Request) -> None:
        job_id = self.batch.job_id(request.place)
        key = request.idempotency_key
        if key is not None:
            first = self.settled.get(key)
            if first is not None:
                self._replay(request, job_id, first)
                return
            # Bound from here on, also where the job is rejected below.
            self.settled[key] = Settled(job_id, request.fingerprint or b"")
        if isinstance(request, UnusableRequest):
            raise request.error
        self._post(request, job_id)

    def _replay(self, request: Request, job_id: UUID, first: Settled) -> None:
        if first.fingerprint != request.fingerprint:
            error = KeyReused(idempotency_key=request.idempotency_key, job=first.job_id)
            self._reject(request, error, keyless=True)
        elif self.batch.keeps_replays and first.job_id != job_id:
            self.plan.replays.append((job_id, first.job_id))

    def _post(self, request: JournalRequest, job_id: UUID) -> None:
        """All checks first: what is refused must leave no trace."""
        books = self.books
        value_date = request.value_date or books.today
        if value_date > self.latest:
            raise FutureValueDate(value_date=value_date, latest=self.latest)
        currency = request.currency or books.base_currency
        if currency != books.base_currency:
            raise CurrencyNotSupported(
                field="transaction.currency_code", base_currency=books.base_currency, currency=currency
            )
        leaves = self._leaves(request.entries, currency, value_date)
        self._require_room(request, leaves)
        numbers = self._enter(request.entries, leaves, currency, value_date)
        self.plan.posted.append(
            PostedJob(
                books.organization_id,
                job_id,
                request.idempotency_key,
                request.fingerprint,
                request.kind,
                "posted",
                self.batch.accepted_at,
                books.booked_at,
                self.batch.principal_id,
                self.batch.correlation,
                self.position,
                request.type,
                currency,
                request.total,
                value_date,
                request.event_at,
                request.description,
                request.reference_id,
                request.metadata,
                [leaf.ledger_id for leaf in leaves],
                numbers,
            )
        )
        self.position += 1

    def _leaves(self, entries: Sequence[EntryRequest], currency: str, value_date: date) -> list[_Leaf]:
        """The ledgers of these entries, once each may take its entry."""
        leaves = []
        known = self.by_reference
        for index, entry in enumerate(entries):
            leaf = known.get(entry.ledger)
            if leaf is None or entry.is_suspense:
                leaf = self._resolve(entry, entry.field or f"entries[{index}]")
            if not leaf.is_plain or leaf.currency != (entry.currency or currency):
                _require_usable(leaf.ledger, entry.currency or currency, value_date, entry.field or f"entries[{index}]")
            leaves.append(leaf)
        return leaves

    def _enter(
        self, entries: Sequence[EntryRequest], leaves: Sequence[_Leaf], currency: str, value_date: date
    ) -> list[int]:
        """Move the balances, and return each entry's number in its ledger."""
        numbers = []
        for line, (entry, leaf) in enumerate(zip(entries, leaves, strict=True), 1):
            amount = entry.amount
            day = leaf.days.get(value_date)
            if day is None:
                day = leaf.days[value_date] = [0, 0]
            if entry.side == DEBIT:
                leaf.balance += amount
                leaf.debits += amount
                day[0] += amount
            else:
                leaf.balance -= amount
                leaf.credits += amount
                day[1] += amount
            leaf.entries += 1
            leaf.number = number = leaf.number + 1
            numbers.append(number)
            self.plan.entries.append(
                PostedEntry(
                    self.books.organization_id,
                    leaf.ledger_id,
                    number,
                    self.position,
                    line,
                    entry.side,
                    amount,
                    currency,
                    leaf.balance,
                    value_date,
                )
            )
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
            leaf = self.leaves[ledger.ledger_id] = _Leaf(ledger, balance)
        if not entry.is_suspense:
            self.by_reference[entry.ledger] = leaf
        return leaf

    def _require_room(self, request: JournalRequest, leaves: Sequence[_Leaf]) -> None:
        """Check floors and ranges as they stand at the end of the journal; a movement up is never refused."""
        entries, most = request.entries, LARGEST_MINOR_UNITS - 2 * request.total
        moved: Iterable[tuple[_Leaf, int]] = [
            (leaf, entry.amount if entry.side == leaf.normal_side else -entry.amount)
            for entry, leaf in zip(entries, leaves, strict=True)
            if leaf.limit is not None
        ]
        if len(set(leaves)) < len(leaves):
            moved = _sums(moved).items()
        for leaf, up in moved:
            if up < 0 and leaf.limit is not None:
                available = leaf.balance * leaf.sign + leaf.limit - leaf.held
                if self.balances is None:
                    end = leaf.balance * leaf.sign + up
                    leaf.lowest = end if leaf.lowest is None else min(leaf.lowest, end)
                elif available + up < 0:
                    field = f"entries[{leaves.index(leaf)}]"
                    raise InsufficientBalance(field=field, ledger=leaf.ledger.code, available=available, taken=-up)
        for leaf in leaves:
            if leaf.debits + leaf.credits > most:  # close to the range: look exactly
                grown = _sums((leaf, entry.amount) for entry, leaf in zip(entries, leaves, strict=True))
                if leaf.debits + leaf.credits + grown[leaf] > LARGEST_MINOR_UNITS:
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
        gained: dict[int, Sequence[int]] = {}
        by_day: dict[date, dict[int, Sequence[int]]] = {}
        for ledger_id, leaf in self.leaves.items():
            if leaf.entries:
                before = ZERO if self.balances is None else self.balances[ledger_id]
                gained[ledger_id] = (leaf.debits - before.debits, leaf.credits - before.credits, leaf.entries)
                for value_date, moved in leaf.days.items():
                    by_day.setdefault(value_date, {})[ledger_id] = moved
        for depth, ledger_id, (debits, credits_, entries) in self._carried_up(gained):
            own = self.leaves[ledger_id].entries if ledger_id in self.leaves else 0
            self.plan.balances.append(BalanceChange(ledger_id, depth, debits, credits_, entries, own))
        for value_date, moved_then in by_day.items():
            for depth, ledger_id, (debits, credits_) in self._carried_up(moved_then):
                self.plan.days.append(DayChange(ledger_id, depth, value_date, debits, credits_))
        if len(by_day) > 1:
            self.plan.days.sort(key=lambda change: (-change.depth, change.ledger_id, change.value_date))

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
