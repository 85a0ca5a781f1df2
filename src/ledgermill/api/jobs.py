"""Routes that tell what became of a job, of a batch, and of all jobs in the order in which they ended."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from ledgermill.api import shapes
from ledgermill.api.dependencies import Body, Books, Reading, answer, key_of, openapi_body, state_of, wait_s
from ledgermill.domain import ids
from ledgermill.errors import InvalidField, InvalidJson, JobNotFound, Unauthenticated
from ledgermill.messages.fields import first_problem
from ledgermill.messages.jobs import (
    MOST_KEYS,
    BatchV1,
    JobKind,
    JobPageV1,
    JobState,
    JobV1,
    LookupAskV1,
    LookupV1,
    OutcomePageV1,
)
from ledgermill.runtime import now
from ledgermill.usecases import jobs

router = APIRouter(prefix="/v1", tags=["jobs"])

PROBLEMS: Final = shapes.problems(400, 401, 403, 404, 503)
ASK: Final[TypeAdapter[LookupAskV1]] = TypeAdapter(LookupAskV1)
Limit = Annotated[int, Query(ge=1, le=1000)]


async def _asked_job(request: Request) -> tuple[Books, JobV1 | None]:
    """Who calls, and the job of the path if it has ended, in one round trip. Raises Unauthenticated, ScopeMissing."""
    state, sha256 = state_of(request), key_of(request)
    try:
        job_id = UUID(request.path_params["job_id"])
    except ValueError:
        job_id = None  # refused by the route, once it is known who asks
    found = await state.ended_jobs.ask((sha256, job_id))
    if found is None:
        raise Unauthenticated
    caller, row = found
    books = Books(state, caller, key_sha256=sha256)
    books.require("read")
    return books, None if row is None else jobs.ended(row)


@router.get("/jobs/{job_id}", response_model=JobV1, responses=PROBLEMS)
async def read_job(
    request: Request, job_id: UUID, asked: Annotated[tuple[Books, JobV1 | None], Depends(_asked_job)]
) -> Response:
    """Where a job stands. `Prefer: wait=N` waits up to N seconds for its end."""
    books, job = asked
    found = await books.run(jobs.status, job_id, now=now()) if job is None else job
    seconds = wait_s(request, default=0.0)
    if found.ended_at is None and seconds:

        async def has_ended() -> bool:
            nonlocal found
            found = await books.run(jobs.status, job_id, now=now())
            return found.ended_at is not None

        async with state_of(request).waiters.expecting(ids.batch_of(job_id)) as wait:
            await wait(has_ended, seconds)
    return answer(found, headers={} if found.ended_at else {"Retry-After": "1"})


@router.get("/jobs", response_model=JobPageV1, responses=PROBLEMS)
async def list_jobs(
    books: Reading,
    *,
    state: Annotated[list[JobState] | None, Query()] = None,
    kind: JobKind | None = None,
    batch_id: UUID | None = None,
    reference_id: Annotated[str | None, Query(max_length=255)] = None,
    idempotency_key: Annotated[str | None, Query(max_length=255)] = None,
    accepted_from: AwareDatetime | None = None,
    accepted_to: AwareDatetime | None = None,
    before: UUID | None = None,
    limit: Limit = 100,
) -> Response:
    """Jobs, newest first, by state, kind, batch, reference and time; or the one job of an idempotency key, else 404."""
    if idempotency_key is not None:
        found = await books.run(jobs.lookup, [idempotency_key], now=now())
        if not found.jobs:
            raise JobNotFound(job=f"with the idempotency key {idempotency_key}")
        return answer(JobPageV1(jobs=found.jobs, next_before=None))
    _require_storable(accepted_from, accepted_to)
    page = await books.run(
        jobs.list_jobs,
        now=now(),
        limit=limit,
        before=before,
        states=state or (),
        kind=kind,
        batch_id=batch_id,
        reference_id=reference_id,
        accepted_from=accepted_from,
        accepted_to=accepted_to,
    )
    return answer(page)


@router.post(
    "/jobs/lookup",
    response_model=LookupV1,
    responses=PROBLEMS,
    openapi_extra=openapi_body(("application/json", {"$ref": shapes.LOOKUP_ASK})),
)
async def look_up_jobs(body: Body, books: Reading) -> Response:
    """The jobs of up to 1,000 idempotency keys, and the keys that have not arrived."""
    try:
        asked = ASK.validate_json(body)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise InvalidJson(problem=error.errors()[0]["msg"]) from None
        raise first_problem(error) from None
    keys = asked["idempotency_keys"]
    if not 1 <= len(keys) <= MOST_KEYS:
        raise InvalidField(field="idempotency_keys", problem=f"must be 1 to {MOST_KEYS} keys")
    return answer(await books.run(jobs.lookup, keys, now=now()))


@router.get("/batches/{batch_id}", response_model=BatchV1, responses=PROBLEMS)
async def read_batch(request: Request, batch_id: UUID, books: Reading) -> Response:
    """What became of a batch: counts by state, and what was not posted. `Prefer: wait=N` waits for its end."""
    found = await books.run(jobs.batch, batch_id, now=now())
    seconds = wait_s(request, default=0.0)
    if not found.is_settled and seconds:

        async def is_settled() -> bool:
            nonlocal found
            found = await books.run(jobs.batch, batch_id, now=now())
            return found.is_settled

        async with state_of(request).waiters.expecting(batch_id) as wait:
            await wait(is_settled, seconds)
    return answer(found, headers={} if found.is_settled else {"Retry-After": "1"})


@router.get("/outcomes", response_model=OutcomePageV1, responses=PROBLEMS)
async def read_outcomes(
    books: Reading, after: Annotated[str, Query(max_length=50)] = "0", limit: Limit = 100
) -> Response:
    """A feed of all jobs in the order in which they ended: ask again with `next_after`, and none is missed."""
    return answer(await books.run(jobs.outcomes, after=after, limit=limit))


def _require_storable(*moments: datetime | None) -> None:
    for moment in moments:
        if moment is not None and not 1970 <= moment.year <= 9999:  # noqa: PLR2004 - the range of a UUIDv7
            raise InvalidField(field="accepted_from/accepted_to", problem="must be between 1970 and 9999")
