"""`ledgermill post`: what a file holds, accepted in batches and followed until all of it has ended."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ledgermill.cli.files import Line, read_items
from ledgermill.cli.session import as_role, principal_id
from ledgermill.domain.journals import POST_JOURNAL, UPDATE_BALANCE, JournalRequest
from ledgermill.errors import InvalidField
from ledgermill.messages.posting import MOST_ITEMS
from ledgermill.runtime import Runtime, now
from ledgermill.storage import organizations
from ledgermill.storage.connections import Row, Transaction
from ledgermill.usecases import progress
from ledgermill.usecases.acceptance import Accepted, accept

POLL_S = 0.1
MOST_LINES_SHOWN = 100

app = typer.Typer(help="Post files.")


class Kind(StrEnum):
    """What a file holds."""

    JOURNALS = "journals"
    BALANCE_UPDATES = "balance-updates"


KIND_OF = {Kind.JOURNALS: POST_JOURNAL, Kind.BALANCE_UPDATES: UPDATE_BALANCE}


class Sent(NamedTuple):
    """An accepted batch, the lines that it came from, and how many of its jobs wait for a later time."""

    accepted: Accepted
    numbers: list[int]
    scheduled: int


@app.command()
def post(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    *,
    organization: Annotated[
        str | None, typer.Option("--organization", "-o", help="Its code or id; may be left out where there is one.")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="What the file holds.")] = Kind.JOURNALS,
    batch: Annotated[int, typer.Option(min=1, max=MOST_ITEMS, help="Jobs in one transaction.")] = 1_000,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the jobs until they have ended.")] = True,
) -> None:
    """Post the journals (or balance updates) of FILE: JSON lines, a JSON list, or CSV.

    JSON items have the shape of the API; amounts are whole minor units (32998 is 329.98 USD).

    CSV has a header and the columns debit, credit and amount, and may have idempotency_key, type, value_date,
    description, reference_id and currency_code. A row is a journal of two entries: debit and credit each name a ledger
    by its code (or 10-digit number, or id). The amount is in MAJOR units, an exact decimal as 329.98, with no more
    decimals than its currency has; without a currency it is in the base currency.

    An item without an idempotency key gets SHA-256-OF-THE-FILE:LINE. So posting the same file twice changes nothing.

    A file that cannot be read is not posted at all. Exit code 1 where a job was rejected; the others are posted.
    """
    is_csv = file.suffix.lower() == ".csv"
    if is_csv and kind is not Kind.JOURNALS:
        raise InvalidField(field="--kind", problem="CSV holds journals; send balance updates as JSON")
    with as_role("worker") as runtime:
        with runtime.engine.begin() as tx:
            found = _organization(tx, organization)
            organization_id: int = found["organization_id"]
            acting = principal_id(tx, organization_id)
        lines = read_items(file.read_bytes(), is_csv=is_csv, base_currency=found["base_currency"])
        if wait and found["state"] == "paused":
            typer.echo(f"{found['code']} is paused: the jobs are accepted, and nobody waits for them.", err=True)
            wait = False
        with _bars(len(lines), wait=wait) as bars:
            batches = _accept(runtime, organization_id, lines, kind=KIND_OF[kind], batch=batch, acting=acting)
            sent, counts = _follow(runtime, organization_id, batches, bars, wait=wait)
        if not wait:
            typer.echo(f"Accepted: {len(lines)} in {len(sent)} batches")
            for each in sent:
                typer.echo(f"  {each.accepted.batch_id}")
            return
        with runtime.engine.connect() as tx:
            rejected = [
                (each.numbers[job.place], job)
                for each in sent
                for job in progress.not_posted(tx, organization_id, each.accepted)
            ]
    typer.echo(f"Posted: {counts['posted']}")
    typer.echo(f"Replayed (their keys had been settled before): {counts['replayed']}")
    if scheduled := sum(each.scheduled for each in sent):
        typer.echo(f"Scheduled for later: {scheduled}")
    typer.echo(f"Rejected: {len(rejected)}")
    _print_rejected(rejected)
    if rejected:
        raise typer.Exit(1)


def _organization(tx: Transaction, name: str | None) -> Row:
    if name is not None:
        return organizations.find(tx, name)
    everyone = organizations.list_all(tx)
    if len(everyone) != 1:
        raise InvalidField(field="--organization", problem=f"is needed: there are {len(everyone)} organizations")
    return everyone[0]


def _accept(
    runtime: Runtime, organization_id: int, lines: Sequence[Line], *, kind: str, batch: int, acting: int
) -> Iterator[Sent]:
    for chunk in _batched(lines, batch):
        accepted_at = now()
        with runtime.engine.begin() as tx:
            accepted = accept(
                tx,
                organization_id,
                kind=kind,
                items=[line.item for line in chunk],
                principal_id=acting,
                correlation=None,
                now=accepted_at,
            )
        runtime.broker.ring_for(accepted.organization_uuid)
        scheduled = sum(_is_later(request, accepted_at) for request in accepted.requests)
        yield Sent(accepted, [line.number for line in chunk], scheduled)


def _follow(
    runtime: Runtime, organization_id: int, batches: Iterator[Sent], bars: Progress, *, wait: bool
) -> tuple[list[Sent], Counter[str]]:
    """Accept all batches, and meanwhile and afterwards count what has ended of them."""
    sent: list[Sent] = []
    counts: Counter[str] = Counter()
    unsettled: list[Sent] = []
    looked_at = time.monotonic()
    is_accepting = True
    while is_accepting or (wait and unsettled):
        if (next_batch := next(batches, None)) is not None:
            sent.append(next_batch)
            unsettled.append(next_batch)
            bars.advance(bars.task_ids[0], len(next_batch.numbers))
        else:
            is_accepting = False
        if not wait or (is_accepting and time.monotonic() < looked_at + POLL_S):
            continue
        if not is_accepting:
            time.sleep(POLL_S)
        looked_at = time.monotonic()
        done: Counter[str] = Counter()
        with runtime.engine.connect() as tx:
            for each in list(unsettled):
                ended = progress.ended(tx, organization_id, each.accepted.batch_id)
                if sum(ended.values()) + each.scheduled >= len(each.numbers):
                    unsettled.remove(each)
                    counts.update(ended)
                else:
                    done.update(ended)
        bars.update(bars.task_ids[1], completed=counts.total() + done.total())
    return sent, counts


def _print_rejected(rejected: Sequence[tuple[int, progress.NotPosted]]) -> None:
    for code, count in Counter(job.code for _, job in rejected).most_common():
        typer.echo(f"  {code}: {count}")
    for number, job in rejected[:MOST_LINES_SHOWN]:
        typer.echo(f"line {number}: {job.code}: {job.message}", err=True)
    if len(rejected) > MOST_LINES_SHOWN:
        typer.echo(f"... and {len(rejected) - MOST_LINES_SHOWN} more", err=True)


def _bars(total: int, *, wait: bool) -> Progress:
    console = Console(stderr=True)
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    bars = Progress(*columns, console=console, disable=not console.is_terminal)
    bars.add_task("accepted", total=total)
    bars.add_task("settled", total=total, visible=wait)
    return bars


def _is_later(request: object, accepted_at: datetime) -> bool:
    return isinstance(request, JournalRequest) and request.due_at is not None and request.due_at > accepted_at


def _batched(lines: Sequence[Line], size: int) -> Iterable[Sequence[Line]]:
    return (lines[first : first + size] for first in range(0, len(lines), size))
