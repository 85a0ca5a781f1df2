"""Verify names what is missing of the constraints, triggers, indexes, grants, functions and views of the migrations."""

import pytest
from tampering import failed, report_after

from ledgermill.config import Settings
from ledgermill.embedded.postgres import PostgresServer
from ledgermill.storage.checks.fences import CONSTRAINTS, INDEXES, INSERT_ONLY
from ledgermill.storage.tables import metadata

PARTITIONED = """
    DROP TABLE requeue;
    CREATE TABLE requeue (quarantine_id uuid NOT NULL, requeued_at timestamptz NOT NULL, requeued_by text NOT NULL,
                          CONSTRAINT requeue_pkey PRIMARY KEY (quarantine_id, requeued_at))
        PARTITION BY RANGE (requeued_at);
    CREATE TABLE requeue_old PARTITION OF requeue FOR VALUES FROM ('2000-01-01') TO ('2100-01-01');
    CREATE TRIGGER requeue_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON requeue
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
    ALTER TABLE requeue OWNER TO ledgermill_owner;
    ALTER TABLE requeue_old OWNER TO ledgermill_owner;
    GRANT SELECT ON requeue TO ledgermill_worker, ledgermill_readonly;
"""
ON_PARTITION = """
    CREATE TRIGGER requeue_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON requeue_old
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
SAFEGUARDS, GRANTS, FUNCTIONS = "safeguards_are_in_place", "roles_may_do_their_work_and_no_more", "functions_are_fenced"

# What somebody did, the check that finds it, and the names that its first example has.
DONE = [
    ("ALTER TABLE balance DROP CONSTRAINT balance_pkey", SAFEGUARDS, {"primary key", "balance"}),
    ("ALTER TABLE job DISABLE TRIGGER job_is_insert_only", SAFEGUARDS, {"trigger", "job.job_is_insert_only"}),
    ("DROP TRIGGER entry_is_insert_only ON entry", SAFEGUARDS, {"trigger", "entry.entry_is_insert_only"}),
    (
        "CREATE OR REPLACE TRIGGER job_is_insert_only BEFORE UPDATE ON job FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
        SAFEGUARDS,
        {"trigger", "job.job_is_insert_only"},
    ),
    (
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        SAFEGUARDS,
        {"trigger"},
    ),
    ("ALTER TABLE entry ALTER value_date DROP NOT NULL", SAFEGUARDS, {"not null", "entry.value_date"}),
    (
        """ALTER TABLE entry DROP CONSTRAINT entry_amount_is_positive;
           ALTER TABLE entry ADD CONSTRAINT entry_amount_is_positive CHECK (amount > -1)""",
        SAFEGUARDS,
        {"constraint", "entry.entry_amount_is_positive"},
    ),
    (
        """ALTER TABLE entry DROP CONSTRAINT entry_amount_is_positive;
           ALTER TABLE entry ADD CONSTRAINT entry_amount_is_positive CHECK (amount > 0) NOT VALID""",
        SAFEGUARDS,
        {"constraint", "entry.entry_amount_is_positive"},
    ),
    (PARTITIONED, SAFEGUARDS, {"trigger of a partition", "requeue_old of requeue"}),
    (
        "CREATE RULE swallow AS ON INSERT TO entry DO INSTEAD NOTHING",
        "tables_do_what_they_say",
        {"entry", "rule swallow"},
    ),
    (
        """CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
           ALTER FUNCTION swallow OWNER TO ledgermill_owner;
           CREATE TRIGGER swallow BEFORE INSERT ON job FOR EACH ROW EXECUTE FUNCTION swallow()""",
        "tables_do_what_they_say",
        {"job", "trigger swallow"},
    ),
    ("ALTER TABLE quarantine SET UNLOGGED", "tables_do_what_they_say", {"quarantine", "not logged"}),
    (
        "GRANT DELETE ON entry TO ledgermill_worker",
        GRANTS,
        {"ledgermill_worker", "DELETE", "ledgermill.entry", "granted too much"},
    ),
    ("GRANT SELECT ON api_key TO ledgermill_readonly", GRANTS, {"ledgermill_readonly", "SELECT", "ledgermill.api_key"}),
    (
        "GRANT UPDATE (amount) ON entry TO ledgermill_worker",
        GRANTS,
        {"ledgermill_worker", "UPDATE", "ledgermill.entry.amount"},
    ),
    ("GRANT SELECT ON balance TO PUBLIC", GRANTS, {"PUBLIC", "SELECT", "ledgermill.balance"}),
    ("GRANT INSERT ON job TO pg_monitor", GRANTS, {"pg_monitor", "INSERT", "ledgermill.job"}),
    ("GRANT CREATE ON SCHEMA ledgermill TO ledgermill_api", GRANTS, {"ledgermill_api", "CREATE", "ledgermill"}),
    (
        "GRANT UPDATE ON ledgermill_api.balance TO ledgermill_api",
        GRANTS,
        {"ledgermill_api", "UPDATE", "ledgermill_api.balance"},
    ),
    (
        "REVOKE INSERT ON entry FROM ledgermill_worker",
        GRANTS,
        {"ledgermill_worker", "INSERT", "ledgermill.entry", "not granted"},
    ),
    (
        PARTITIONED + ON_PARTITION + "GRANT UPDATE ON requeue_old TO ledgermill_worker",
        GRANTS,
        {"ledgermill_worker", "UPDATE", "ledgermill.requeue"},
    ),
    (
        "ALTER TABLE job OWNER TO ledgermill_worker",
        "roles_are_nothing_else",
        {"ledgermill_worker", "owner of job"},
    ),
    ("ALTER FUNCTION ledgermill_api.find_key RESET search_path", FUNCTIONS, {"find_key", "no fixed search_path"}),
    (
        "ALTER FUNCTION ledgermill_api.find_key SET search_path = public, ledgermill",
        FUNCTIONS,
        {"find_key", "no fixed search_path"},
    ),
    (
        """CREATE FUNCTION ledgermill_api.all_keys() RETURNS SETOF ledgermill.api_key LANGUAGE sql SECURITY DEFINER
           AS 'SELECT * FROM ledgermill.api_key'""",
        FUNCTIONS,
        {"all_keys", "no fixed search_path"},
    ),
    (
        "GRANT EXECUTE ON FUNCTION ledgermill_api.find_keys TO PUBLIC",
        FUNCTIONS,
        {"find_keys", "called by PUBLIC"},
    ),
    (
        "ALTER FUNCTION ledgermill_api.migration OWNER TO ledgermill_worker",
        FUNCTIONS,
        {"migration", "owned by ledgermill_worker"},
    ),
    ("ALTER VIEW ledgermill_api.entry RESET (check_option)", "views_show_one_organization", {"entry"}),
    (
        """CREATE OR REPLACE VIEW ledgermill_api.replay WITH (security_barrier, check_option = local)
           AS SELECT * FROM ledgermill.replay""",
        "views_show_one_organization",
        {"replay"},
    ),
    ("CREATE VIEW ledgermill_api.keys AS SELECT * FROM ledgermill.api_key", "views_show_one_organization", {"keys"}),
    ("DROP VIEW ledgermill_api.day_balance", "views_show_one_organization", {"day_balance"}),
]


def found_after(server: PostgresServer, settings: Settings, done: str, check: str) -> list[set[object]]:
    """The values of each example of this check, after somebody did this."""
    [found] = [result for result in report_after(server, settings, done).checks if result.name == check]
    return [set(example.values()) for example in found.examples]


@pytest.mark.parametrize(("done", "check", "names"), DONE)
def test_what_somebody_did_to_the_catalog_is_found_by_name(
    postgres_server: PostgresServer, shared_settings: Settings, done: str, check: str, names: set[str]
) -> None:
    assert any(names <= example for example in found_after(postgres_server, shared_settings, done, check))


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_is_gone_is_found_by_name(
    postgres_server: PostgresServer, shared_settings: Settings, name: str
) -> None:
    found = found_after(postgres_server, shared_settings, f"DROP INDEX {name}", SAFEGUARDS)

    assert {"index", name} <= found[0]


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, names in CONSTRAINTS.items() for name in names])
def test_a_constraint_that_is_gone_is_found_by_name(
    postgres_server: PostgresServer, shared_settings: Settings, table: str, name: str
) -> None:
    done = f"ALTER TABLE {table} DROP CONSTRAINT {name} CASCADE"

    found = found_after(postgres_server, shared_settings, done, SAFEGUARDS)

    assert any({"constraint", f"{table}.{name}"} <= example for example in found)


def test_all_keys_and_triggers_that_are_gone_are_counted(
    postgres_server: PostgresServer, shared_settings: Settings
) -> None:
    tables = [table.name for table in metadata.tables.values()]
    drops = [f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey CASCADE;" for table in tables]
    drops += [f"DROP TRIGGER {table}_is_insert_only ON {table};" for table in INSERT_ONLY]

    report = report_after(postgres_server, shared_settings, "".join(drops))

    [found] = [result for result in report.checks if result.name == SAFEGUARDS]
    assert found.violations >= len(drops)


def test_a_table_in_partitions_that_have_its_trigger_is_clean(
    postgres_server: PostgresServer, shared_settings: Settings
) -> None:
    report = report_after(postgres_server, shared_settings, PARTITIONED + ON_PARTITION)

    assert failed(report) == set(), report.as_text()


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        ("GRANT ledgermill_api TO ledgermill_worker", "member of ledgermill_api"),
        ("ALTER ROLE ledgermill_api BYPASSRLS", "may more than others"),
    ],
)
def test_a_role_that_may_more_is_found_by_name(
    postgres_server: PostgresServer, shared_settings: Settings, done: str, problem: str
) -> None:
    found = found_after(postgres_server, shared_settings, done, "roles_are_nothing_else")

    assert any(problem in example for example in found)
