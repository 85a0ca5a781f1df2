"""The tables, as the statements of this package name them; the migrations make them, and a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, CHAR, JSONB

SCHEMA = "ledgermill"
API_SCHEMA = "ledgermill_api"  # views of the same names that show one organization

metadata = MetaData(schema=SCHEMA)

MINOR_UNITS = Numeric(38, 0)
MOMENT = DateTime(timezone=True)
CURRENCY = CHAR(3)
SIDE = CHAR(1)

organization = Table(
    "organization",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("organization_uuid", Uuid, nullable=False),
    Column("code", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("base_currency", CURRENCY, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("fiscal_year_start_month", SmallInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("max_future_days", Integer, nullable=False),
    Column("suspense_id", BigInteger, nullable=False),
    Column("created_at", MOMENT, nullable=False),
)

principal = Table(
    "principal",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("principal_id", Integer, primary_key=True),
    Column("principal_uuid", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
)

api_key = Table(
    "api_key",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("key_uuid", Uuid, primary_key=True),
    Column("key_sha256", LargeBinary, nullable=False),
    Column("principal_id", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", MOMENT, nullable=False),
    Column("expires_at", MOMENT),
    Column("revoked_at", MOMENT),
)

currency = Table(
    "currency",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("code", CURRENCY, primary_key=True),
    Column("currency_uuid", Uuid, nullable=False),
    Column("exponent", SmallInteger, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("ledger_id", BigInteger, primary_key=True),
    Column("ledger_uuid", Uuid, nullable=False),
    Column("code", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("type", Text, nullable=False),
    Column("type_code", SmallInteger, nullable=False),
    Column("currency", CURRENCY, nullable=False),
    Column("is_head", Boolean, nullable=False),
    Column("parent_id", BigInteger),
    Column("depth", SmallInteger, nullable=False),
    Column("normal_side", SIDE, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("allow_manual_entry", Boolean, nullable=False),
    Column("balance_floor", Text, nullable=False),
    Column("overdraft_enabled", Boolean, nullable=False),
    Column("overdraft_limit", MINOR_UNITS, nullable=False),
    Column("opening_date", Date),
    Column("closing_date", Date),
    Column("metadata", JSONB),
    Column("created_at", MOMENT, nullable=False),
    Column("created_by", Integer, nullable=False),
    Column("modified_at", MOMENT, nullable=False),
    Column("modified_by", Integer, nullable=False),
    Column("changed_at_version", BigInteger, nullable=False),
)

posting_lock = Table(
    "posting_lock",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("next_position", BigInteger, nullable=False),
    Column("next_rejection", BigInteger, nullable=False),
    Column("next_ledger_id", BigInteger, nullable=False),
    Column("chart_version", BigInteger, nullable=False),
    Column("last_booked_at", MOMENT),
)

balance = Table(
    "balance",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("ledger_id", BigInteger, primary_key=True),
    Column("depth", SmallInteger, nullable=False),
    Column("debits", MINOR_UNITS, nullable=False),
    Column("credits", MINOR_UNITS, nullable=False),
    Column("base_debits", MINOR_UNITS),
    Column("base_credits", MINOR_UNITS),
    Column("held", MINOR_UNITS, nullable=False),
    Column("last_number", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("last_booked_at", MOMENT),
)

day_balance = Table(
    "day_balance",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("ledger_id", BigInteger, primary_key=True),
    Column("value_date", Date, primary_key=True),
    Column("booked_on", Date, primary_key=True),
    Column("debits", MINOR_UNITS, nullable=False),
    Column("credits", MINOR_UNITS, nullable=False),
    Column("base_debits", MINOR_UNITS),
    Column("base_credits", MINOR_UNITS),
)

inbox = Table(
    "inbox",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("batch_id", Uuid, primary_key=True),
    Column("part", SmallInteger, primary_key=True),
    Column("lane", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("jobs", Integer, nullable=False),
    Column("places", ARRAY(Integer)),
    Column("job_keys", ARRAY(Text), nullable=False),
    Column("next_item", Integer, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    Column("accepted_at", MOMENT, nullable=False),
    Column("due_at", MOMENT, nullable=False),
    Column("claimed_at", MOMENT),
    Column("held", Boolean, nullable=False),
    Column("principal_id", Integer, nullable=False),
    Column("correlation", Text),
    Column("message_id", Text),
    Column("last_error", Text),
    Column("claimed_by", Uuid),
    Column("tried_under", ARRAY(Text), nullable=False),
    Column("first_tried_at", MOMENT),
    Column("tried_at", MOMENT),
    Column("alone_until", Integer, nullable=False),
)

worker_release = Table(
    "worker_release",
    metadata,
    Column("release", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("posted_at", MOMENT),
    Column("paused_at", MOMENT),
    Column("resumed_at", MOMENT),
    Column("canary_at", MOMENT),
    Column("problem", Text),
)

job = Table(
    "job",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("job_id", Uuid, primary_key=True),
    Column("idempotency_key", Text(collation="C")),
    Column("fingerprint", LargeBinary),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("accepted_at", MOMENT, nullable=False),
    Column("ended_at", MOMENT, nullable=False),
    Column("principal_id", Integer, nullable=False),
    Column("correlation", Text),
    Column("position", BigInteger),
    Column("type", Text),
    Column("currency", CURRENCY),
    Column("total", MINOR_UNITS),
    Column("base_total", MINOR_UNITS),
    Column("value_date", Date),
    Column("event_at", MOMENT),
    Column("description", Text),
    Column("reference_id", Text),
    Column("metadata", JSONB),
    Column("entry_ledgers", ARRAY(BigInteger)),
    Column("entry_numbers", ARRAY(BigInteger)),
    Column("after_position", BigInteger),
    Column("rejection", BigInteger),
    Column("code", Text),
    Column("message", Text),
    Column("details", Text),
    Column("asked", Text),
)

replay = Table(
    "replay",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("job_id", Uuid, primary_key=True),
    Column("first_job_id", Uuid, nullable=False),
)

mending = Table(
    "mending",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("job_id", Uuid, primary_key=True),
    Column("mended_from", Uuid, nullable=False),
    Column("first_job_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("principal_id", Integer, nullable=False),
    Column("mended_at", MOMENT, nullable=False),
)

entry = Table(
    "entry",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("number", BigInteger, primary_key=True),  # before the ledger: see the migration 0008
    Column("ledger_id", BigInteger, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("line", Integer, nullable=False),
    Column("side", SIDE, nullable=False),
    Column("amount", MINOR_UNITS, nullable=False),
    Column("currency", CURRENCY, nullable=False),
    Column("base_amount", MINOR_UNITS),
    Column("rate", Numeric(20, 10)),
    Column("rate_date", Date),
    Column("rate_source", Text),
    Column("balance_after", MINOR_UNITS, nullable=False),
    Column("value_date", Date, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("quarantine_id", Uuid, primary_key=True),
    Column("received_at", MOMENT, nullable=False),
    Column("queue", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

verification = Table(
    "verification",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("verification_id", BigInteger, Identity(always=True), primary_key=True),
    Column("from_position", BigInteger, nullable=False),
    Column("to_position", BigInteger, nullable=False),
    Column("began_at", MOMENT, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("checks", Integer, nullable=False),
    Column("violations", BigInteger, nullable=False),
    Column("found", JSONB, nullable=False),
)

verified = Table(
    "verified",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("rejection", BigInteger, nullable=False),
    Column("new_clean_at", MOMENT),
    Column("all_clean_at", MOMENT),
)

verified_day = Table(
    "verified_day",
    metadata,
    Column("organization_id", Integer, primary_key=True),
    Column("ledger_id", BigInteger, primary_key=True),
    Column("value_date", Date, primary_key=True),
    Column("booked_on", Date, primary_key=True),
    Column("debits", MINOR_UNITS, nullable=False),
    Column("credits", MINOR_UNITS, nullable=False),
)

requeue = Table(
    "requeue",
    metadata,
    Column("quarantine_id", Uuid, primary_key=True),
    Column("requeued_at", MOMENT, primary_key=True),
    Column("requeued_by", Text, nullable=False),
)
