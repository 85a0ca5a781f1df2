"""`ledgermill organization`: made, listed, paused, resumed, drained."""

import time
from typing import Annotated

import typer

from ledgermill.cli.session import as_role, print_json, print_table
from ledgermill.storage import organizations as stored
from ledgermill.usecases import organizations

POLL_S = 0.2

app = typer.Typer(help="Organizations: each has books of its own.", no_args_is_help=True)

Code = Annotated[str, typer.Argument(metavar="ORGANIZATION", help="The organization's code or id.")]


@app.command()
def create(
    code: Annotated[str, typer.Argument(help="A short name, as acme: it is what messages and commands say.")],
    *,
    name: Annotated[str, typer.Option(help="The full name.")],
    base_currency: Annotated[str, typer.Option(help="By ISO 4217, as EUR. It stays for ever.")],
    time_zone: Annotated[str, typer.Option(help="Days are days there, as in Europe/Prague.")],
    fiscal_year_start_month: Annotated[int, typer.Option(min=1, max=12)] = 1,
) -> None:
    """Open an organization with its suspense ledger, and print its id."""
    with as_role("owner") as runtime, runtime.engine.begin() as tx:
        uuid = organizations.create(
            tx,
            code=code,
            name=name,
            base_currency=base_currency,
            time_zone=time_zone,
            fiscal_year_start_month=fiscal_year_start_month,
        )
    typer.echo(uuid)


@app.command("list")
def list_all(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all organizations by code."""
    with as_role("owner") as runtime, runtime.engine.connect() as tx:
        rows = stored.list_all(tx)
    fields = ("code", "name", "base_currency", "time_zone", "state", "organization_uuid")
    if as_json:
        print_json([{field: row[field] for field in fields} for row in rows])
    else:
        print_table(
            ("code", "name", "base", "time zone", "state", "id"), [[row[name] for name in fields] for row in rows]
        )


@app.command()
def pause(organization: Code) -> None:
    """Accept jobs, but post none until it is resumed."""
    _set_state(organization, "paused")
    typer.echo(f"{organization} is paused; jobs are accepted and wait.")


@app.command()
def resume(organization: Code) -> None:
    """Post again, also what arrived meanwhile."""
    _set_state(organization, "active")
    with as_role("worker") as runtime:
        with runtime.engine.connect() as tx:
            uuid = stored.find(tx, organization)["organization_uuid"]
        runtime.broker.ring_for(uuid)
    typer.echo(f"{organization} is active.")


@app.command()
def drain(
    organization: Code, *, wait: Annotated[bool, typer.Option(help="Return once no accepted job waits.")] = False
) -> None:
    """Accept no new jobs, and work off those that are accepted. Says how many still wait."""
    waiting = _set_state(organization, "draining")
    typer.echo(f"{organization} is draining; accepted jobs that still wait: {waiting}")
    if not wait:
        return
    with as_role("owner") as runtime:
        with runtime.engine.connect() as tx:
            organization_id = stored.find(tx, organization)["organization_id"]
        while waiting:
            time.sleep(POLL_S)
            with runtime.engine.connect() as tx:
                waiting = stored.waiting_jobs(tx, organization_id)
    typer.echo(f"{organization} is drained.")


def _set_state(organization: str, state: str) -> int:
    with as_role("owner") as runtime, runtime.engine.begin() as tx:
        return organizations.set_state(tx, organization, state)
