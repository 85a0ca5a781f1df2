"""Entries as a ledger shows them."""

from datetime import date, datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field


class LedgerEntryV1(BaseModel):
    """An entry of a ledger, with its journal's texts. `number` counts the ledger's entries without a gap."""

    id: UUID
    journal_id: UUID
    number: int
    type: Literal["debit", "credit"]
    amount: int
    currency_code: str
    balance_after: int = Field(description="The ledger's balance after this entry, positive on its normal side.")
    value_date: date
    booked_at: datetime
    journal_type: str
    description: str | None
    reference_id: str | None


class EntryPageV1(BaseModel):
    """Entries, newest first. `next_below` leads to the next page; null on the last."""

    ledger_id: UUID
    code: str
    entries: list[LedgerEntryV1]
    next_below: int | None
