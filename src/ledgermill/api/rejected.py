"""Routes of the workbench: jobs that were not posted are listed, counted, shown, rehearsed, mended and sent again."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime

from ledgermill.api import shapes
from ledgermill.api.dependencies import Body, Books, Posting, Reading, answer, correlation_of, openapi_body, state_of
from ledgermill.errors import InvalidField
from ledgermill.messages import routes
from ledgermill.messages.fields import read_instant
from ledgermill.messages.jobs import JobKind, JobV1
from ledgermill.messages.rejected import (
    MOST_RESENT_AT_ONCE,
    REHEARSE_ASK,
    RESEND_ASK,
    RESEND_MANY_ASK,
    RehearsalV1,
    RejectedPageV1,
    RejectedShownV1,
    RejectedState,
    RejectedSummaryV1,
    ResendManyAskV1,
    ResentManyV1,
    read_ask,
)
from ledgermill.runtime import now
from ledgermill.storage.connections import Transaction
from ledgermill.storage.rejected import Wanted
from ledgermill.usecases import mending, rehearsal, rejected
from ledgermill.usecases.mending import By
from ledgermill.usecases.rejected import Range

router = APIRouter(prefix="/v1/rejected", tags=["rejected"])

PROBLEMS: Final = shapes.problems(400, 401, 403, 404, 409, 503)
HIGHEST: Final = 2**63 - 1

Code = Annotated[str | None, Query(max_length=100)]
Text = Annotated[str | None, Query(max_length=255)]


@router.get("", response_model=RejectedPageV1, responses=PROBLEMS)
async def list_rejected(
    books: Reading,
    *,
    code: Code = None,
    kind: JobKind | None = None,
    state: RejectedState | None = None,
    reference_id: Text = None,
    text: Text = None,
    only_open: bool = False,
    rejected_from: AwareDatetime | None = None,
    rejected_to: AwareDatetime | None = None,
    before: Annotated[int | None, Query(ge=1, le=HIGHEST)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Jobs that were not posted, newest first; `text` is looked for in the message. A page may be short of the limit
    and still have a `next_before`: it looks at up to 20,000 refusals.
    """
    page = await books.run(
        rejected.page,
        Wanted(code, kind, state, reference_id, text, only_open),
        rejected_from=_storable(rejected_from),
        rejected_to=_storable(rejected_to),
        before=before,
        limit=limit,
    )
    return answer(page)


@router.get("/summary", response_model=RejectedSummaryV1, responses=PROBLEMS)
async def summarise_rejected(
    books: Reading,
    *,
    code: Code = None,
    kind: JobKind | None = None,
    state: RejectedState | None = None,
    reference_id: Text = None,
    text: Text = None,
    rejected_from: AwareDatetime | None = None,
    rejected_to: AwareDatetime | None = None,
) -> Response:
    """How many jobs were not posted for what reason, and how many of them are open."""
    found = await books.run(
        rejected.summary,
        Wanted(code, kind, state, reference_id, text),
        rejected_from=_storable(rejected_from),
        rejected_to=_storable(rejected_to),
    )
    return answer(found)


@router.get("/{job_id}", response_model=RejectedShownV1, responses=PROBLEMS)
async def read_rejected(job_id: UUID, books: Reading) -> Response:
    """A job that was not posted: what was asked, by whom, why it was refused, and what became of it later."""
    return answer(await books.run(rejected.show, job_id, now=now()))


@router.post(
    "/{job_id}/dry-run",
    response_model=RehearsalV1,
    responses=PROBLEMS,
    openapi_extra=openapi_body(("application/json", {"$ref": shapes.REHEARSE_ASK}), required=False),
)
async def rehearse_rejected(job_id: UUID, body: Body, books: Reading) -> Response:
    """Whether the job, as it was or mended, would post against today's books, as what journal, or why not. Writes
    nothing.
    """
    asked = read_ask(REHEARSE_ASK, body)
    found = await books.run(
        rehearsal.rehearse, job_id, now=now(), patch=asked.get("patch"), replacement=asked.get("replacement")
    )
    return answer(found)


@router.post(
    "/{job_id}/resend",
    status_code=202,
    response_model=JobV1,
    responses=PROBLEMS,
    openapi_extra=openapi_body(("application/json", {"$ref": shapes.RESEND_ASK}), required=False),
)
async def resend_rejected(request: Request, job_id: UUID, body: Body, books: Posting) -> Response:
    """Send the job again, as it was or mended, as a new job that is linked to it. While that one waits, or once it is
    posted, a second call is refused as JOB_SENT_AGAIN, unless `again` is true.
    """
    asked = read_ask(RESEND_ASK, body)
    books.require_room()
    job = await books.run(
        mending.resend,
        job_id,
        by=_by(request, books),
        patch=asked.get("patch"),
        replacement=asked.get("replacement"),
        key=asked.get("idempotency_key"),
        again=asked.get("again", False),
    )
    _ring(request, books)
    return answer(job, status=202, headers={"Location": f"/v1/jobs/{job.id}", "Retry-After": "1"})


@router.post(
    "/resend",
    response_model=ResentManyV1,
    responses=PROBLEMS,
    openapi_extra=openapi_body(("application/json", {"$ref": shapes.RESEND_MANY_ASK})),
)
async def resend_many(request: Request, body: Body, books: Posting) -> Response:
    """Send again up to `limit` open jobs of a filter, oldest first, each as a new job. Asked again with `next_after`
    and `until` it goes on; a step that is repeated sends nothing twice. With `dry_run` nothing is written.
    """
    asked = read_ask(RESEND_MANY_ASK, body)
    limit = asked.get("limit", 100)
    if not 1 <= limit <= MOST_RESENT_AT_ONCE:
        raise InvalidField(field="limit", problem=f"must be 1 to {MOST_RESENT_AT_ONCE}")
    by, dry_run = _by(request, books), asked.get("dry_run", False)
    if not dry_run:
        books.require_room()

    def act(tx: Transaction, organization_id: int) -> ResentManyV1:
        within = _range(tx, organization_id, asked)
        return mending.resend_many(
            tx, organization_id, _wanted(asked), within, by=by, limit=limit, patch=asked.get("patch"), dry_run=dry_run
        )

    done = await books.run(act)
    if not dry_run:
        _ring(request, books)
    return answer(done)


def _wanted(asked: ResendManyAskV1) -> Wanted:
    one = asked["filter"]
    return Wanted(one.get("code"), one.get("kind"), one.get("state"), one.get("reference_id"), one.get("text"))


def _range(tx: Transaction, organization_id: int, asked: ResendManyAskV1) -> Range:
    moments = {
        name: _storable(read_instant(str(text), field=f"filter.{name}"))
        for name in ("rejected_from", "rejected_to")
        if (text := asked["filter"].get(name)) is not None
    }
    above, upto = rejected.range_of(tx, organization_id, **moments)
    after, until = asked.get("after", 0), asked.get("until")
    if after < 0 or (until is not None and until < 0):
        raise InvalidField(field="after/until", problem="must be counts that an answer gave")
    upto = upto if until is None else min(upto, until)
    return Range(min(max(above, after), upto), upto)


def _by(request: Request, books: Books) -> By:
    return By(books.caller.principal_id, now(), correlation_of(request))


def _ring(request: Request, books: Books) -> None:
    state_of(request).bell.ring(routes.lane_of(books.caller.organization_uuid))


def _storable(moment: datetime | None) -> datetime | None:
    if moment is not None and not 1970 <= moment.year <= 9999:  # noqa: PLR2004 - far within what PostgreSQL takes
        raise InvalidField(field="rejected_from/rejected_to", problem="must be between 1970 and 9999")
    return moment
