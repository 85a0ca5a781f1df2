"""Entries keyed by number before ledger, so that posting stays fast while the books grow."""

from pathlib import Path
from typing import cast

import psycopg
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    connection = cast("psycopg.Connection", op.get_bind().connection.driver_connection)
    connection.execute(statements)  # as one script: SQLAlchemy would look for parameters in it
