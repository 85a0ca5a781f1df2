"""What a job says: its state, and once it has ended its journal or its error."""

from datetime import date, datetime
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from ledgermill.messages.fields import IdempotencyKey

JobState = Literal["accepted", "scheduled", "posted", "rejected", "quarantined"]
JobKind = Literal["post_journal", "update_balance"]
MOST_KEYS: Final = 1_000


class MoneyV1(BaseModel):
    """An exact amount: whole minor units as text, and how many of the digits are decimals."""

    amount: str
    currency: str
    precision: int


class EntryOutV1(BaseModel):
    """An entry of a journal. `number` counts within its ledger, `line` within its journal."""

    id: UUID
    ledger_id: UUID
    ledger_code: str
    ledger_num_id: int
    type: Literal["debit", "credit"]
    amount: int
    currency_code: str
    line: int
    number: int
    balance_after: int = Field(description="The ledger's balance after this entry, positive on its normal side.")


class JournalOutV1(BaseModel):
    """A posted journal. `value_date` is an instant at midnight UTC; `position` its place in the books."""

    id: UUID
    type: str
    status: Literal["posted"]
    total_amount: MoneyV1
    currency_id: UUID | None
    currency_code: str
    description: str | None
    reference_id: str | None
    timestamp: datetime
    value_date: datetime
    completed_at: datetime
    reconciled_at: datetime | None
    metadata: dict[str, Any]
    created_at: datetime
    modified_at: datetime
    created_by: UUID | None
    modified_by: UUID | None
    total_debit_lcy: MoneyV1
    total_credit_lcy: MoneyV1
    active: bool
    id_client: str
    position: int
    idempotency_key: str
    entries: list[EntryOutV1]


class ErrorV1(BaseModel):
    """Why a job was not posted. `kind` says whether it is wrong by itself, or refused by the books as they stand."""

    kind: Literal["invalid", "refused", "unavailable"]
    code: str
    message: str
    details: dict[str, Any]


class JobV1(BaseModel):
    """One thing asked for. `position` and `total_amount` are there once it is posted, `error` where it was not."""

    id: UUID
    batch_id: UUID
    kind: JobKind
    state: JobState
    idempotency_key: str | None
    accepted_at: datetime
    due_at: datetime | None = None
    ended_at: datetime | None = None
    position: int | None = None
    value_date: date | None = None
    total_amount: int | None = None
    currency_code: str | None = None
    reference_id: str | None = None
    error: ErrorV1 | None = None
    correlation_id: str | None = None
    attempts: int | None = None


class JobPageV1(BaseModel):
    """Jobs, newest first. `next_before` leads to the next page; null on the last."""

    jobs: list[JobV1]
    next_before: UUID | None


class LookupV1(BaseModel):
    """The jobs of the keys that were asked for, and the keys that have not arrived."""

    jobs: list[JobV1]
    missing: list[str]


@with_config(ConfigDict(extra="forbid", strict=True))
class LookupAskV1(TypedDict):
    """Up to 1,000 idempotency keys."""

    idempotency_keys: list[IdempotencyKey]


class JobPlaceV1(BaseModel):
    """The id under which a job of a batch can be asked for."""

    id: UUID
    idempotency_key: str | None


class AcceptedV1(BaseModel):
    """A batch that is durable and will be worked on; its jobs in the order in which they came."""

    batch_id: UUID
    state: Literal["accepted"]
    jobs: list[JobPlaceV1]


class BatchV1(BaseModel):
    """What became of a batch: how many jobs in each state, and those that were not posted (up to 1,000)."""

    id: UUID
    is_settled: bool
    counts: dict[str, int]
    not_posted: list[JobV1]


class OutcomeV1(BaseModel):
    """How a job ended, in the order in which jobs ended. `after` asks for what ended later."""

    after: str
    job: JobV1


class OutcomePageV1(BaseModel):
    """Ended jobs in order. `next_after` is where to go on, also where there is nothing yet."""

    outcomes: list[OutcomeV1]
    next_after: str
