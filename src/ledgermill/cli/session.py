"""What commands share: a runtime of one role, the principal that acts, and how results are printed."""

import getpass
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import typer

from ledgermill.cli.machine_state import as_running
from ledgermill.config import settings
from ledgermill.observability import configure_logging
from ledgermill.runtime import Role, Runtime
from ledgermill.storage import organizations, posting_lock
from ledgermill.storage.connections import Transaction


@contextmanager
def as_role(role: Role) -> Iterator[Runtime]:
    """A runtime that logs in as this role, until the command ends.

    Where no DATABASE_URL or BROKER_URL is set, the servers are those of `ledgermill up` in LEDGERMILL_HOME.
    """
    configure_logging(level="WARNING", as_json=False)
    runtime = Runtime(as_running(settings()), role=role)
    try:
        yield runtime
    finally:
        runtime.close()


def principal_id(tx: Transaction, organization_id: int) -> int:
    """Who acts: the user of the operating system, as a principal of the organization."""
    posting_lock.take(tx, organization_id)
    return organizations.principal_id(tx, organization_id, kind="cli", name=user_name(), new_uuid=uuid4())


def user_name() -> str:
    """The user of the operating system; containers run as numbers that have no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unnamed"


def print_json(value: object) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print aligned columns, as wide as they need to be."""
    lines = [[str(head).upper() for head in heads], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
