"""Journals: sets of entries that balance, and so are posted together or not at all."""

from datetime import date, datetime
from typing import Final, NamedTuple

from ledgermill.domain.ledgers import CREDIT, DEBIT, LedgerReference, Side
from ledgermill.errors import LedgermillError, TooFewEntries, TotalMismatch, Unbalanced

LARGEST_MINOR_UNITS: Final = 10**38 - 1
MOST_ENTRIES: Final = 65_535

POST_JOURNAL: Final = "post_journal"
UPDATE_BALANCE: Final = "update_balance"


class EntryRequest(NamedTuple):
    """A positive amount, in minor units, on one side of one ledger. No currency: the journal's.

    `field` says where the request names the ledger; None: in the entry itself. `is_suspense` stands for the
    organization's suspense ledger, whose name only the books know.
    """

    ledger: LedgerReference
    side: Side
    amount: int
    currency: str | None = None
    field: str | None = None
    is_suspense: bool = False


class JournalRequest(NamedTuple):
    """One journal as asked for: readable and balanced, but not yet held against the books.

    `fingerprint` is the SHA-256 of its content, `asked` the item as it came; `due_at` holds it back until then.
    """

    place: int
    kind: str
    idempotency_key: str
    fingerprint: bytes
    asked: object
    currency: str | None
    entries: tuple[EntryRequest, ...]
    total: int
    type: str
    value_date: date | None = None
    event_at: str | None = None
    description: str | None = None
    reference_id: str | None = None
    metadata: str | None = None
    due_at: datetime | None = None


class UnusableRequest(NamedTuple):
    """One item that is refused before it meets the books. Without a usable key, `idempotency_key` is None."""

    place: int
    kind: str
    idempotency_key: str | None
    fingerprint: bytes | None
    asked: object
    error: LedgermillError


Request = JournalRequest | UnusableRequest


def require_balanced(
    *, entries: int, debits: int, credits_: int, currency: str | None, total_amount: int | None
) -> None:
    """Hold the sums of a journal's entries, in minor units, against each other and the total that was asked for.

    Raises: TooFewEntries, Unbalanced (names the difference), TotalMismatch (a total of 0 counts as absent).
    """
    if entries < 2:  # noqa: PLR2004 - double entry
        raise TooFewEntries(count=entries)
    if debits != credits_:
        raise Unbalanced(currency=currency or "the base currency", difference=debits - credits_)
    if total_amount and total_amount != debits:
        raise TotalMismatch(total_amount=total_amount, debits=debits)


def opposite(side: Side) -> Side:
    """The other side."""
    return CREDIT if side == DEBIT else DEBIT
