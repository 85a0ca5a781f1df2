"""The books: every table, role, view and grant of the first release."""

from pathlib import Path
from typing import cast

import psycopg
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    connection = cast("psycopg.Connection", op.get_bind().connection.driver_connection)
    connection.execute(statements)  # as one script: SQLAlchemy would look for parameters in it


def downgrade() -> None:
    raise RuntimeError("The first migration is not undone: drop the database instead.")
