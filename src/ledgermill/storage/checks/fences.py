"""What the migrations make to keep the promises, as the catalog has to show it; keys and NOT NULLs are in `tables.py`.

A migration that makes or grants something says so here too: until then `ledgermill verify` reports it.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from ledgermill.storage.roles import API, READ_ONLY, WORKER
from ledgermill.storage.tables import metadata

INSERT_ONLY: Final = ("job", "entry", "mending", "requeue", "verification")
NOT_READ: Final = ("api_key",)  # hashes of keys: the owner's alone
NO_TABLES_OF_OURS: Final = ("alembic_version",)

# Each with the promise that it keeps even where the code is wrong.
CONSTRAINTS: Final = {
    "job": {  # nothing twice
        "job_key_is_bound_once": "UNIQUE (organization_id, idempotency_key)",
        "job_position_is_given_once": 'UNIQUE (organization_id, "position")',
    },
    "entry": {"entry_amount_is_positive": "CHECK ((amount > (0)::numeric))"},
    "ledger": {  # a name leads to one ledger, and a parent is there
        "ledger_uuid_is_unique": "UNIQUE (organization_id, ledger_uuid)",
        "ledger_code_is_unique": "UNIQUE (organization_id, code)",
        "ledger_number_is_unique": "UNIQUE (organization_id, number)",
        "ledger_parent_exists": "FOREIGN KEY (organization_id, parent_id) REFERENCES"
        " ledgermill.ledger(organization_id, ledger_id) DEFERRABLE INITIALLY DEFERRED",
        "ledger_normal_side_is_known": "CHECK ((normal_side = ANY (ARRAY['D'::bpchar, 'C'::bpchar])))",
        "ledger_floor_is_known": "CHECK ((balance_floor = ANY (ARRAY['limit'::text, 'none'::text])))",
        "ledger_overdraft_is_not_negative": "CHECK ((overdraft_limit >= (0)::numeric))",
        "ledger_type_is_known": "CHECK ((type = ANY (ARRAY['asset'::text, 'liability'::text, 'equity'::text,"
        " 'income'::text, 'expense'::text])))",
        "ledger_number_has_10_digits": "CHECK (((number >= 1) AND (number <= '9999999999'::bigint)))",
    },
    "organization": {
        "organization_uuid_is_unique": "UNIQUE (organization_uuid)",
        "organization_code_is_unique": "UNIQUE (code)",
        "organization_state_is_known": "CHECK ((state = ANY (ARRAY['active'::text, 'paused'::text,"
        " 'draining'::text])))",
    },
    "principal": {
        "principal_is_named_once": "UNIQUE (organization_id, kind, name)",
        "principal_kind_is_known": "CHECK ((kind = ANY (ARRAY['broker'::text, 'key'::text, 'cli'::text])))",
    },
    "currency": {"currency_uuid_is_unique": "UNIQUE (organization_id, currency_uuid)"},
    "mending": {  # what was refused is sent again once
        "mending_is_counted_once": "UNIQUE (organization_id, first_job_id, number)",
        "mending_number_counts_from_1": "CHECK ((number >= 1))",
        "mending_leads_to_another_job": "CHECK (((job_id <> mended_from) AND (job_id <> first_job_id)))",
    },
    "verification": {"verification_kind_is_known": "CHECK ((kind = ANY (ARRAY['new'::text, 'all'::text])))"},
}
INDEXES: Final = {
    "api_key_sha256": "UNIQUE USING btree (key_sha256)",  # a key opens one organization
    "inbox_due": "USING btree (due_at, batch_id)",  # without it the sweep is too slow to lose nothing
    "job_unposted": "USING btree (organization_id, rejection) WHERE (state <> 'posted'::text)",
    "job_unposted_by_id": "USING btree (organization_id, job_id) WHERE (state <> 'posted'::text)",
    "job_reference": "USING btree (organization_id, reference_id, job_id) WHERE (reference_id IS NOT NULL)",
    "job_of_seldom_kind": "USING btree (organization_id, job_id) WHERE (kind <> 'post_journal'::text)",
    "ledger_parent": "USING btree (organization_id, parent_id)",
    "ledger_changed": "USING btree (organization_id, changed_at_version)",  # workers hear of changes by it
}
# Beyond reading, on tables and on the views of the same names that show the api role one organization.
TABLE_GRANTS: Final = {
    "INSERT": ("job", "entry", "replay", "quarantine", "principal", "day_balance", "inbox", "worker_release",
               "verification", "verified", "verified_day"),
    "UPDATE": ("day_balance", "balance", "posting_lock", "inbox", "worker_release", "verified", "verified_day"),
    "DELETE": ("inbox", "verified_day"),
}  # fmt: skip
VIEWS: Final = ("organization", "principal", "currency", "ledger", "posting_lock", "balance", "day_balance", "inbox",
                "job", "replay", "entry", "mending")  # fmt: skip
VIEW_GRANTS: Final = {
    "INSERT": ("inbox", "ledger", "currency", "mending", "balance.organization_id", "balance.ledger_id",
               "balance.depth"),
    "UPDATE": ("currency.currency_uuid", "posting_lock.next_ledger_id", "posting_lock.chart_version", "ledger.active",
               "ledger.modified_at", "ledger.modified_by", "ledger.changed_at_version"),
}  # fmt: skip


class Fence(NamedTuple):
    """Something that the catalog must show, by its kind, its name, and how PostgreSQL writes it out."""

    kind: str
    name: str
    definition: str


class Grant(NamedTuple):
    """What a role may do with a table, a view, or a column of one."""

    role: str
    privilege: str
    on: str


def fences() -> Iterator[Fence]:
    """All that must be in force."""
    for table in metadata.tables.values():
        key = ", ".join(
            f'"{column.name}"' if column.name == "position" else column.name for column in table.primary_key
        )
        yield Fence("primary key", table.name, f"PRIMARY KEY ({key})")
        for column in table.columns:
            if not column.nullable:
                yield Fence("not null", f"{table.name}.{column.name}", "NOT NULL")
    for table_name, constraints in CONSTRAINTS.items():
        for name, definition in constraints.items():
            yield Fence("constraint", f"{table_name}.{name}", definition)
    for name, definition in INDEXES.items():
        yield Fence("index", name, definition)
    for table_name in INSERT_ONLY:
        yield Fence(
            "trigger",
            f"{table_name}.{table_name}_is_insert_only",
            "BEFORE DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT",
        )


def grants() -> Iterator[Grant]:
    """All that service roles may do."""
    tables = {*(table.name for table in metadata.tables.values()), *NO_TABLES_OF_OURS} - set(NOT_READ)
    for role in (WORKER, READ_ONLY):
        yield Grant(role, "USAGE", "ledgermill")
        yield from (Grant(role, "SELECT", f"ledgermill.{table}") for table in tables)
    for privilege, names in TABLE_GRANTS.items():
        yield from (Grant(WORKER, privilege, f"ledgermill.{name}") for name in names)
    yield Grant(API, "USAGE", "ledgermill_api")
    yield from (Grant(API, "SELECT", f"ledgermill_api.{view}") for view in VIEWS)
    for privilege, names in VIEW_GRANTS.items():
        yield from (Grant(API, privilege, f"ledgermill_api.{name}") for name in names)
