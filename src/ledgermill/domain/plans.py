"""What planning reads and what it decides: the values between the use case, the rules and the tables."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID, uuid5

from ledgermill.domain import ids
from ledgermill.domain.journals import Request
from ledgermill.errors import LedgermillError


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
    """A posted job, which is its journal; fields are named as the columns of `job`.

    The last three are known under the lock only: the booking time there, and position and numbers, which count from the
    plan's shift.
    """

    organization_id: int
    job_id: UUID
    idempotency_key: str
    fingerprint: bytes
    kind: str
    state: str
    accepted_at: datetime
    principal_id: int
    correlation: str | None
    type: str
    currency: str
    total: int
    value_date: date
    event_at: str | None
    description: str | None
    reference_id: str | None
    metadata: str | None
    entry_ledgers: list[int]
    ended_at: datetime
    position: int
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
    """An entry; fields are named as the columns of `entry`. `balance_after` is debits minus credits.

    The last three count from the plan's shift.
    """

    organization_id: int
    ledger_id: int
    line: int
    side: str
    amount: int
    currency: str
    value_date: date
    number: int
    position: int
    balance_after: int


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


class Shift(NamedTuple):
    """What is to be added to a plan's positions and rejections, and to each ledger's numbers and running balances."""

    positions: int = 0
    rejections: int = 0
    entries: Mapping[int, tuple[int, int]] = {}


class Plan(NamedTuple):
    """Everything that one transaction writes. `replays` pair a job's id with the job that settled its key before.

    `begun` is what storage has made of the posted jobs before the lock, as text; empty where it has not.
    """

    posted: list[PostedJob]
    rejected: list[RejectedJob]
    entries: list[PostedEntry]
    balances: list[BalanceChange]
    days: list[DayChange]
    replays: list[tuple[UUID, UUID]]
    shift: Shift = Shift()
    begun: Sequence[str] = ()


class Draft(NamedTuple):
    """A plan made before the locks, as if every balance, number and position were 0.

    It holds where the books are as `assumed`, no total leaves its range, and no floor would be broken: `lowest` is, by
    ledger with a floor, how far below its start a journal takes the balance on its normal side.
    """

    plan: Plan
    assumed: Books
    chart_version: int
    ledger_ids: frozenset[int]
    lowest: Mapping[int, int]
