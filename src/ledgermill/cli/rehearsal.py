"""`ledgermill rejected dry-run`: what would become of a job today."""

from typing import Annotated
from uuid import UUID

import typer

from ledgermill.cli.selection import AsJson, File, OrganizationName, Set, open_books, read_changes, read_file
from ledgermill.cli.session import print_json, print_table
from ledgermill.messages.rejected import RehearsalV1
from ledgermill.runtime import now
from ledgermill.usecases import rehearsal


def dry_run(
    job: Annotated[UUID, typer.Argument(help="The job's id.")],
    *,
    organization: OrganizationName = None,
    changes: Set = None,
    file: File = None,
    as_json: AsJson = False,
) -> None:
    """Would it post now? Plans it, as it was or mended, against today's books, and writes nothing.

    Exit code 1 where it would be refused.
    """
    with open_books(organization) as books, books.reading() as tx:
        found = rehearsal.rehearse(
            tx, books.organization_id, job, now=now(), patch=read_changes(changes), replacement=read_file(file)
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)
    if not found.would_post:
        raise typer.Exit(1)


def _print(found: RehearsalV1) -> None:
    if found.error is not None:
        typer.echo(f"Would be refused: {found.error.code}: {found.error.message}")
    if (journal := found.journal) is None:
        return
    when = "" if found.due_at is None or found.due_at <= found.as_of else f", once it is due at {found.due_at}"
    typer.echo(
        f"Would post{when}: {journal.type}, {journal.total_amount} minor units of {journal.currency_code}, "
        f"value date {journal.value_date}"
    )
    print_table(
        ("side", "amount", "ledger", "balance after"),
        [[entry.type, entry.amount, entry.ledger_code, entry.balance_after] for entry in journal.entries],
    )
    typer.echo("")
    print_table(
        ("ledger", "head", "balance now", "balance after"),
        [[each.ledger_code, "head" if each.is_head else "", each.before, each.after] for each in journal.balances],
    )
