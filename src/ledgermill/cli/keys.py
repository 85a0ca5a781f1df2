"""`ledgermill key`: API keys made, listed, revoked."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

import typer

from ledgermill.cli.session import as_role, print_json, print_table
from ledgermill.runtime import now
from ledgermill.storage import api_keys
from ledgermill.storage import organizations as stored
from ledgermill.usecases import organizations

app = typer.Typer(help="API keys: shown once, stored hashed, with scopes and expiry.", no_args_is_help=True)

Organization = Annotated[str, typer.Argument(help="The organization's code or id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    organization: Organization,
    *,
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option(help=f"Repeat for several: {', '.join(organizations.SCOPES)}.")],
    expires_in_days: Annotated[int | None, typer.Option(min=1, help="Never by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print its secret, this once."""
    expires_at = None if expires_in_days is None else now() + timedelta(days=expires_in_days)
    with as_role("owner") as runtime, runtime.engine.begin() as tx:
        key = organizations.create_key(tx, organization, name=name, scopes=set(scope), expires_at=expires_at)
    if as_json:
        print_json({"id": key.key_uuid, "secret": key.secret, "scopes": key.scopes, "expires_at": key.expires_at})
    else:
        typer.echo(key.secret)
        typer.echo(f"Key {key.key_uuid}; its secret above is not shown again.", err=True)


@app.command("list")
def list_all(organization: Organization, *, as_json: AsJson = False) -> None:
    """List the keys of an organization, oldest first."""
    with as_role("owner") as runtime, runtime.engine.connect() as tx:
        rows = api_keys.list_all(tx, stored.find(tx, organization)["organization_id"])
    fields = ("key_uuid", "name", "scopes", "created_at", "expires_at", "revoked_at")
    if as_json:
        print_json([{field: row[field] for field in fields} for row in rows])
    else:
        heads = ("id", "name", "scopes", "created", "expires", "revoked")
        print_table(heads, [[_shown(row[field]) for field in fields] for row in rows])


@app.command()
def revoke(organization: Organization, key: Annotated[UUID, typer.Argument(help="The key's id.")]) -> None:
    """End a key at once."""
    with as_role("owner") as runtime, runtime.engine.begin() as tx:
        organizations.revoke_key(tx, organization, key)
    typer.echo(f"{key} is revoked.")


def _shown(value: object) -> object:
    return ",".join(value) if isinstance(value, list) else value
