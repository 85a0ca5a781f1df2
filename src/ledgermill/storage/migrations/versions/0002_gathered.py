"""Functions that answer, or accept, what many requests of the API ask for at one moment."""

from pathlib import Path
from typing import cast

import psycopg
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    connection = cast("psycopg.Connection", op.get_bind().connection.driver_connection)
    connection.execute(statements)  # as one script: SQLAlchemy would look for parameters in it
