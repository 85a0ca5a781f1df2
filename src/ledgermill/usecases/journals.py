"""Journals read back: a posted job with its entries."""

from datetime import UTC, datetime, time
from uuid import UUID

from ledgermill.domain import ids
from ledgermill.domain.ledgers import DEBIT
from ledgermill.errors import JournalNotFound
from ledgermill.messages.currencies import exponent_of
from ledgermill.messages.jobs import EntryOutV1, JournalOutV1, MoneyV1
from ledgermill.storage.outcomes import Outcome


def journal(job_id: UUID, outcome: Outcome | None) -> JournalOutV1:
    """A journal by its id, which is its job's. Raises JournalNotFound, also for a job that was not posted."""
    if outcome is None or outcome["state"] != "posted":
        raise JournalNotFound(journal=job_id)
    return posted(outcome)


def posted(row: Outcome) -> JournalOutV1:
    """The journal of a job that was posted."""
    total = _money(int(row["total"]), row["currency"])
    base_total = _money(int(row["base_total"] or row["total"]), row["base_currency"])
    return JournalOutV1(
        id=row["job_id"],
        type=row["type"],
        status="posted",
        total_amount=total,
        currency_id=row["currency_uuid"],
        currency_code=row["currency"],
        description=row["description"],
        reference_id=row["reference_id"],
        timestamp=row["event_at"] or row["accepted_at"],
        value_date=datetime.combine(row["value_date"], time(), UTC),
        completed_at=row["ended_at"],
        reconciled_at=None,
        metadata=row["metadata"] or {},
        created_at=row["accepted_at"],
        modified_at=row["ended_at"],
        created_by=row["author_uuid"],
        modified_by=row["author_uuid"],
        total_debit_lcy=base_total,
        total_credit_lcy=base_total,
        active=True,
        id_client=row["organization_code"],
        position=row["position"],
        idempotency_key=row["idempotency_key"],
        entries=_entries(row),
    )


def _entries(row: Outcome) -> list[EntryOutV1]:
    return [
        EntryOutV1(
            id=ids.entry_id(row["job_id"], line),
            ledger_id=UUID(ledger_uuid),
            ledger_code=code,
            ledger_num_id=ledger_number,
            type="debit" if side == DEBIT else "credit",
            amount=amount,
            currency_code=currency,
            line=line,
            number=number,
            balance_after=balance_after * (1 if normal_side == DEBIT else -1),
        )
        for line, ledger_uuid, code, ledger_number, normal_side, side, amount, currency, number, balance_after in (
            row["entries"] or ()
        )
    ]


def _money(minor_units: int, currency: str) -> MoneyV1:
    return MoneyV1(amount=str(minor_units), currency=currency, precision=exponent_of(currency))
