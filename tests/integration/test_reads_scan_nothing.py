"""The status API's reads take an index, whatever the size of the books and however often a statement was prepared."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine, event

from ledgermill.config import Settings
from ledgermill.messages.fields import read_reference
from ledgermill.runtime import Runtime, now
from ledgermill.storage import connections, outcomes
from ledgermill.storage.tables import API_SCHEMA, SCHEMA
from ledgermill.usecases import jobs, journals, ledgers, organizations
from ledgermill.usecases.organizations import hash_key

JOBS = 200_000
LEAVES = 1_000
ENTRIES_OF_THE_LONG_JOURNAL = 50
SLOWEST_MS = 20.0
LARGE = {"job", "entry", "ledger", "balance"}

# Two entries a journal: one on one of a thousand leaves, one on the hot leaf 5. Between them 200 jobs are rejected.
FILL = f"""
    CREATE FUNCTION pg_temp.job_id(n int, place int DEFAULT 0) RETURNS uuid LANGUAGE sql IMMUTABLE
        AS $$ SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '700080000000' || lpad(to_hex(place), 4, '0') || '0000')::uuid $$;
    INSERT INTO ledgermill.ledger (organization_id, ledger_id, ledger_uuid, code, number, name, type, type_code, currency,
                                   is_head, parent_id, depth, normal_side, balance_floor, created_by, modified_by,
                                   changed_at_version)
        SELECT o.organization_id, n, md5(o.organization_id || 'l' || n)::uuid, 'L' || n, 1010000000 + n, 'L' || n, 'asset',
               101, 'USD', n <= 4, CASE WHEN n = 2 THEN NULL WHEN n <= 4 THEN n - 1 ELSE 4 END, least(n - 2, 3), 'D', 'none', 1, 1, 2
        FROM ledgermill.organization o, generate_series(2, {LEAVES} + 10) n;
    INSERT INTO ledgermill.balance (organization_id, ledger_id, depth, last_number)
        SELECT organization_id, ledger_id, depth, CASE WHEN ledger_id = 5 THEN {JOBS} ELSE 0 END FROM ledgermill.ledger WHERE ledger_id > 1;
    INSERT INTO ledgermill.job (organization_id, job_id, idempotency_key, fingerprint, kind, state, accepted_at, ended_at,
                                principal_id, position, type, currency, total, value_date, reference_id, entry_ledgers,
                                entry_numbers)
        SELECT 1, pg_temp.job_id(n), 'key' || n, sha256(n::text::bytea), 'post_journal', 'posted', now(), now(), 1, n,
               'journal', 'USD', 1, '2026-01-01', 'R' || n / 3, ARRAY[10 + n % {LEAVES}, 5], ARRAY[n / {LEAVES} + 1, n]
        FROM generate_series(1, {JOBS}) n;
    INSERT INTO ledgermill.job (organization_id, job_id, idempotency_key, kind, state, accepted_at, ended_at, principal_id,
                                after_position, rejection, code, message, details, asked)
        SELECT 1, pg_temp.job_id(n, 1), 'bad' || n, 'post_journal', 'rejected', now(), now(), 1, n, n / 1000, 'UNBALANCED',
               'no', '{{}}', '{{}}'
        FROM generate_series(1000, {JOBS}, 1000) n;
    INSERT INTO ledgermill.entry (organization_id, ledger_id, number, position, line, side, amount, currency,
                                  balance_after, value_date)
        SELECT 1, CASE line WHEN 1 THEN 10 + n % {LEAVES} ELSE 5 END, CASE line WHEN 1 THEN n / {LEAVES} + 1 ELSE n END, n,
               line, CASE line WHEN 1 THEN 'D' ELSE 'C' END, 1, 'USD', n, '2026-01-01'
        FROM generate_series(1, {JOBS}) n, generate_series(1, 2) line;
    INSERT INTO ledgermill.entry (organization_id, ledger_id, number, position, line, side, amount, currency,
                                  balance_after, value_date)
        SELECT 1, 10 + line, 1000000, {JOBS} + 1, line, CASE line % 2 WHEN 1 THEN 'D' ELSE 'C' END, 1, 'USD', 0, '2026-01-01'
        FROM generate_series(1, {ENTRIES_OF_THE_LONG_JOURNAL}) line;
    INSERT INTO ledgermill.job (organization_id, job_id, idempotency_key, kind, state, accepted_at, ended_at, principal_id,
                                position, type, currency, total, value_date, entry_ledgers, entry_numbers)
        SELECT 1, pg_temp.job_id({JOBS} + 1), 'long', 'post_journal', 'posted', now(), now(), 1, {JOBS} + 1, 'journal', 'USD', 25,
               '2026-01-01', array_agg(10 + line), array_agg(1000000)
        FROM generate_series(1, {ENTRIES_OF_THE_LONG_JOURNAL}) line;
    ANALYZE;
"""


class Asked(NamedTuple):
    """A statement as the API sent it."""

    statement: str
    parameters: dict[str, Any]


@pytest.fixture(scope="module")
def engine(shared_settings: Settings) -> Iterator[Engine]:
    """The database as the API's role, with statements on its views."""
    owner = Runtime(shared_settings, role="owner")
    with owner.engine.begin() as tx:
        for code in ("acme", "other"):
            organizations.create(tx, code=code, name=code, base_currency="USD", time_zone="UTC")
        raw: Any = tx.connection.driver_connection
        raw.execute(FILL)  # as one script
    owner.close()
    made = connections.engine(shared_settings.url_of("api"))
    yield made.execution_options(schema_translate_map={SCHEMA: API_SCHEMA})
    made.dispose()


@pytest.fixture(scope="module")
def key(shared_settings: Settings, engine: Engine) -> str:
    """The secret of a key of the organization that has the jobs."""
    owner = Runtime(shared_settings, role="owner")
    with owner.engine.begin() as tx:
        made = organizations.create_key(tx, "acme", name="test", scopes=["read"], expires_at=None)
    owner.close()
    return made.secret


def job_id(number: int) -> UUID:
    return UUID(f"{1_700_000_000_000 + number:012x}70008000{0:012x}")


def reference(name: object) -> Any:
    return read_reference(str(name))


Read = Callable[[Connection], Any]
READS: dict[str, Read] = {
    "job by id": lambda tx: jobs.status(tx, 1, job_id(77), now=now()),
    "job by key": lambda tx: jobs.lookup(tx, 1, ["key77"], now=now()),
    "jobs by a thousand keys": lambda tx: jobs.lookup(tx, 1, [f"key{n * 150}" for n in range(1_000)], now=now()),
    "jobs by reference": lambda tx: jobs.list_jobs(tx, 1, now=now(), limit=100, reference_id="R77"),
    "jobs, newest": lambda tx: jobs.list_jobs(tx, 1, now=now(), limit=100),
    "jobs before one": lambda tx: jobs.list_jobs(tx, 1, now=now(), limit=100, before=job_id(90_000)),
    "jobs of a kind": lambda tx: jobs.list_jobs(tx, 1, now=now(), limit=100, kind="post_journal"),
    "jobs of a kind that none is of": lambda tx: jobs.list_jobs(tx, 1, now=now(), limit=9, kind="update_balance"),
    "jobs of a state": lambda tx: jobs.list_jobs(tx, 1, now=now(), limit=100, states=["rejected"]),
    "jobs of a state before one": lambda tx: jobs.list_jobs(
        tx, 1, now=now(), limit=10, states=["rejected"], before=job_id(90_000)
    ),
    "jobs of a state that none is in": lambda tx: jobs.list_jobs(tx, 1, now=now(), limit=10, states=["quarantined"]),
    "jobs of a batch": lambda tx: jobs.list_jobs(tx, 1, now=now(), limit=100, batch_id=job_id(77)),
    "a batch": lambda tx: jobs.batch(tx, 1, job_id(77), now=now()),
    "outcomes from the beginning": lambda tx: jobs.outcomes(tx, 1, after="0", limit=100),
    "outcomes in the middle": lambda tx: jobs.outcomes(tx, 1, after="90000-90", limit=100),
    "outcomes at the end": lambda tx: jobs.outcomes(tx, 1, after=f"{JOBS + 1}-200", limit=100),
    "entries of the hot ledger": lambda tx: ledgers.entries_of(tx, 1, reference("L5"), below_number=None, limit=100),
    "entries below a number": lambda tx: ledgers.entries_of(tx, 1, reference("L5"), below_number=90_000, limit=100),
    "entries of a ledger without": lambda tx: ledgers.entries_of(tx, 1, reference("L3"), below_number=None, limit=9),
    "ledger by code": lambda tx: ledgers.show(tx, 1, reference("L77")),
    "ledger by number": lambda tx: ledgers.show(tx, 1, reference(1010000077)),
    "ledger by id": lambda tx: ledgers.show(tx, 1, reference(ledgers.show(tx, 1, reference("L9")).id)),
    "balance": lambda tx: ledgers.balance(tx, 1, reference("L77")),
    "children": lambda tx: ledgers.children(tx, 1, reference("L3"), after_code="", limit=100),
    "children of the wide head": lambda tx: ledgers.children(tx, 1, reference("L4"), after_code="L5", limit=100),
    "ledgers after a code": lambda tx: ledgers.list_ledgers(tx, 1, after_code="L5", limit=100),
}


def asked_by(engine: Engine, read: Read) -> list[Asked]:
    """The statements that a use case sends."""
    asked: list[Asked] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if API_SCHEMA in statement and "set_config" not in statement:
            asked.append(Asked(statement, dict(parameters)))

    with engine.connect() as tx:
        connections.show_organization(tx, 1)
        event.listen(tx, "before_cursor_execute", note)
        read(tx)
        event.remove(tx, "before_cursor_execute", note)
    return asked


def explain(tx: Connection, asked: Asked, *, is_generic: bool) -> dict[str, Any]:
    """The plan of a prepared statement, made for its parameters or, as the server does in time, for any; and its time."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", asked.statement)))
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", asked.statement)
    raw: Any = tx.connection.driver_connection
    raw.execute(f"SET LOCAL plan_cache_mode = force_{'generic' if is_generic else 'custom'}_plan")
    raw.execute(f"PREPARE asked AS {numbered}".replace("%%", "%"), prepare=False)
    values = sql.SQL(", ").join(sql.Literal(asked.parameters[name]) for name in names)
    statement = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked({})").format(values)
    plans = [raw.execute(statement).fetchone()[0][0] for _ in range(3)]
    raw.execute("DEALLOCATE asked")
    return dict(min(plans, key=lambda plan: plan["Execution Time"]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


@pytest.mark.parametrize("is_generic", [False, True], ids=["planned for its values", "planned for any values"])
@pytest.mark.parametrize("name", READS)
def test_a_read_takes_an_index_and_no_time(engine: Engine, name: str, is_generic: bool) -> None:
    statements = asked_by(engine, READS[name])

    assert statements
    for asked in statements:
        with engine.connect() as tx:
            connections.show_organization(tx, 1)
            plan = explain(tx, asked, is_generic=is_generic)
        scanned = [
            node["Relation Name"]
            for node in nodes(plan["Plan"])
            if node["Node Type"] == "Seq Scan" and node.get("Relation Name") in LARGE
        ]
        assert not scanned, f"{asked.statement}\n{json.dumps(plan, indent=1)}"
        assert plan["Execution Time"] < SLOWEST_MS, f"{asked.statement}\n{json.dumps(plan, indent=1)}"


@pytest.mark.parametrize(("number", "entries"), [(77, 2), (JOBS + 1, ENTRIES_OF_THE_LONG_JOURNAL)])
def test_an_outcome_takes_an_index_and_no_time(engine: Engine, key: str, number: int, entries: int) -> None:
    statement = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + outcomes.FIND.replace("%b", "%s")
    with engine.connect() as tx:
        raw: Any = tx.connection.driver_connection
        for _ in range(8):  # also by the plan that the server keeps in time
            plan = raw.execute(statement, [[hash_key(key)], [job_id(number)]]).fetchone()[0][0]

    assert plan["Execution Time"] < SLOWEST_MS, json.dumps(plan)
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 50 + 10 * entries, json.dumps(plan)


def test_the_long_journal_is_read_whole(shared_settings: Settings, engine: Engine, key: str) -> None:
    async def find() -> outcomes.Outcome | None:
        async with (
            connections.api_statements(shared_settings.url_of("api")) as statements,
            statements.connection() as connection,
        ):
            return (await outcomes.find(connection, [(hash_key(key), job_id(JOBS + 1))]))[0]

    shown = journals.journal(job_id(JOBS + 1), asyncio.run(find()))

    assert [entry.line for entry in shown.entries] == list(range(1, ENTRIES_OF_THE_LONG_JOURNAL + 1))
