"""`ledgermill ledger`: opened one by one or as a whole chart, activated and deactivated."""

from pathlib import Path
from typing import Annotated

import typer

from ledgermill.cli.files import read_text
from ledgermill.cli.session import as_role, principal_id
from ledgermill.messages.fields import read_reference
from ledgermill.messages.ledgers import read_chart, read_ledger
from ledgermill.storage import organizations
from ledgermill.usecases import charts

app = typer.Typer(help="Ledgers: the accounts of an organization's books, as a tree.", no_args_is_help=True)

Organization = Annotated[str, typer.Argument(help="The organization's code or id.")]
Reference = Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger's code, 10-digit number or id.")]


@app.command("open")
def open_one(
    organization: Organization,
    code: Annotated[str, typer.Argument(help="The ledger's code, unique in the organization.")],
    *,
    name: Annotated[str | None, typer.Option(help="By default the code.")] = None,
    description: Annotated[str | None, typer.Option()] = None,
    ledger_type: Annotated[
        str | None, typer.Option("--type", help="asset, liability, equity, income or expense; by default the parent's.")
    ] = None,
    type_code: Annotated[int | None, typer.Option(help="3 digits, the first of which says the type.")] = None,
    parent: Annotated[str | None, typer.Option(help="The head above it: code, number or id.")] = None,
    head: Annotated[bool, typer.Option("--head", help="It groups other ledgers and takes no entries.")] = False,
    currency: Annotated[str | None, typer.Option(help="By default the base currency.")] = None,
    number: Annotated[int | None, typer.Option(help="The 10-digit number; given out by default.")] = None,
) -> None:
    """Open one ledger and print its id."""
    item: dict[str, object] = {"code": code, "is_head": head}
    optional = {
        "name": name,
        "description": description,
        "type": ledger_type,
        "type_code": type_code,
        "currency_code": currency,
        "ledger_num_id": number,
    }
    item |= {field: value for field, value in optional.items() if value is not None}
    if parent is not None:
        named = read_reference(parent)
        names = {
            "parent_ledger_id": named.uuid,
            "parent_ledger_code": named.code,
            "parent_ledger_num_id": named.number,
        }
        item |= {field: value for field, value in names.items() if value is not None}
    new = read_ledger(item)
    with as_role("owner") as runtime, runtime.engine.begin() as tx:
        organization_id = organizations.find(tx, organization)["organization_id"]
        acting = principal_id(tx, organization_id)
        typer.echo(charts.open_ledger(tx, organization_id, new, principal_id=acting))


@app.command("import")
def import_chart(
    organization: Organization,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
) -> None:
    """Open a whole chart from a .csv, .json or .jsonl file: parents in any order, all or nothing.

    CSV has a header of the API's field names (code, name, type, type_code, is_head, parent_ledger_code, currency_code,
    ledger_num_id ...); JSON is a list of such objects, JSON lines one object a line.
    """
    items = list(read_chart(read_text(file.read_bytes()), is_csv=file.suffix.lower() == ".csv"))
    with as_role("owner") as runtime, runtime.engine.begin() as tx:
        organization_id = organizations.find(tx, organization)["organization_id"]
        acting = principal_id(tx, organization_id)
        opened = charts.open_chart(tx, organization_id, items, principal_id=acting)
    typer.echo(f"Ledgers opened: {len(opened)}")


@app.command()
def activate(organization: Organization, ledger: Reference) -> None:
    """Let a ledger take entries again."""
    _set_active(organization, ledger, active=True)
    typer.echo(f"{ledger} is active.")


@app.command()
def deactivate(organization: Organization, ledger: Reference) -> None:
    """Let a ledger take no more entries."""
    _set_active(organization, ledger, active=False)
    typer.echo(f"{ledger} is not active.")


def _set_active(organization: str, ledger: str, *, active: bool) -> None:
    with as_role("owner") as runtime, runtime.engine.begin() as tx:
        organization_id = organizations.find(tx, organization)["organization_id"]
        acting = principal_id(tx, organization_id)
        charts.set_active(tx, organization_id, read_reference(ledger), active=active, principal_id=acting)
