"""Database roles: what each service may log in as. The migrations make them and say what they may do."""

from collections.abc import Mapping
from typing import Final

from psycopg import sql

from ledgermill.storage.connections import Transaction

WORKER: Final = "ledgermill_worker"
API: Final = "ledgermill_api"
READ_ONLY: Final = "ledgermill_readonly"
LOGINS: Final = (WORKER, API, READ_ONLY)


def set_passwords(tx: Transaction, passwords: Mapping[str, str]) -> None:
    """Let these roles log in, each with its password; the caller's login must own them."""
    for role, password in passwords.items():
        statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
        tx.exec_driver_sql(statement.as_string())
