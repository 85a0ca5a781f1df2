"""Books to tamper with: two organizations, posted as by the service, and a superuser who changes what nobody may."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import text

from ledgermill.config import Settings
from ledgermill.embedded.postgres import PostgresServer
from ledgermill.runtime import Runtime, new_batch_id
from ledgermill.storage import connections, ledgers
from ledgermill.storage.connections import Transaction
from ledgermill.storage.scopes import Scope
from ledgermill.usecases import acceptance, delivery, organizations
from ledgermill.usecases.verify import Report, check_books, verify

NOON = datetime.now(UTC)
KEY_PRINCIPAL = 2

# The inner id, the type, the parent, the depth, whether it is a head, the normal side. SUSPENSE is 1.
# The card, a liability with an overdraft of 500.
CHART = {
    "assets": (2, "asset", None, 0, True, "D"),
    "current": (3, "asset", 2, 1, True, "D"),
    "cash": (4, "asset", 3, 2, True, "D"),
    "till": (5, "asset", 4, 3, False, "D"),
    "bank": (6, "asset", 4, 3, False, "D"),
    "claims": (7, "asset", 3, 2, False, "D"),
    "income": (8, "income", None, 0, True, "C"),
    "sales": (9, "income", 8, 1, False, "C"),
    "card": (10, "liability", None, 0, False, "C"),
}

OF_ACME = "organization_id = (SELECT organization_id FROM organization WHERE code = 'acme')"
TILL = f"{OF_ACME} AND ledger_id = 5"
A_JOB = f"{OF_ACME} AND idempotency_key = 'c'"


def two_organizations(settings: Settings, worker: Runtime) -> None:
    """Two organizations with a tree of four levels, 8 journals over two value dates, 2 rejected jobs, and a waiting batch."""
    owner = Runtime(settings, role="owner")
    with owner.engine.begin() as tx:
        for code, zone in (("acme", "Pacific/Auckland"), ("other", "America/New_York")):
            open_organization(tx, code, zone)
    earlier = str((NOON - timedelta(days=3)).date())
    deliver(
        worker,
        "acme",
        [
            journal("a", ("till", "debit", 1_000), ("sales", "credit", 1_000)),
            journal("b", ("bank", "debit", 700), ("claims", "debit", 300), ("sales", "credit", 1_000)),
            journal("c", ("bank", "debit", 50), ("till", "credit", 50), value_date=earlier),
            journal("poor", ("sales", "debit", 5_000), ("till", "credit", 5_000)),
            journal("lost", ("nowhere", "debit", 1), ("till", "credit", 1)),
            journal("d", ("card", "debit", 500), ("till", "credit", 100), ("bank", "credit", 400)),
        ],
    )
    deliver(
        worker,
        "acme",
        [
            journal("e", ("till", "debit", 7), ("till", "credit", 3), ("sales", "credit", 4), value_date=earlier),
            journal("f", ("claims", "credit", 300), ("bank", "debit", 300)),
        ],
    )
    deliver(
        worker,
        "other",
        [
            journal("a", ("till", "debit", 10**37), ("sales", "credit", 10**37)),
            journal("b", ("sales", "debit", 1), ("till", "credit", 1)),
        ],
    )
    with owner.engine.begin() as tx:
        organization = tx.execute(text("SELECT organization_id FROM ledgermill.organization WHERE code = 'acme'"))
        acceptance.accept(
            tx,
            organization.scalar_one(),
            kind="post_journal",
            items=[
                journal("w1", ("till", "debit", 5), ("sales", "credit", 5)),
                journal("w2", ("till", "debit", 6), ("sales", "credit", 6)),
            ],
            principal_id=KEY_PRINCIPAL,
            correlation=None,
            now=NOON,
        )
        tx.execute(
            text("""INSERT INTO ledgermill.replay SELECT organization_id, :job_id, job_id
                    FROM ledgermill.job WHERE idempotency_key = 'c'"""),
            {"job_id": uuid4()},
        )
    owner.close()


def open_organization(tx: Transaction, code: str, zone: str) -> None:
    organizations.create(tx, code=code, name=code, base_currency="EUR", time_zone=zone)
    organizations.create_key(tx, code, name="shop", scopes=["post"], expires_at=None)
    organization_id = tx.execute(
        text("SELECT organization_id FROM ledgermill.organization WHERE code = :code"), {"code": code}
    ).scalar_one()
    rows = [
        {
            "organization_id": organization_id,
            "ledger_id": ledger_id,
            "ledger_uuid": uuid4(),
            "code": name,
            "number": 1_010_000_000 + ledger_id,
            "name": name,
            "type": kind,
            "type_code": 101,
            "currency": "EUR",
            "is_head": is_head,
            "parent_id": parent_id,
            "depth": depth,
            "normal_side": side,
            "balance_floor": "limit" if not is_head and kind in {"asset", "liability"} else "none",
            "overdraft_enabled": name == "card",
            "overdraft_limit": 500 if name == "card" else 0,
            "created_by": 1,
            "modified_by": 1,
            "changed_at_version": 2,
        }
        for name, (ledger_id, kind, parent_id, depth, is_head, side) in CHART.items()
    ]
    ledgers.open_ledgers(tx, organization_id, rows, version=2)


def post_more(worker: Runtime, suffix: str = "") -> None:
    """Two journals and a rejection of acme."""
    deliver(
        worker,
        "acme",
        [
            journal(f"n1{suffix}", ("till", "debit", 20), ("sales", "credit", 20)),
            journal(f"poor2{suffix}", ("sales", "debit", 5_000), ("till", "credit", 5_000)),
            journal(f"n2{suffix}", ("bank", "debit", 30), ("till", "credit", 30)),
        ],
    )


def journal(key: str, *lines: tuple[str, str, int], **transaction: str) -> dict[str, object]:
    return {
        "idempotency_key": key,
        "transaction": transaction,
        "entries": [{"ledger_code": ledger, "type": side, "amount": amount} for ledger, side, amount in lines],
    }


def deliver(
    worker: Runtime, organization: str, items: list[dict[str, object]], *, message_id: UUID | None = None
) -> None:
    message_id = message_id or new_batch_id()
    delivery.take(
        worker,
        [
            delivery.Message(
                str(message_id), "post_journal", organization, items, "posting", None, False, datetime.now(UTC)
            )
        ],
    )


def report_of(settings: Settings, organization: str | None = None) -> Report:
    runtime = Runtime(settings, role="readonly")
    try:
        return verify(runtime.engine, organization=organization)
    finally:
        runtime.close()


def failed(report: Report) -> set[str]:
    return {check.name for check in report.checks if check.violations}


def tamper(server: PostgresServer, settings: Settings, sql: str) -> None:
    """Change the books behind the service's back, as only a superuser can."""
    name = settings.database_url.get_secret_value().rpartition("/")[2]
    with psycopg.connect(server.superuser_url.rpartition("/")[0] + "/" + name) as connection:
        connection.execute("SET search_path = ledgermill")
        connection.execute("SET session_replication_role = replica")
        connection.execute(sql)


def report_after(server: PostgresServer, settings: Settings, sql: str, scope: Scope | None = None) -> Report:
    """What verify finds after this change by a superuser, which is then taken back: the books stay as they were."""
    name = settings.database_url.get_secret_value().rpartition("/")[2]
    engine = connections.engine(server.superuser_url.rpartition("/")[0] + "/" + name)
    try:
        with engine.connect() as tx:
            tx.execution_options(isolation_level="REPEATABLE READ")
            tx.exec_driver_sql("SET LOCAL search_path = ledgermill")
            tx.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connections.raw(tx).execute(sql)  # as one script
            report = check_books(tx, scope or Scope())
            tx.rollback()
    finally:
        engine.dispose()
    return report
