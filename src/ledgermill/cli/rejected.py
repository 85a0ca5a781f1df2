"""`ledgermill rejected`: the workbench for jobs that were not posted."""

import json
from typing import Annotated
from uuid import UUID

import typer

from ledgermill.cli.mending import resend
from ledgermill.cli.rehearsal import dry_run
from ledgermill.cli.selection import (
    AsJson,
    Code,
    From,
    Kind,
    OrganizationName,
    Reference,
    State,
    Text,
    To,
    open_books,
    read_moment,
)
from ledgermill.cli.session import print_json, print_table
from ledgermill.messages.rejected import RejectedShownV1
from ledgermill.runtime import now
from ledgermill.storage.rejected import Wanted
from ledgermill.usecases import rejected

app = typer.Typer(help="Jobs that were not posted: list, show, dry-run, mend, send again.", no_args_is_help=True)

Job = Annotated[UUID, typer.Argument(help="The job's id.")]


@app.command("list")
def list_newest(
    *,
    organization: OrganizationName = None,
    code: Code = None,
    kind: Kind = None,
    state: State = None,
    since: From = None,
    to: To = None,
    reference: Reference = None,
    text: Text = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that nobody has sent again.")] = False,
    before: Annotated[int | None, typer.Option(min=1, help="The number that the page before ended with.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs that were not posted, the newest first."""
    with open_books(organization) as books, books.reading() as tx:
        page = rejected.page(
            tx,
            books.organization_id,
            Wanted(code, kind, state, reference, text, only_open),
            rejected_from=read_moment(since, "--from"),
            rejected_to=read_moment(to, "--to"),
            before=before,
            limit=limit,
        )
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    heads = ("number", "id", "refused", "code", "kind", "open", "message")
    print_table(
        heads,
        [
            [
                job.refusal,
                job.id,
                f"{job.ended_at:%Y-%m-%d %H:%M:%S}",
                job.code,
                job.kind,
                "open" if job.is_open else "sent",
                job.message,
            ]
            for job in page.jobs
        ],
    )
    if page.next_before is not None:
        typer.echo(f"More with --before {page.next_before}", err=True)


@app.command()
def summary(
    *,
    organization: OrganizationName = None,
    code: Code = None,
    kind: Kind = None,
    state: State = None,
    since: From = None,
    to: To = None,
    reference: Reference = None,
    text: Text = None,
    as_json: AsJson = False,
) -> None:
    """Count jobs that were not posted by code and kind."""
    with open_books(organization) as books, books.reading() as tx:
        found = rejected.summary(
            tx,
            books.organization_id,
            Wanted(code, kind, state, reference, text),
            rejected_from=read_moment(since, "--from"),
            rejected_to=read_moment(to, "--to"),
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    heads = ("code", "kind", "state", "jobs", "open", "oldest", "newest")
    rows = [
        [
            each.code,
            each.kind,
            each.state,
            each.jobs,
            each.open_jobs,
            f"{each.oldest:%Y-%m-%d %H:%M:%S}",
            f"{each.newest:%Y-%m-%d %H:%M:%S}",
        ]
        for each in found.counts
    ]
    print_table(heads, rows)
    if not found.is_complete:
        typer.echo(f"These are the newest {rejected.MOST_COUNTED}; name a range for older ones.", err=True)


@app.command()
def show(job: Job, *, organization: OrganizationName = None, as_json: AsJson = False) -> None:
    """Show one: what was asked, by whom, why it was not posted, and what became of it later."""
    with open_books(organization) as books, books.reading() as tx:
        found = rejected.show(tx, books.organization_id, job, now=now())
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)


def _print(job: RejectedShownV1) -> None:
    typer.echo(f"{job.id}  {job.kind}  {job.state}  {'open' if job.is_open else 'sent again'}")
    typer.echo(f"{job.code}: {job.message}")
    facts = {
        "key": job.idempotency_key,
        "sent by": f"{job.sent_by.kind} {job.sent_by.name}",
        "accepted": job.accepted_at,
        "refused": job.ended_at,
        "correlation": job.correlation_id,
        "details": json.dumps(job.details),
    }
    if job.mended is not None:
        by = job.mended.mended_by
        facts["made of"] = f"{job.mended.mended_from} by {by.kind} {by.name} at {job.mended.mended_at}"
    for name, fact in facts.items():
        typer.echo(f"  {name:<12} {'-' if fact is None else fact}")
    typer.echo("Asked:")
    typer.echo(json.dumps(job.request, indent=2, ensure_ascii=False))
    if job.resent:
        typer.echo("Sent again:")
    for one in job.resent:
        ended = f"{one.job.state} {one.job.error.code}" if one.job.error else one.job.state
        who = f"{one.mended_by.kind} {one.mended_by.name}"
        typer.echo(f"  {one.number}  {one.job.id}  {ended}  by {who} at {one.mended_at}")


app.command("dry-run")(dry_run)
app.command()(resend)
