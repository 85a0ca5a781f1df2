"""Migrations: bring a database to what this release needs, once, whoever asks and however often."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from ledgermill.storage.tables import SCHEMA

UPGRADE_LOCK = 0x1ED6E7  # any number that no other program on this database takes


def upgrade(engine: Engine) -> str:
    """Apply what is missing, in one transaction, and return the revision. Safe to run twice, and while workers run.

    A table that is in use is waited for 3 s at most, so that a migration cannot stop the traffic behind it; another
    upgrade is waited for until it is done.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        connection.execute(text("SET LOCAL lock_timeout = '3s'"))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return newest()


def newest() -> str:
    """The revision that this release needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("The package holds no migrations.")
    return revision


def current(engine: Engine) -> str | None:
    """The revision of this database; None where there is none yet. Needs the owner's or the worker's login."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version", schema=SCHEMA):
            return None
        return connection.execute(text(f"SELECT version_num FROM {SCHEMA}.alembic_version")).scalar()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
