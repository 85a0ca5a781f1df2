"""Routes that post: journals and balance updates come in, and journals are read back."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from pydantic_core import from_json

from ledgermill.api import shapes
from ledgermill.api.dependencies import (
    Body,
    Books,
    Posting,
    Reading,
    answer,
    correlation_of,
    openapi_body,
    state_of,
    wait_s,
)
from ledgermill.api.problems import problem_of_job
from ledgermill.config import Settings
from ledgermill.domain.journals import POST_JOURNAL, UPDATE_BALANCE
from ledgermill.errors import InvalidField, InvalidJson, LedgerReferenceConflict, MissingIdempotencyKey, Unauthenticated
from ledgermill.messages import routes
from ledgermill.messages.fields import read_reference
from ledgermill.messages.jobs import AcceptedV1, BatchV1, JobPlaceV1, JobV1, JournalOutV1
from ledgermill.messages.ledgers import BalanceUpdatedV1
from ledgermill.runtime import now
from ledgermill.storage.connections import Transaction
from ledgermill.storage.outcomes import Outcome
from ledgermill.usecases import acceptance, jobs, journals, ledgers

router = APIRouter(prefix="/v1/ledgers", tags=["posting"])

NDJSON: Final = "application/x-ndjson"
JOURNAL_BODY: Final = openapi_body(
    (
        "application/json",
        {"anyOf": [{"$ref": shapes.JOURNAL}, {"type": "array", "items": {"$ref": shapes.JOURNAL}, "maxItems": 10_000}]},
    ),
    (NDJSON, {"type": "string", "description": "One journal a line."}),
)
UPDATE_BODY: Final = openapi_body(("application/json", {"$ref": shapes.BALANCE_UPDATE}))
ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": BatchV1, "description": "With `Prefer: wait`, for an array or NDJSON: what became of it."},
    202: {"model": AcceptedV1 | JobV1, "description": "Durable, and not settled yet: ask again at Location."},
    **shapes.problems(400, 401, 403, 404, 409, 422, 503),
}


@router.post("/journals", status_code=201, response_model=JournalOutV1, responses=ACCEPTED, openapi_extra=JOURNAL_BODY)
async def post_journals(request: Request, body: Body, books: Posting) -> Response:
    """Post one journal and wait for it, or many (an array, or NDJSON) and get their ids at once.

    `Idempotency-Key` may name the key of a single journal; without any, one is minted and returned, and a repeated
    request is then a new journal. `Prefer: respond-async` answers 202 at once, `Prefer: wait=N` waits up to N seconds.
    """
    if request.headers.get("content-type", "").startswith(NDJSON):
        lines = [line for line in body.splitlines() if line.strip()]
        return await _many(request, books, b"[" + b",".join(lines) + b"]", lines)
    if body.lstrip()[:1] == b"[":
        return await _many(request, books, body)
    item = _one(body)
    keyed = _with_header_key(request, item)
    return await _single(request, books, POST_JOURNAL, keyed, payload=b"[" + body + b"]" if keyed is item else None)


@router.post(
    "/{ref}/balance-updates",
    status_code=201,
    response_model=BalanceUpdatedV1,
    responses={status: answers for status, answers in ACCEPTED.items() if status != 200},  # noqa: PLR2004
    openapi_extra=UPDATE_BODY,
)
async def update_balance(request: Request, body: Body, books: Posting, ref: str = Path(max_length=100)) -> Response:
    """Credit or debit a ledger (by id, number or code) against `contra`, or the suspense ledger."""
    reference = read_reference(ref)
    item = _with_header_key(request, _one(body))
    named = {"ledger_id": reference.uuid, "ledger_code": reference.code, "ledger_num_id": reference.number}
    for name, value in named.items():
        if value is not None and item.setdefault(name, value) != value:
            raise LedgerReferenceConflict(field="the path and the body")
    return await _single(request, books, UPDATE_BALANCE, item)


@router.get("/journals/{journal_id}", response_model=JournalOutV1, responses=shapes.problems(400, 401, 403, 404, 503))
async def read_journal(journal_id: UUID, books: Reading) -> Response:
    """A journal with its entries, by its id, which is its job's."""
    return answer(journals.journal(journal_id, await books.outcome(journal_id)))


async def _single(
    request: Request, books: Books, kind: str, item: dict[str, Any], *, payload: bytes | None = None
) -> Response:
    books.require_room()
    state, caller = state_of(request), books.caller
    if state.settings.require_idempotency_key and item.get("idempotency_key") is None:
        raise MissingIdempotencyKey(field="idempotency_key")
    waiting = acceptance.single(
        kind,
        item,
        payload=payload,
        organization_id=caller.organization_id,
        organization_uuid=caller.organization_uuid,
        principal_id=caller.principal_id,
        correlation=correlation_of(request),
        now=now(),
    )
    accepted = jobs.accepted(waiting)
    headers = {"Idempotency-Key": accepted.idempotency_key or "", "Location": f"/v1/jobs/{accepted.id}"}
    # Who asks for a time in the future knows that it is not now.
    seconds = wait_s(request, default=0.0 if accepted.state == "scheduled" else state.settings.wait_s)
    if not seconds:
        await books.accept(waiting)
        return answer(accepted, status=202, headers={**headers, "Retry-After": "1"})
    found: Outcome | None = None
    async with state.waiters.expecting(waiting.batch_id) as wait:
        await books.accept(waiting)

        async def has_ended() -> bool:
            nonlocal found
            found = await books.outcome(accepted.id)
            return found is not None

        await wait(has_ended, seconds)
    if found is None:
        job = await books.run(jobs.status, accepted.id, now=now())
        if job.ended_at is None:
            return answer(job, status=202, headers={**headers, "Retry-After": "1"})
        found = await books.outcome(accepted.id)  # a worker has settled it since the last look
    if found is None:
        raise Unauthenticated  # the key was revoked meanwhile
    if found["state"] != "posted":
        return problem_of_job(jobs.error_of(found), job_id=found["job_id"])
    posted = journals.posted(found)
    if posted.id != accepted.id:
        headers["Idempotent-Replayed"] = "true"
    body = posted if kind == POST_JOURNAL else await _updated(books, posted, item)
    return answer(body, status=201, headers=headers)


async def _many(request: Request, books: Books, items: bytes, lines: Sequence[bytes] | None = None) -> Response:
    books.require_room()
    state = state_of(request)
    accepted = await books.run(
        _accept_many, items, lines, books.caller.principal_id, correlation_of(request), state.settings
    )
    headers = {"Location": f"/v1/batches/{accepted.batch_id}"}
    async with state.waiters.expecting(accepted.batch_id) as wait:
        state.bell.ring(routes.lane_of(accepted.organization_uuid))
        seconds = wait_s(request, default=0.0)
        found: BatchV1 | None = None

        async def is_settled() -> bool:
            nonlocal found
            found = await books.run(jobs.batch, accepted.batch_id, now=now())
            return found.is_settled

        if seconds and await wait(is_settled, seconds) and found is not None:
            return answer(found, headers=headers)
    body = AcceptedV1(
        batch_id=accepted.batch_id,
        state="accepted",
        jobs=[JobPlaceV1(id=job_id, idempotency_key=key) for job_id, key in accepted.jobs],
    )
    return answer(body, status=202, headers={**headers, "Retry-After": "1"})


def _accept_many(
    tx: Transaction,
    organization_id: int,
    items: bytes,
    lines: Sequence[bytes] | None,
    principal_id: int,
    correlation: str | None,
    settings: Settings,
) -> acceptance.Accepted:
    try:
        accepted = acceptance.accept(
            tx,
            organization_id,
            kind=POST_JOURNAL,
            items=items,
            principal_id=principal_id,
            correlation=correlation,
            now=now(),
        )
    except InvalidJson:
        _require_lines(lines or ())
        raise
    if lines is not None and len(accepted.requests) != len(lines):
        _require_lines(lines)
        raise InvalidJson(problem="each line must hold one JSON object")  # rolls back
    if settings.require_idempotency_key:
        for request in accepted.requests:
            if isinstance(request.asked, dict) and request.asked.get("idempotency_key") is None:
                raise MissingIdempotencyKey(field=f"[{request.place}].idempotency_key")  # rolls back
    return accepted


async def _updated(books: Books, posted: JournalOutV1, item: dict[str, Any]) -> BalanceUpdatedV1:
    reference = read_reference(str(posted.entries[0].ledger_id))
    return BalanceUpdatedV1(
        message=f"ledger balance {item['type']}ed successfully",
        balance=await books.run(ledgers.balance, reference),
        journal=posted,
    )


def _one(body: bytes) -> dict[str, Any]:
    try:
        item = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJson(problem=str(error)) from None
    if not isinstance(item, dict):
        raise InvalidField(field="the body", problem="must be a JSON object")
    return item


def _with_header_key(request: Request, item: dict[str, Any]) -> dict[str, Any]:
    header = request.headers.get("idempotency-key")
    if header is None:
        return item
    if item.get("idempotency_key", header) != header:
        raise InvalidField(field="idempotency_key", problem="differs from the header Idempotency-Key")
    return {**item, "idempotency_key": header}


def _require_lines(lines: Sequence[bytes]) -> None:
    for number, line in enumerate(lines, 1):
        try:
            from_json(line, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidJson(problem=f"line {number}: {error}") from None
