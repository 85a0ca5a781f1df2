"""Journals read back: a posted job with its entries."""

from datetime import UTC, datetime, time
from uuid import UUID

from ledgermill.domain import ids
from ledgermill.domain.ledgers import DEBIT
from ledgermill.errors import JournalNotFound
from ledgermill.messages.currencies import exponent_of
from ledgermill.messages.jobs import EntryOutV1, JournalOutV1, MoneyV1
from ledgermill.storage import entries, jobs, ledgers, organizations
from ledgermill.storage.connections import Row, Transaction


def journal(tx: Transaction, organization_id: int, job_id: UUID) -> JournalOutV1:
    """A journal by its id, which is its job's. Raises JournalNotFound, also for a job that was not posted."""
    row = jobs.find(tx, organization_id, job_id)
    if row is None or row["state"] != "posted":
        raise JournalNotFound(journal=job_id)
    organization = organizations.by_id(tx, organization_id)
    currencies = {c["code"]: c["currency_uuid"] for c in organizations.currencies(tx, organization_id)}
    author = organizations.principal_uuids(tx, organization_id, {row["principal_id"]}).get(row["principal_id"])
    total = _money(int(row["total"]), row["currency"])
    base_total = _money(int(row["base_total"] or row["total"]), organization["base_currency"])
    return JournalOutV1(
        id=row["job_id"],
        type=row["type"],
        status="posted",
        total_amount=total,
        currency_id=currencies.get(row["currency"]),
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
        created_by=author,
        modified_by=author,
        total_debit_lcy=base_total,
        total_credit_lcy=base_total,
        active=True,
        id_client=organization["code"],
        position=row["position"],
        idempotency_key=row["idempotency_key"],
        entries=_entries(tx, organization_id, row),
    )


def _entries(tx: Transaction, organization_id: int, job: Row) -> list[EntryOutV1]:
    rows = entries.of_journal(tx, organization_id, ledger_ids=job["entry_ledgers"], numbers=job["entry_numbers"])
    names = ledgers.names_of(tx, organization_id, {row["ledger_id"] for row in rows})
    return [
        EntryOutV1(
            id=ids.entry_id(job["job_id"], row["line"]),
            ledger_id=names[row["ledger_id"]].ledger_uuid,
            ledger_code=names[row["ledger_id"]].code,
            ledger_num_id=names[row["ledger_id"]].number,
            type="debit" if row["side"] == DEBIT else "credit",
            amount=int(row["amount"]),
            currency_code=row["currency"],
            line=row["line"],
            number=row["number"],
            balance_after=int(row["balance_after"]) * (1 if names[row["ledger_id"]].normal_side == DEBIT else -1),
        )
        for row in rows
    ]


def _money(minor_units: int, currency: str) -> MoneyV1:
    return MoneyV1(amount=str(minor_units), currency=currency, precision=exponent_of(currency))
