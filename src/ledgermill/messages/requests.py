"""Journals and balance updates whose shape was validated, as the requests that the rules understand.

Both functions take the place in the batch, the item, its key, and the fingerprint of its content.
"""

from collections.abc import Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from ledgermill.domain.journals import (
    MOST_ENTRIES,
    POST_JOURNAL,
    UPDATE_BALANCE,
    EntryRequest,
    JournalRequest,
    opposite,
    require_balanced,
)
from ledgermill.domain.ledgers import CREDIT, DEBIT, LedgerReference, Side
from ledgermill.errors import InvalidField
from ledgermill.messages.fields import read_date, read_instant, reference_of
from ledgermill.messages.fingerprints import DEFAULT_TYPE
from ledgermill.messages.journals import BalanceUpdateV1, JournalV1

MOST_METADATA_BYTES: Final = 16_384
SIDES: Final[dict[str, Side]] = {"debit": DEBIT, "credit": CREDIT}
BARE: Final = 3  # fields of an entry that says no more than its side, its amount and its ledger
SELDOM_GIVEN: Final = frozenset({"value_date", "timestamp", "metadata"})


def journal_request(place: int, item: JournalV1, key: str, content: bytes) -> JournalRequest:
    """The request of a journal. Raises InvalidField, LedgerReferenceMissing, TooFewEntries, Unbalanced, TotalMismatch.

    These lines are the busiest of all: `tuple.__new__`, which takes every field in order, makes a request in half the
    time that its own name would take.
    """
    transaction: Mapping[str, Any] = item.get("transaction") or {}
    raw_entries = item["entries"]
    if len(raw_entries) > MOST_ENTRIES:
        raise InvalidField(field="entries", problem=f"must be at most {MOST_ENTRIES}")
    entries = []
    debits = credits_ = 0
    for entry in raw_entries:
        amount = entry["amount"]
        if entry["type"] == "debit":
            side: Side = DEBIT
            debits += amount
        else:
            side = CREDIT
            credits_ += amount
        if len(entry) == BARE and (code := entry.get("ledger_code")) is not None:
            entries.append(tuple.__new__(EntryRequest, (_ledger(code), side, amount, None, None, False)))
        else:
            ledger = reference_of(entry, field=f"entries[{len(entries)}]")
            entries.append(EntryRequest(ledger, side, amount, entry.get("currency_code")))
    currency = transaction.get("currency_code")
    require_balanced(
        entries=len(entries),
        debits=debits,
        credits_=credits_,
        currency=currency,
        total_amount=transaction.get("total_amount"),
    )
    value_date, event_at, metadata = _seldom_given(transaction, within="transaction.")
    return tuple.__new__(
        JournalRequest,
        (
            place,
            POST_JOURNAL,
            key,
            content,
            item,
            currency,
            tuple(entries),
            debits,
            transaction.get("type") or DEFAULT_TYPE,
            value_date,
            event_at,
            transaction.get("description"),
            transaction.get("reference_id"),
            metadata,
            _due_at(item),
        ),
    )


def update_request(place: int, item: BalanceUpdateV1, key: str, content: bytes) -> JournalRequest:
    """The request of a balance update. Raises InvalidField, LedgerReferenceMissing."""
    side, amount, contra = SIDES[item["type"]], item["amount"], item.get("contra")
    contra_entry = (
        EntryRequest(LedgerReference(), opposite(side), amount, field="the suspense ledger", is_suspense=True)
        if contra is None
        else EntryRequest(reference_of(contra, field="contra"), opposite(side), amount, field="contra")
    )
    entry = EntryRequest(reference_of(item, field="the update"), side, amount, field="ledger")
    value_date, event_at, metadata = _seldom_given(item, within="")
    return JournalRequest(
        place,
        UPDATE_BALANCE,
        key,
        content,
        item,
        item.get("currency_code"),
        (entry, contra_entry),
        amount,
        "balance_update",
        value_date,
        event_at,
        item.get("description"),
        item.get("reference_id"),
        metadata,
        _due_at(item),
    )


@lru_cache(maxsize=20_000)
def _ledger(code: str) -> LedgerReference:
    """A ledger by its code, made once: entries that name the same one share it."""
    return LedgerReference(code=code)


def _seldom_given(fields: Mapping[str, Any], *, within: str) -> tuple[date | None, str | None, str | None]:
    """The value date, the timestamp in UTC, and the metadata as JSON text."""
    if SELDOM_GIVEN.isdisjoint(fields):
        return None, None, None
    value_date, timestamp, metadata = fields.get("value_date"), fields.get("timestamp"), fields.get("metadata")
    return (
        None if value_date is None else read_date(value_date, field=within + "value_date"),
        None if timestamp is None else read_instant(timestamp, field=within + "timestamp").isoformat(),
        None if not metadata else _metadata(metadata, field=within + "metadata"),
    )


def _due_at(item: Mapping[str, Any]) -> datetime | None:
    due_at = item.get("due_at")
    return None if due_at is None else read_instant(due_at, field="due_at")


def _metadata(metadata: dict[str, Any], *, field: str) -> str:
    text = orjson.dumps(metadata)
    if len(text) > MOST_METADATA_BYTES:
        raise InvalidField(field=field, problem=f"must be at most {MOST_METADATA_BYTES} bytes of JSON")
    return text.decode()
