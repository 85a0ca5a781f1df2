"""`ledgermill quarantine`: messages that were not ours or could not be read."""

import sys
from typing import Annotated
from uuid import UUID

import typer

from ledgermill.cli.session import as_role, print_json, print_table
from ledgermill.errors import NotFound
from ledgermill.storage import quarantine

app = typer.Typer(help="Messages set aside because nobody could read them.", no_args_is_help=True)


class QuarantineNotFound(NotFound):
    code = "QUARANTINE_NOT_FOUND"
    sentence = "There is no message {message} in quarantine."


@app.command("list")
def list_newest(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the newest messages in quarantine."""
    with as_role("owner") as runtime, runtime.engine.connect() as tx:
        rows = quarantine.newest(tx, limit=limit)
    fields = ("quarantine_id", "received_at", "queue", "code", "reason")
    if as_json:
        print_json([{**{field: row[field] for field in fields}, "bytes": len(row["body"])} for row in rows])
    else:
        heads = ("id", "received", "queue", "code", "bytes", "reason")
        print_table(heads, [[*(row[name] for name in fields[:4]), len(row["body"]), row["reason"]] for row in rows])


@app.command()
def show(message: Annotated[UUID, typer.Argument(help="The message's id.")]) -> None:
    """Write the raw bytes of a message to standard output."""
    with as_role("owner") as runtime, runtime.engine.connect() as tx:
        body = quarantine.body(tx, message)
    if body is None:
        raise QuarantineNotFound(message=message)
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
