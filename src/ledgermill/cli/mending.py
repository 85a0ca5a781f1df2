"""`ledgermill rejected resend`: one job, or all open ones of a filter."""

import json
import os
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from uuid import UUID

import typer

from ledgermill.cli.rehearsal import dry_run
from ledgermill.cli.selection import (
    Code,
    File,
    From,
    Kind,
    OpenBooks,
    OrganizationName,
    Reference,
    Set,
    State,
    Text,
    To,
    open_books,
    read_changes,
    read_file,
    read_moment,
    read_request,
)
from ledgermill.cli.session import print_table
from ledgermill.errors import InvalidField
from ledgermill.messages.rejected import MOST_RESENT_AT_ONCE, mended
from ledgermill.runtime import now
from ledgermill.storage import rejected as stored
from ledgermill.storage.rejected import Wanted
from ledgermill.usecases import mending, rejected
from ledgermill.usecases.mending import By
from ledgermill.usecases.rejected import Range

MOST_REASONS_SHOWN = 20


def resend(
    job: Annotated[UUID | None, typer.Argument(help="The job's id; without one, all open jobs of the filter.")] = None,
    *,
    organization: OrganizationName = None,
    code: Code = None,
    kind: Kind = None,
    state: State = None,
    since: From = None,
    to: To = None,
    reference: Reference = None,
    text: Text = None,
    everything: Annotated[bool, typer.Option("--all", help="All open jobs, without any filter.")] = False,
    changes: Set = None,
    file: File = None,
    edit: Annotated[bool, typer.Option("--edit", help="Mend the request in $EDITOR.")] = False,
    key: Annotated[str | None, typer.Option(help="The new job's idempotency key; by default one of its own.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also if an earlier resend waits or is posted.")] = False,
    only_planned: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Send again what was not posted, as it was or mended, each as a new job that is linked to the first.

    One job by its id; or all open jobs of a filter, the oldest first, in steps of 500. A run that was broken off is
    started again: what has been sent is not open any more, so nothing is sent twice. Jobs that are refused while it
    runs, also those that it sends, are left to the next run.
    """
    wanted = Wanted(code, kind, state, reference, text, only_open=True)
    filters = any((*wanted[:-1], since, to, everything))
    if (job is None) != filters:
        raise InvalidField(field="JOB", problem="name one job, or say which by --code and the like, or by --all")
    if job is None and (file or edit or key or again):
        raise InvalidField(field="--file/--edit/--key/--again", problem="are for one job; name it")
    if job is not None and only_planned:
        dry_run(job, organization=organization, changes=changes, file=file)
        return
    with open_books(organization) as books:
        if job is None:
            with books.reading() as tx:
                moments = {"rejected_from": read_moment(since, "--from"), "rejected_to": read_moment(to, "--to")}
                within = rejected.range_of(tx, books.organization_id, **moments)
            _resend_many(books, wanted, within, patch=read_changes(changes), only_planned=only_planned, yes=yes)
        else:
            _resend_one(books, job, patch=read_changes(changes), file=file, edit=edit, key=key, again=again)


def _resend_one(
    books: OpenBooks,
    job: UUID,
    *,
    patch: Mapping[str, Any] | None,
    file: Path | None,
    edit: bool,
    key: str | None,
    again: bool,
) -> None:
    replacement = read_file(file)
    if edit:
        with books.reading() as tx:
            row = rejected.refused(tx, books.organization_id, job, now=now())
        start = mended(rejected.asked_of(row), patch=patch, replacement=replacement)
        patch, replacement = None, _edited(start)
    acting = books.principal_id()
    with books.writing() as tx:
        sent = mending.resend(
            tx,
            books.organization_id,
            job,
            by=By(acting, now()),
            patch=patch,
            replacement=replacement,
            key=key,
            again=again,
        )
    books.runtime.broker.ring_for(books.organization_uuid)
    typer.echo(f"Sent as job {sent.id} with the key {sent.idempotency_key}")


def _resend_many(
    books: OpenBooks,
    wanted: Wanted,
    within: Range,
    *,
    patch: Mapping[str, Any] | None,
    only_planned: bool,
    yes: bool,
) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for part in rejected.slices(within):
        with books.reading() as tx:
            for row in stored.counts(tx, wanted, above=part.above, upto=part.upto):
                counts[row["code"], row["kind"]] += row["jobs"]
    print_table(("code", "kind", "open jobs"), [[*key, count] for key, count in counts.most_common()])
    if not counts:
        return
    if not only_planned and not yes:
        typer.confirm(f"Send {counts.total()} jobs again?", abort=True)
    acting = books.principal_id()
    sent = 0
    reasons: Counter[str] = Counter()
    after: int | None = within.above
    while after is not None:
        with books.writing() as tx:
            step = mending.resend_many(
                tx,
                books.organization_id,
                wanted,
                Range(after, within.upto),
                by=By(acting, now()),
                limit=MOST_RESENT_AT_ONCE,
                patch=patch,
                dry_run=only_planned,
            )
        if step.sent and not only_planned:
            books.runtime.broker.ring_for(books.organization_uuid)
        sent += len(step.sent)
        for one in step.not_sent[: max(0, MOST_REASONS_SHOWN - reasons.total())]:
            typer.echo(f"{one.id}: {one.code}: {one.message}", err=True)
        reasons.update(one.code for one in step.not_sent)
        after = step.next_after
    typer.echo(f"{'Would post' if only_planned else 'Sent'}: {sent}")
    typer.echo(f"{'Would be refused' if only_planned else 'Not sent'}: {reasons.total()}")
    for reason, count in reasons.most_common():
        typer.echo(f"  {reason}: {count}")


def _edited(start: object) -> dict[str, Any]:
    text = (json.dumps(start, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_bytes(text)
        try:
            subprocess.run([*shlex.split(editor), str(file)], check=True)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            raise InvalidField(field="EDITOR", problem=f"{editor} did not end well: {error}") from None
        edited = file.read_bytes()
    if edited == text:
        raise typer.Abort  # left as it was: nobody meant to send that
    return read_request(edited)
