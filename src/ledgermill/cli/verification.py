"""`ledgermill verify`: whether the books are right."""

from typing import Annotated

import typer

from ledgermill.cli.session import as_role, print_json
from ledgermill.usecases.verify import verify as verify_books

app = typer.Typer(help="Check the books.")


@app.command()
def verify(
    *,
    organization: Annotated[str | None, typer.Option(help="Code or id; all organizations by default.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only what was posted after this position, or after the `last` clean run by beat."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check in one read-only snapshot that the books are right. Exit code 0: clean, 1: not, 2: the database is away."""
    start = int(since) if since and since.isdecimal() else since
    if isinstance(start, str) and start != "last":
        raise typer.BadParameter("a position, as 1000, or last", param_hint="--since")
    with as_role("readonly") as runtime:
        report = verify_books(runtime.engine, organization=organization, since=start)
    if as_json:
        print_json(report.as_json())
    else:
        typer.echo(report.as_text())
    if not report.is_clean:
        raise typer.Exit(1)
