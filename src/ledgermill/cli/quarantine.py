"""`ledgermill quarantine`: messages that were not ours or could not be read."""

import sys
from typing import Annotated
from uuid import UUID

import typer

from ledgermill.cli.session import as_role, print_json, print_table, user_name
from ledgermill.errors import InvalidField, QuarantineNotFound
from ledgermill.runtime import now
from ledgermill.storage import quarantine as stored
from ledgermill.usecases import quarantine

AT_ONCE = 100

app = typer.Typer(help="Messages set aside because nobody could read them.", no_args_is_help=True)

Code = Annotated[str | None, typer.Option(help="Only of this code, as ORGANIZATION_NOT_FOUND.")]


@app.command("list")
def list_newest(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 100,
    code: Code = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the newest messages in quarantine, and when each was last given back to its queue."""
    with as_role("owner") as runtime, runtime.engine.connect() as tx:
        rows = stored.newest(tx, limit=limit, code=code)
    fields = ("quarantine_id", "received_at", "queue", "code", "requeued_at", "reason")
    if as_json:
        print_json([{**{field: row[field] for field in fields}, "bytes": len(row["body"])} for row in rows])
    else:
        heads = ("id", "received", "queue", "code", "requeued", "bytes", "reason")
        print_table(heads, [[*(row[name] for name in fields[:5]), len(row["body"]), row["reason"]] for row in rows])


@app.command()
def show(message: Annotated[UUID, typer.Argument(help="The message's id.")]) -> None:
    """Write the raw bytes of a message to standard output."""
    with as_role("owner") as runtime, runtime.engine.connect() as tx:
        body = stored.body(tx, message)
    if body is None:
        raise QuarantineNotFound(message=message)
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


@app.command()
def requeue(
    message: Annotated[UUID | None, typer.Argument(help="The message's id.")] = None,
    *,
    code: Code = None,
) -> None:
    """Give a message back to its queue, as after its organization was created; or all of a code that never were.

    It stays in quarantine, with a note of it. However often one is given back, its jobs are settled once.
    """
    if (message is None) == (code is None):
        raise InvalidField(field="MESSAGE", problem="name one message, or those of a --code")
    with as_role("owner") as runtime:
        if message is not None:
            queue = quarantine.requeue(runtime, message, by=user_name(), at=now())
            typer.echo(f"{message} is in the queue {queue} again.")
            return
        given_back, after = 0, UUID(int=0)
        while True:
            with runtime.engine.connect() as tx:
                these = stored.waiting(tx, code=str(code), after=after, limit=AT_ONCE)
            if not these:
                break
            for each in these:
                quarantine.requeue(runtime, each, by=user_name(), at=now())
            given_back, after = given_back + len(these), these[-1]
        typer.echo(f"Given back: {given_back}")
