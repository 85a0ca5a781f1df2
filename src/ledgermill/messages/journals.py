"""Journals and balance updates as they arrive: their shapes."""

from typing import Final, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from ledgermill.messages.fields import (
    Amount,
    Code,
    CurrencyCode,
    DateText,
    Description,
    IdempotencyKey,
    InstantText,
    LedgerNumber,
    Metadata,
    Name,
    UuidText,
)

STRICT: Final = ConfigDict(extra="forbid", strict=True)


@with_config(STRICT)
class LedgerReferenceV1(TypedDict):
    """A ledger by its id, its code or its number; several must agree."""

    ledger_id: NotRequired[UuidText | None]
    ledger_code: NotRequired[Code | None]
    ledger_num_id: NotRequired[LedgerNumber | None]


@with_config(STRICT)
class EntryV1(TypedDict):
    """A positive amount on one side of one ledger. Without a currency: the journal's."""

    ledger_id: NotRequired[UuidText | None]
    ledger_code: NotRequired[Code | None]
    ledger_num_id: NotRequired[LedgerNumber | None]
    type: Literal["debit", "credit"]
    amount: Amount
    currency_code: NotRequired[CurrencyCode | None]


@with_config(STRICT)
class TransactionV1(TypedDict):
    """What the entries of a journal have in common. Without a currency: the base currency; without a date: today."""

    type: NotRequired[Name | None]
    total_amount: NotRequired[Amount | Literal[0] | None]
    currency_code: NotRequired[CurrencyCode | None]
    value_date: NotRequired[DateText | None]
    timestamp: NotRequired[InstantText | None]
    description: NotRequired[Description | None]
    reference_id: NotRequired[Name | None]
    metadata: NotRequired[Metadata | None]


@with_config(STRICT)
class JournalV1(TypedDict):
    """A journal to be posted. With `due_at` it waits until then."""

    idempotency_key: NotRequired[IdempotencyKey | None]
    transaction: NotRequired[TransactionV1 | None]
    entries: list[EntryV1]
    due_at: NotRequired[InstantText | None]


@with_config(STRICT)
class BalanceUpdateV1(TypedDict):
    """A debit or credit of one ledger against another: `contra`, or the suspense ledger."""

    idempotency_key: NotRequired[IdempotencyKey | None]
    ledger_id: NotRequired[UuidText | None]
    ledger_code: NotRequired[Code | None]
    ledger_num_id: NotRequired[LedgerNumber | None]
    type: Literal["debit", "credit"]
    amount: Amount
    contra: NotRequired[LedgerReferenceV1 | None]
    currency_code: NotRequired[CurrencyCode | None]
    value_date: NotRequired[DateText | None]
    timestamp: NotRequired[InstantText | None]
    description: NotRequired[Description | None]
    reference_id: NotRequired[Name | None]
    metadata: NotRequired[Metadata | None]
    due_at: NotRequired[InstantText | None]
