"""What the commands of the workbench share: their options, and the books of one organization."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import typer
from pydantic_core import from_json

from ledgermill.cli.session import as_role, principal_id
from ledgermill.errors import InvalidField, InvalidJson
from ledgermill.messages.fields import read_date, read_instant
from ledgermill.messages.jobs import JobKind
from ledgermill.messages.rejected import RejectedState
from ledgermill.runtime import Runtime
from ledgermill.storage import connections, organizations
from ledgermill.storage.connections import Transaction

OrganizationName = Annotated[
    str | None, typer.Option("--organization", "-o", help="Its code or id; may be left out where there is one.")
]
Code = Annotated[str | None, typer.Option(help="The error code, as LEDGER_NOT_FOUND.")]
Kind = Annotated[JobKind | None, typer.Option(help="The kind of job.")]
State = Annotated[RejectedState | None, typer.Option(help="How it ended.")]
From = Annotated[str | None, typer.Option("--from", help="Refused since: a date (UTC), or an instant with its offset.")]
To = Annotated[str | None, typer.Option("--to", help="Refused before: a date (UTC), or an instant with its offset.")]
Reference = Annotated[str | None, typer.Option(help="The reference_id that was asked for.")]
Text = Annotated[str | None, typer.Option(help="A part of the reason, in any case of letters.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field: transaction.value_date=2026-06-02, entries.0.amount=100, due_at=null."),
]
File = Annotated[
    Path | None, typer.Option("--file", exists=True, dir_okay=False, help="A whole request, as JSON, in its place.")
]


class OpenBooks(NamedTuple):
    """One organization, and ways into its books; each transaction shows nothing else."""

    runtime: Runtime
    organization_id: int
    organization_uuid: UUID

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        with self.runtime.engine.connect() as tx:
            connections.show_organization(tx, self.organization_id)
            yield tx

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Commits at the end."""
        with self.runtime.engine.begin() as tx:
            connections.show_organization(tx, self.organization_id)
            yield tx

    def principal_id(self) -> int:
        """Who acts, made known on first use."""
        with self.runtime.engine.begin() as tx:
            return principal_id(tx, self.organization_id)


@contextmanager
def open_books(organization: str | None) -> Iterator[OpenBooks]:
    """The books of an organization; without a name, of the only one there is. Raises OrganizationNotFound."""
    with as_role("owner") as runtime:
        with runtime.engine.connect() as tx:
            everyone = organizations.list_all(tx) if organization is None else [organizations.find(tx, organization)]
        if len(everyone) != 1:
            raise InvalidField(field="--organization", problem=f"is needed: there are {len(everyone)} organizations")
        yield OpenBooks(runtime, everyone[0]["organization_id"], everyone[0]["organization_uuid"])


def read_moment(text: str | None, option: str) -> datetime | None:
    """A date (its beginning in UTC) or an instant with its offset. Raises InvalidField."""
    if text is None:
        return None
    if len(text) == len("2026-06-02"):
        return datetime.combine(read_date(text, field=option), time(), UTC)
    return read_instant(text, field=option)


def read_changes(changes: list[str] | None) -> dict[str, Any] | None:
    """Several PATH=VALUE as one merge patch. A value is JSON where it reads as such, else text. Raises InvalidField."""
    if not changes:
        return None
    patch: dict[str, Any] = {}
    for change in changes:
        path, sign, text = change.partition("=")
        names = path.split(".")
        if not sign or not all(names):
            raise InvalidField(field="--set", problem=f"{change} must be PATH=VALUE, as transaction.description=Rent")
        try:
            value = from_json(text, allow_inf_nan=False)
        except ValueError:
            value = text
        at = patch
        for name in names[:-1]:
            at = at.setdefault(name, {})
            if not isinstance(at, dict):
                raise InvalidField(field="--set", problem=f"{path} is below a field that is set as a whole")
        at[names[-1]] = value
    return patch


def read_file(file: Path | None) -> dict[str, Any] | None:
    """A whole request from a file. Raises InvalidJson, InvalidField."""
    return None if file is None else read_request(file.read_bytes())


def read_request(text: bytes) -> dict[str, Any]:
    """A whole request as JSON. Raises InvalidJson, InvalidField."""
    try:
        found = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJson(problem=str(error)) from None
    if not isinstance(found, dict):
        raise InvalidField(field="the request", problem="must be a JSON object")
    return found
