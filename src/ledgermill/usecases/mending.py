"""Refused jobs sent again, as they were or mended: each as a new job with a key of its own, linked to the first.

What an operator can rely on: of one thing asked for, one job is posted, however often and by however many hands it is
sent again. All that comes of a job is its family. A member is sent again only while every other one was refused; where
one waits or is posted, that is an error which names it, unless the operator says `again`. A mistake made twice, a run
that is repeated after it broke off, and two operators at one moment post nothing twice. Where a resend was refused too,
its family is open again: any member may be mended, and a run by filter takes the newest.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ledgermill.errors import InvalidField, JobSentAgain, KeyReused, LedgermillError, OrganizationDraining
from ledgermill.messages.jobs import JobV1
from ledgermill.messages.rejected import NotSentV1, ResentManyV1, mended
from ledgermill.storage import inbox, mending, organizations
from ledgermill.storage import jobs as stored_jobs
from ledgermill.storage import rejected as stored
from ledgermill.storage.connections import Row, Transaction
from ledgermill.storage.inbox import Waiting
from ledgermill.storage.mending import Mended
from ledgermill.storage.rejected import Wanted
from ledgermill.usecases import acceptance, jobs, rehearsal
from ledgermill.usecases.rejected import OPEN_STATES, Range, asked_of, look, refused

MOST_COUNTED_AHEAD = 5_000


class By(NamedTuple):
    """Who sends again, when, and within which trace; without one, the job keeps that of the first."""

    principal_id: int
    at: datetime
    correlation: str | None = None


def resend(
    tx: Transaction,
    organization_id: int,
    job_id: UUID,
    *,
    by: By,
    patch: Mapping[str, Any] | None = None,
    replacement: Mapping[str, Any] | None = None,
    key: str | None = None,
    again: bool = False,
) -> JobV1:
    """Accept a refused job again: the new job, once `tx` is committed; then ring for the organization.

    Raises: JobNotFound, JobNotRejected, JobSentAgain, KeyReused (the key that is given is bound already),
    OrganizationDraining, and what is wrong with the mended request by itself.
    """
    row = refused(tx, organization_id, job_id, now=by.at)
    own = mending.of_job(tx, organization_id, row["job_id"])
    first_id = own.first_job_id if own else row["job_id"]
    family = mending.family(tx, organization_id, first_id)
    if not again:
        _require_refused(tx, organization_id, job_id, family, now=by.at)
    number = family[-1].number + 1 if family else 1
    asked = asked_of(row)
    item = mended(asked, patch=patch, replacement=replacement)
    own_key = key or _brought_key(item, asked=asked) or _derived_key(first_id, number)
    waiting = _waiting(row, item=item, key=own_key, organization=_accepting(tx, organization_id), by=by)
    _require_unbound(tx, organization_id, waiting.job_keys[0])
    if not mending.link(tx, [_link(waiting, row["job_id"], first_id, number)]):
        # Somebody sent it at this moment; their link is committed, or ours would have waited for it.
        latest = mending.family(tx, organization_id, first_id)[-1]
        raise JobSentAgain(job=job_id, sent_as=latest.job_id, state="accepted")
    inbox.insert_waiting(tx, [waiting])
    return jobs.accepted(waiting)


def resend_many(
    tx: Transaction,
    organization_id: int,
    wanted: Wanted,
    within: Range,
    *,
    by: By,
    limit: int,
    patch: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> ResentManyV1:
    """One step of sending the open jobs of a filter, oldest first: up to `limit` of them, all in this transaction.

    A request that is wrong by itself is not sent and stays open; it is told, and the next step goes on behind it. So
    is one that was refused as KEY_REUSED, unless that code is asked for: its key stands for another job, which may have
    posted what is meant. With `dry_run` the jobs are planned together against today's books and nothing is written.
    Raises: OrganizationDraining.
    """
    organization = _accepting(tx, organization_id)
    wanted = wanted._replace(only_open=True)
    rows, rest = look(tx, wanted, within, limit=limit, newest_first=False, with_request=True)
    made: list[tuple[UUID, Waiting]] = []
    links: list[Mended] = []
    not_sent: list[NotSentV1] = []
    for row in rows:
        if row["code"] == KeyReused.code and wanted.code is None:
            not_sent.append(NotSentV1(id=row["job_id"], code=row["code"], message=row["message"]))
            continue
        number = row["number"] + 1
        try:
            item = mended(asked_of(row), patch=patch, replacement=None)
            key = _derived_key(row["first_job_id"], number)
            waiting = _waiting(row, item=item, key=key, organization=organization, by=by)
        except LedgermillError as error:
            not_sent.append(NotSentV1(id=row["job_id"], code=error.code, message=str(error)))
            continue
        made.append((row["job_id"], waiting))
        links.append(_link(waiting, row["job_id"], row["first_job_id"], number))
    if dry_run:
        sent, refusals = rehearsal.rehearse_many(tx, organization_id, made, now=by.at)
        not_sent += refusals
    else:
        linked = mending.link(tx, links)
        accepted = [waiting for link, (_, waiting) in zip(links, made, strict=True) if link.job_id in linked]
        inbox.insert_waiting(tx, accepted)
        sent = [waiting.batch_id for waiting in accepted]
    ahead = min(rest.upto, rest.above + MOST_COUNTED_AHEAD)
    counts = stored.counts(tx, wanted, above=rest.above, upto=ahead) if ahead > rest.above else ()
    return ResentManyV1(
        sent=sent,
        not_sent=not_sent,
        remaining=sum(row["jobs"] for row in counts),
        next_after=rest.above if rest.above < rest.upto else None,
        until=within.upto,
    )


def _accepting(tx: Transaction, organization_id: int) -> Row:
    organization = organizations.by_id(tx, organization_id)
    if organization["state"] == "draining":
        raise OrganizationDraining(organization=organization["code"])
    return organization


def _waiting(row: Row, *, item: object, key: str, organization: Row, by: By) -> Waiting:
    if not isinstance(item, dict):
        raise InvalidField(field="the request", problem="must be an object; send it again with a replacement")
    return acceptance.single(
        row["kind"],
        {**item, "idempotency_key": key},
        organization_id=organization["organization_id"],
        organization_uuid=organization["organization_uuid"],
        principal_id=by.principal_id,
        correlation=by.correlation or row["correlation"],
        now=by.at,
    )


def _derived_key(first_id: UUID, number: int) -> str:
    return f"resend-{number}:{first_id}"


def _brought_key(item: object, *, asked: object) -> str | None:
    """The key that a mended request brings along; that of the first is bound to the first for ever."""
    key, first = (one.get("idempotency_key") if isinstance(one, dict) else None for one in (item, asked))
    return None if key == first else key


def _link(waiting: Waiting, mended_from: UUID, first_id: UUID, number: int) -> Mended:
    # A batch of one: the id of its job, at place 0, is the batch's.
    return Mended(
        waiting.organization_id,
        waiting.batch_id,
        mended_from,
        first_id,
        number,
        waiting.principal_id,
        waiting.accepted_at,
    )


def _require_refused(
    tx: Transaction, organization_id: int, job_id: UUID, family: list[Mended], *, now: datetime
) -> None:
    for one in reversed(family):
        state = jobs.status(tx, organization_id, one.job_id, now=now).state
        if state not in OPEN_STATES:
            raise JobSentAgain(job=job_id, sent_as=one.job_id, state=state)


def _require_unbound(tx: Transaction, organization_id: int, key: str | None) -> None:
    if key is not None and (bound := stored_jobs.settled(tx, organization_id, [key])):
        raise KeyReused(idempotency_key=key, job=bound[key].job_id)
