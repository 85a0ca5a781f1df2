"""What each database role may do, what the migrations make, and that they may run again while others work."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from conftest import Servers
from psycopg import errors
from running import CHART, journal
from sqlalchemy import create_engine, inspect
from sqlalchemy.dialects import postgresql

from ledgermill.config import Settings
from ledgermill.messages.fields import read_reference
from ledgermill.messages.ledgers import read_ledger
from ledgermill.runtime import Runtime, new_batch_id, now
from ledgermill.storage import connections, ledgers, migrations
from ledgermill.storage.tables import SCHEMA, metadata
from ledgermill.usecases import charts, delivery, organizations
from ledgermill.usecases.delivery import Message

Connection = psycopg.Connection[tuple[Any, ...]]

VIEWS = [
    *("organization", "principal", "currency", "ledger", "posting_lock", "balance", "day_balance"),
    *("inbox", "job", "replay", "mending", "entry"),
]
INSERT_INTO_INBOX = """
    INSERT INTO ledgermill_api.inbox (organization_id, batch_id, part, lane, kind, payload, jobs, job_keys, next_item,
                                      attempts, accepted_at, due_at, held, principal_id)
    VALUES (%s, gen_random_uuid(), 0, 0, 'post_journal', '[]', 1, '{k}', 0, 0, now(), now(), false, 1)
"""


@pytest.fixture(scope="module")
def books(shared_settings: Settings) -> dict[str, int]:
    """Two organizations with a posted and a rejected journal each: their inner ids by code."""
    owner, worker = Runtime(shared_settings, role="owner"), Runtime(shared_settings, role="worker")
    with owner.engine.begin() as tx:
        for code in ("acme", "other"):
            organizations.create(tx, code=code, name=code, base_currency="USD", time_zone="UTC")
    ids = {}
    with owner.engine.begin() as tx:
        for code in ("acme", "other"):
            ids[code] = tx.exec_driver_sql(
                "SELECT organization_id FROM ledgermill.organization WHERE code = %s", (code,)
            ).scalar_one()
            charts.open_chart(tx, ids[code], [("", read_ledger(item)) for item in CHART], principal_id=1)
    for code in ids:
        post(worker, code, [journal("k1"), journal("k2", debit="NONE")])
    owner.close()
    worker.close()
    return ids


def post(worker: Runtime, organization: str, journals: list[Any]) -> None:
    message = Message(
        message_id=str(new_batch_id()),
        kind="post_journal",
        organization=organization,
        items=journals,
        queue="posting",
        correlation=None,
        is_redelivered=False,
        taken_at=now(),
    )
    delivery.take(worker, [message])


@pytest.fixture
def connection(shared_settings: Settings, books: dict[str, int], role: str) -> Iterator[Connection]:
    with psycopg.connect(shared_settings.url_of(role), autocommit=True) as opened:
        opened.execute("SET default_transaction_read_only = off")
        yield opened


@pytest.mark.parametrize("table", ["job", "entry"])
@pytest.mark.parametrize(
    "change", ["UPDATE {} SET organization_id = organization_id", "DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}"]
)
@pytest.mark.parametrize("role", ["worker", "api", "readonly"])
def test_no_service_changes_or_removes_what_is_posted(connection: Connection, table: str, change: str) -> None:
    for schema in (SCHEMA, "ledgermill_api"):
        with pytest.raises((errors.InsufficientPrivilege, errors.WrongObjectType)), connection.transaction():
            connection.execute(change.format(f"{schema}.{table}"))


@pytest.mark.parametrize("table", ["job", "entry"])
@pytest.mark.parametrize("change", ["UPDATE {} SET organization_id = organization_id", "DELETE FROM {}", "TRUNCATE {}"])
@pytest.mark.parametrize("role", ["owner"])
def test_the_owner_is_stopped_too(connection: Connection, table: str, change: str) -> None:
    with pytest.raises(errors.RestrictViolation, match="insert-only"):
        connection.execute(change.format(f"{SCHEMA}.{table}"))


@pytest.mark.parametrize("role", ["api"])
def test_the_api_role_has_no_rights_on_any_table(connection: Connection) -> None:
    for table in [*metadata.tables.values()]:
        for statement in ("SELECT 1 FROM {}", "INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}"):
            with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
                connection.execute(statement.format(f"{SCHEMA}.{table.name}"))
    granted = connection.execute(
        """SELECT relname, privilege FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'])
           AS privilege WHERE relkind IN ('r', 'p') AND relnamespace = 'ledgermill'::regnamespace
           AND has_table_privilege(pg_class.oid, privilege)"""
    ).fetchall()
    assert granted == []


@pytest.mark.parametrize("role", ["api"])
def test_the_views_are_all_there_is_for_the_api_role_and_each_is_a_security_barrier(connection: Connection) -> None:
    found = connection.execute(
        """SELECT relname, reloptions::text FROM pg_class
           WHERE relnamespace = 'ledgermill_api'::regnamespace AND relkind = 'v'"""
    ).fetchall()

    assert {name for name, _ in found} == set(VIEWS)
    assert all("security_barrier=true" in options for _, options in found)


@pytest.mark.parametrize("role", ["api"])
def test_the_views_show_the_organization_that_is_set_and_nothing_else(
    connection: Connection, books: dict[str, int]
) -> None:
    for view in VIEWS:
        count = f"SELECT count(*), count(DISTINCT organization_id), min(organization_id) FROM ledgermill_api.{view}"
        assert connection.execute(count).fetchone() == (0, 0, None)
        for organization_id in books.values():
            with connection.transaction():
                connection.execute("SELECT set_config('ledgermill.organization', %s, true)", (str(organization_id),))
                rows, seen, first = connection.execute(count).fetchone() or (0, 0, 0)
            if view not in {"inbox", "replay", "mending"}:
                assert rows > 0, view
                assert (seen, first) == (1, organization_id)
        assert connection.execute(count).fetchone() == (0, 0, None)


@pytest.mark.parametrize("role", ["api"])
def test_the_function_that_lists_jobs_shows_the_organization_that_is_set_and_nothing_else(
    connection: Connection, books: dict[str, int]
) -> None:
    statement = """SELECT organization_id FROM ledgermill_api.newest_jobs(
        '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', %s, NULL, %s, 100)"""
    for states, reference in ((None, None), (["rejected"], None), (["posted"], None), (None, "R")):
        connection.execute("SELECT set_config('ledgermill.organization', '', false)")
        assert connection.execute(statement, (states, reference)).fetchall() == []
        connection.execute("SELECT set_config('ledgermill.organization', %s, false)", (str(books["acme"]),))
        shown = connection.execute(statement, (states, reference)).fetchall()
        assert set(shown) == (set() if reference else {(books["acme"],)})


@pytest.mark.parametrize("role", ["api"])
def test_outcomes_are_told_to_the_keys_of_their_organization_only(
    connection: Connection, books: dict[str, int], shared_settings: Settings
) -> None:
    owner = Runtime(shared_settings, role="owner")
    hashes = {}
    with owner.engine.begin() as tx:
        for code, scopes in (("acme", ["read"]), ("acme", ["post"]), ("acme", ["ledgers"]), ("other", ["read"])):
            secret = organizations.create_key(tx, code, name="t", scopes=scopes, expires_at=None).secret
            hashes[code, scopes[0]] = organizations.hash_key(secret)
        jobs = tx.exec_driver_sql(
            "SELECT job_id, state FROM ledgermill.job WHERE organization_id = %s", (books["acme"],)
        )
        states = {row.job_id: row.state for row in jobs}
        revoked = organizations.create_key(tx, "acme", name="r", scopes=["read"], expires_at=None)
        organizations.revoke_key(tx, "acme", revoked.key_uuid)
    owner.close()
    statement = "SELECT job_id, state FROM ledgermill_api.find_outcomes(%s, %s)"

    def told(sha256: bytes) -> dict[Any, str]:
        return dict(connection.execute(statement, ([sha256] * len(states), list(states))).fetchall())

    assert {"posted", "rejected"} <= set(states.values())
    assert told(hashes["acme", "read"]) == told(hashes["acme", "post"]) == states
    for refused in (hashes["acme", "ledgers"], hashes["other", "read"], organizations.hash_key(revoked.secret), b"x"):
        assert told(refused) == {}


@pytest.mark.parametrize("role", ["api"])
def test_a_function_that_tells_what_it_is_shown_sees_no_other_organization(
    connection: Connection, books: dict[str, int]
) -> None:
    connection.execute(
        """CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
           AS $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$"""
    )
    seen: list[str] = []
    connection.add_notice_handler(lambda notice: seen.append(notice.message_primary or ""))
    connection.execute("SELECT set_config('ledgermill.organization', %s, false)", (str(books["acme"]),))

    connection.execute("SELECT 1 FROM ledgermill_api.ledger WHERE pg_temp.tell(organization_id::text)")

    assert set(seen) == {f"saw {books['acme']}"}


@pytest.mark.parametrize("role", ["api"])
def test_the_api_role_accepts_jobs_for_the_organization_that_is_set_only(
    connection: Connection, books: dict[str, int]
) -> None:
    with pytest.raises(errors.WithCheckOptionViolation), connection.transaction():
        connection.execute(INSERT_INTO_INBOX, (books["acme"],))
    connection.execute("SELECT set_config('ledgermill.organization', %s, false)", (str(books["acme"]),))
    with pytest.raises(errors.WithCheckOptionViolation), connection.transaction():
        connection.execute(INSERT_INTO_INBOX, (books["other"],))
    assert connection.execute(INSERT_INTO_INBOX, (books["acme"],)).rowcount == 1
    for change in ("UPDATE {} SET held = true", "DELETE FROM {}"):
        with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
            connection.execute(change.format("ledgermill_api.inbox"))


@pytest.mark.parametrize("role", ["worker", "readonly"])
def test_no_other_role_reads_the_hashes_of_keys(connection: Connection) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SELECT 1 FROM ledgermill.api_key")


@pytest.mark.parametrize("role", ["readonly"])
def test_the_read_only_role_reads_all_organizations_and_writes_nowhere(
    connection: Connection, books: dict[str, int]
) -> None:
    assert connection.execute("SELECT count(DISTINCT organization_id) FROM ledgermill.job").fetchone() == (2,)
    for table in metadata.tables.values():
        with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
            connection.execute(f"INSERT INTO ledgermill.{table.name} DEFAULT VALUES")


@pytest.mark.parametrize("role", ["worker", "api", "readonly"])
def test_the_services_make_no_objects_and_wait_for_nothing_for_long(connection: Connection, role: str) -> None:
    for schema in (SCHEMA, "ledgermill_api", "public"):
        with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
            connection.execute(f"CREATE TABLE {schema}.mine (a int)")
    limits = {name: connection.execute(f"SHOW {name}").fetchone() for name in ("statement_timeout", "lock_timeout")}
    assert limits["lock_timeout"] == ("2s",)
    assert limits["statement_timeout"] == {"worker": ("10s",), "api": ("2s",), "readonly": ("0",)}[role]


def test_the_tables_as_the_code_names_them_are_those_that_the_migrations_make(shared_settings: Settings) -> None:
    engine = create_engine(
        shared_settings.database_url.get_secret_value().replace("postgresql://", "postgresql+psycopg://")
    )
    found = inspect(engine)
    try:
        assert set(found.get_table_names(SCHEMA)) == {table.name for table in metadata.tables.values()} | {
            "alembic_version"
        }
        for table in metadata.tables.values():
            in_database = {
                column["name"]: (column["type"].compile(postgresql.dialect()), column["nullable"])
                for column in found.get_columns(table.name, SCHEMA)
            }
            in_code = {
                column.name: (column.type.compile(postgresql.dialect()), column.nullable) for column in table.columns
            }
            assert in_database == in_code, table.name
            key = found.get_pk_constraint(table.name, SCHEMA)["constrained_columns"]
            assert key == [column.name for column in table.primary_key], table.name
            assert key[0] in {"organization_id", "quarantine_id", "release"}  # releases of the worker are nobody's
    finally:
        engine.dispose()


def test_an_upgrade_may_run_twice_and_by_several_at_a_time(servers: Servers) -> None:
    name = "upgraded_by_several"
    url = servers.postgres.url.rpartition("/")[0] + "/" + name
    with (
        psycopg.connect(servers.postgres.url, autocommit=True) as connection,
        psycopg.connect(servers.postgres.superuser_url, autocommit=True) as superuser,  # may end autovacuum's workers
    ):
        connection.execute(f"CREATE DATABASE {name}")
        try:
            engines = [connections.engine(url) for _ in range(4)]
            with ThreadPoolExecutor(4) as threads:
                results = list(threads.map(migrations.upgrade, engines))
            again = migrations.upgrade(engines[0])
            current = migrations.current(engines[0])
            for engine in engines:
                engine.dispose()
        finally:
            superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")

    assert {*results, again, current} == {migrations.newest()}


def test_an_upgrade_lets_a_worker_post_meanwhile(shared_settings: Settings, books: dict[str, int]) -> None:
    owner, worker = Runtime(shared_settings, role="owner"), Runtime(shared_settings, role="worker")
    stop = threading.Event()

    def upgrade() -> int:
        times = 0
        while not stop.is_set():
            migrations.upgrade(owner.engine)
            times += 1
        return times

    with ThreadPoolExecutor(1) as threads:
        upgrading = threads.submit(upgrade)
        for number in range(30):
            post(worker, "acme", [journal(f"u{number}-{n}", 1) for n in range(10)])
        stop.set()
        assert upgrading.result() > 0

    with worker.engine.connect() as tx:
        till = ledgers.shown(tx, books["acme"], read_reference("TILL"))[0]
    assert till["debits"] == 100 + 300
    owner.close()
    worker.close()
