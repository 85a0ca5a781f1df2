"""Errors over HTTP: `application/problem+json` that also carries code, message and details."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ledgermill.errors import (
    Conflict,
    DatabaseUnavailable,
    Invalid,
    InvalidField,
    LedgermillError,
    NotFound,
    RouteNotFound,
    ScopeMissing,
    Unauthenticated,
    Unavailable,
    by_code,
)
from ledgermill.messages.jobs import ErrorV1
from ledgermill.observability import logger
from ledgermill.storage import failures

RETRY_AFTER_S = 2
BY_CODE = by_code()

log = logger(__name__)


def status_of(error: type[LedgermillError]) -> int:
    """Invalid 400, key missing or wrong 401, scope 403, unknown 404, conflict 409, refused 422, unavailable 503."""
    if issubclass(error, Unauthenticated):
        return 401
    if issubclass(error, ScopeMissing):
        return 403
    if issubclass(error, Invalid):
        return 400
    if issubclass(error, NotFound):
        return 404
    if issubclass(error, Conflict):
        return 409
    return 503 if issubclass(error, Unavailable) else 422


def problem(error: LedgermillError, *, extra: Mapping[str, Any] | None = None) -> Response:
    """An error of ours as an answer."""
    return _answer(status_of(type(error)), error.code, str(error), error.details, extra=extra)


def problem_of_job(error: ErrorV1, *, job_id: object) -> Response:
    """Why a job was not posted, as the answer to the request that asked for it."""
    known = BY_CODE.get(error.code)
    return _answer(
        status_of(known) if known else 422, error.code, error.message, error.details, extra={"job_id": str(job_id)}
    )


def install(app: FastAPI) -> None:
    """Answer every failure as a problem; what nobody expected is logged and tells the client nothing of its inside."""

    @app.exception_handler(LedgermillError)
    async def _ours(_: Request, error: LedgermillError) -> Response:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def _unreadable(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(InvalidField(field=".".join(map(str, first["loc"][1:])) or "the request", problem=first["msg"]))

    @app.exception_handler(HTTPException)
    async def _routing(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:  # noqa: PLR2004
            return problem(RouteNotFound(path=request.url.path))
        return _answer(error.status_code, "HTTP_ERROR", str(error.detail), {}, headers=error.headers)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        if isinstance(error, failures.DatabaseError) and failures.is_temporary(error):
            log.warning("database away", path=request.url.path, sqlstate=failures.sqlstate(error))
            return problem(DatabaseUnavailable())
        log.error("unexpected failure", path=request.url.path, exc_info=error)
        return _answer(500, "INTERNAL_ERROR", "Something failed that should not; the log has the details.", {})


def _answer(
    status: int,
    code: str,
    message: str,
    details: Mapping[str, object],
    *,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = {
        "type": f"urn:ledgermill:error:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": message,
        "code": code,
        "message": message,
        "details": details,
        **(extra or {}),
    }
    all_headers = dict(headers or {})
    if status == 503:  # noqa: PLR2004
        all_headers["Retry-After"] = str(details.get("retry_after_s", RETRY_AFTER_S))
    if status == 401:  # noqa: PLR2004
        all_headers["WWW-Authenticate"] = "Bearer"
    return Response(json.dumps(body, default=str), status, all_headers, media_type="application/problem+json")
