"""Planning: what a batch does to locked balances, job after job, without touching anything.

All rules that need the books are here. A refused job changes nothing; the next one sees the balances as if it had not
been there.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid5

from ledgermill.domain import ids
from ledgermill.domain.journals import LARGEST_MINOR_UNITS, EntryRequest, JournalRequest, Request, UnusableRequest
from ledgermill.domain.ledgers import DEBIT, Chart, Ledger, LedgerReference
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
)


class Books(NamedTuple):
    """One organization at one moment, under its posting lock. `booked_at` is the database's clock."""

    organization_id: int
    base_currency: str
    next_position: int
    next_rejection: int
    booked_at: datetime
    today: date
    max_future_days: int
    suspense_id: int


class Batch(NamedTuple):
    """The jobs of one organization that came in one message or request.

    `message_id` is the broker's name for it where the producer is not ours: then ids of jobs without a key follow from
    it, so that a redelivery records them once. `keeps_replays` says that ids were handed out at acceptance, so that a
    repeated key leaves a pointer from its id to the job that settled it.
    """

    batch_id: UUID
    message_id: str | None
    principal_id: int
    correlation: str | None
    accepted_at: datetime
    keeps_replays: bool
    requests: Sequence[Request]

    def job_id(self, place: int) -> UUID:
        return ids.job_id(self.batch_id, place)

    def keyless_job_id(self, place: int) -> UUID:
        return self.job_id(place) if self.message_id is None else uuid5(self.batch_namespace, str(place))

    @property
    def batch_namespace(self) -> UUID:
        return uuid5(UUID(int=0), self.message_id or "")


class Balance(NamedTuple):
    """A locked balance: totals in minor units of the ledger's currency, `held` on the side that lowers it."""

    debits: int
    credits: int
    held: int
    last_number: int


class Settled(NamedTuple):
    """The job that a key is bound to already."""

    job_id: UUID
    fingerprint: bytes


class PostedJob(NamedTuple):
    """A posted job, which is its journal; fields in the order of the columns of `job`."""

    organization_id: int
    job_id: UUID
    idempotency_key: str
    fingerprint: bytes
    kind: str
    state: str
    accepted_at: datetime
    ended_at: datetime
    principal_id: int
    correlation: str | None
    position: int
    type: str
    currency: str
    total: int
    value_date: date
    event_at: str | None
    description: str | None
    reference_id: str | None
    metadata: str | None
    entry_ledgers: list[int]
    entry_numbers: list[int]


class RejectedJob(NamedTuple):
    """A rejected job with its reason; fields in the order of the columns of `job`."""

    organization_id: int
    job_id: UUID
    idempotency_key: str | None
    fingerprint: bytes | None
    kind: str
    state: str
    accepted_at: datetime
    ended_at: datetime
    principal_id: int
    correlation: str | None
    position: int
    rejection: int
    error: LedgermillError
    asked: object


class PostedEntry(NamedTuple):
    """An entry; fields in the order of the columns of `entry`. `balance_after` is debits minus credits."""

    organization_id: int
    ledger_id: int
    number: int
    position: int
    line: int
    side: str
    amount: int
    currency: str
    balance_after: int
    value_date: date


class BalanceChange(NamedTuple):
    """What a batch adds to one balance. `entries` is what it adds to the version, `own_entries` to the last number."""

    ledger_id: int
    depth: int
    debits: int
    credits: int
    entries: int
    own_entries: int


class DayChange(NamedTuple):
    """What a batch adds to one ledger's totals of one value date."""

    ledger_id: int
    depth: int
    value_date: date
    debits: int
    credits: int


class Plan(NamedTuple):
    """Everything that one transaction writes. `replays` pair a job's id with the job that settled its key before."""

    posted: list[PostedJob]
    rejected: list[RejectedJob]
    entries: list[PostedEntry]
    balances: list[BalanceChange]
    days: list[DayChange]
    replays: list[tuple[UUID, UUID]]


def references(requests: Iterable[Request]) -> set[LedgerReference]:
    """The ledgers that these requests name."""
    return {
        entry.ledger
        for request in requests
        if isinstance(request, JournalRequest)
        for entry in request.entries
        if not entry.is_suspense
    }


def ledgers_to_lock(batches: Iterable[Batch], chart: Chart, suspense_id: int) -> set[int]:
    """The ledgers that these batches may move: those that they name, the suspense ledger, and all heads above."""
    found = {suspense_id}
    for batch in batches:
        for reference in references(batch.requests):
            found.update(ledger.ledger_id for ledger in chart.find(reference) if ledger is not None)
    return {ledger_id for leaf_id in found for ledger_id in chart.lineage(leaf_id)}


def plan(
    batches: Iterable[Batch],
    *,
    chart: Chart,
    balances: Mapping[int, Balance],
    books: Books,
    settled: Mapping[str, Settled],
    recorded: frozenset[UUID],
) -> Plan:
    """Decide each job, batch after batch in the order of the jobs.

    Args:
        batches: of one organization; the places in each are unique.
        chart: every ledger that they name and that exists, and all ancestors.
        balances: the locked balance of each ledger of the chart.
        books: the organization under its posting lock.
        settled: what is known of keys that were bound before this batch.
        recorded: ids of keyless jobs that an earlier delivery of this message has recorded.
    """
    planner = _Planner(chart, balances, books, dict(settled), recorded)
    for batch in batches:
        planner.take(batch)
    return planner.finish()


class _Leaf:
    """A ledger while a batch is planned: its balance as it runs, and what each value date adds."""

    __slots__ = ("balance", "credits", "days", "debits", "entries", "held", "ledger", "limit", "number", "sign")

    def __init__(self, ledger: Ledger, balance: Balance) -> None:
        self.ledger = ledger
        self.debits = balance.debits
        self.credits = balance.credits
        self.balance = balance.debits - balance.credits
        self.held = balance.held
        self.number = balance.last_number
        self.limit = ledger.limit
        self.sign = 1 if ledger.normal_side == DEBIT else -1
        self.entries = 0
        self.days: dict[date, list[int]] = {}


class _Planner:
    def __init__(
        self,
        chart: Chart,
        balances: Mapping[int, Balance],
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
        books = self.books
        value_date = request.value_date or books.today
        if value_date > self.latest:
            raise FutureValueDate(value_date=value_date, latest=self.latest)
        currency = request.currency or books.base_currency
        if currency != books.base_currency:
            raise CurrencyNotSupported(
                field="transaction.currency_code", base_currency=books.base_currency, currency=currency
            )
        leaves = [self._leaf(request, line, currency, value_date) for line in range(len(request.entries))]
        self._require_room(request.entries, leaves)

        position = self.position
        numbers: list[int] = []
        for line, (entry, leaf) in enumerate(zip(request.entries, leaves, strict=True), 1):
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
            leaf.number += 1
            numbers.append(leaf.number)
            self.plan.entries.append(
                PostedEntry(
                    books.organization_id,
                    leaf.ledger.ledger_id,
                    leaf.number,
                    position,
                    line,
                    entry.side,
                    amount,
                    currency,
                    leaf.balance,
                    value_date,
                )
            )
        self.position += 1
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
                position,
                request.type,
                currency,
                request.total,
                value_date,
                request.event_at,
                request.description,
                request.reference_id,
                request.metadata,
                [leaf.ledger.ledger_id for leaf in leaves],
                numbers,
            )
        )

    def _leaf(self, request: JournalRequest, index: int, currency: str, value_date: date) -> _Leaf:
        """The ledger of one entry, once it may take that entry."""
        entry = request.entries[index]
        leaf = self.by_reference.get(entry.ledger) if not entry.is_suspense else None
        field = entry.field or f"entries[{index}]"
        if leaf is None:
            leaf = self._resolve(entry, field)
        ledger = leaf.ledger
        if not ledger.active:
            raise LedgerInactive(field=field, ledger=ledger.code)
        wanted = entry.currency or currency
        if wanted != ledger.currency:
            raise CurrencyMismatch(field=field, ledger=ledger.code, ledger_currency=ledger.currency, currency=wanted)
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
        return leaf

    def _resolve(self, entry: EntryRequest, field: str) -> _Leaf:
        if entry.is_suspense:
            ledger: Ledger = self.chart.by_id[self.books.suspense_id]
        else:
            found = self.chart.find(entry.ledger)
            first = found[0]
            if first is None or None in found:
                raise LedgerNotFound(field=field, ledger=str(entry.ledger))
            if any(other is not first for other in found):
                raise LedgerReferenceConflict(field=field)
            ledger = first
        if ledger.is_head:
            raise HeadLedger(field=field, ledger=ledger.code)
        leaf = self.leaves.get(ledger.ledger_id)
        if leaf is None:
            leaf = self.leaves[ledger.ledger_id] = _Leaf(ledger, self.balances[ledger.ledger_id])
        if not entry.is_suspense:
            self.by_reference[entry.ledger] = leaf
        return leaf

    def _require_room(self, entries: Sequence[EntryRequest], leaves: Sequence[_Leaf]) -> None:
        """Check floors and ranges as they stand at the end of the journal; a movement up is never refused."""
        moved: dict[_Leaf, int] = {}
        for entry, leaf in zip(entries, leaves, strict=True):
            amount = entry.amount if entry.side == DEBIT else -entry.amount
            moved[leaf] = moved.get(leaf, 0) + amount
            if leaf.debits + leaf.credits + entry.amount > LARGEST_MINOR_UNITS:
                raise BalanceOutOfRange(field=f"entries[{leaves.index(leaf)}]", ledger=leaf.ledger.code)
        for leaf, amount in moved.items():
            if leaf.limit is None or amount * leaf.sign >= 0:
                continue
            available = leaf.balance * leaf.sign + leaf.limit - leaf.held
            if available + amount * leaf.sign < 0:
                raise InsufficientBalance(
                    field=f"entries[{leaves.index(leaf)}]",
                    ledger=leaf.ledger.code,
                    available=available,
                    taken=-amount * leaf.sign,
                )

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
                "rejected",
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
        totals: dict[int, list[int]] = {}
        days: dict[tuple[int, date], list[int]] = {}
        for leaf in self.leaves.values():
            if not leaf.entries:
                continue
            for value_date, (debits, credits_) in leaf.days.items():
                self.plan.days.append(DayChange(leaf.ledger.ledger_id, leaf.ledger.depth, value_date, debits, credits_))
            gained_debits = sum(day[0] for day in leaf.days.values())
            gained_credits = sum(day[1] for day in leaf.days.values())
            self.plan.balances.append(
                BalanceChange(
                    leaf.ledger.ledger_id,
                    leaf.ledger.depth,
                    gained_debits,
                    gained_credits,
                    leaf.entries,
                    leaf.entries,
                )
            )
            for head_id in self.chart.lineage(leaf.ledger.ledger_id)[1:]:
                total = totals.setdefault(head_id, [0, 0, 0])
                total[0] += gained_debits
                total[1] += gained_credits
                total[2] += leaf.entries
                for value_date, (debits, credits_) in leaf.days.items():
                    day = days.setdefault((head_id, value_date), [0, 0])
                    day[0] += debits
                    day[1] += credits_
        depth_of = self.chart.by_id
        self.plan.balances.extend(
            BalanceChange(ledger_id, depth_of[ledger_id].depth, debits, credits_, entries, 0)
            for ledger_id, (debits, credits_, entries) in totals.items()
        )
        self.plan.days.extend(
            DayChange(ledger_id, depth_of[ledger_id].depth, value_date, debits, credits_)
            for (ledger_id, value_date), (debits, credits_) in days.items()
        )
        self.plan.balances.sort(key=lambda change: (-change.depth, change.ledger_id))
        self.plan.days.sort(key=lambda change: (-change.depth, change.ledger_id, change.value_date))
