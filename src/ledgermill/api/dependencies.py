"""What a route gets: who calls, transactions that show only the caller's organization, and the parts of a request."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel

from ledgermill.api.waiters import Waiters
from ledgermill.broker.publishing import Broker
from ledgermill.config import Settings
from ledgermill.errors import DatabaseUnavailable, InvalidField, ScopeMissing, Unauthenticated
from ledgermill.storage import api_keys, connections, failures
from ledgermill.storage.api_keys import Caller
from ledgermill.storage.connections import AsyncEngine, Transaction
from ledgermill.usecases.organizations import hash_key

LONGEST_WAIT_S = 60.0

P = ParamSpec("P")
T = TypeVar("T")


class State:
    """What one API process holds."""

    def __init__(self, settings: Settings, engine: AsyncEngine, broker: Broker, waiters: Waiters) -> None:
        self.settings, self.engine, self.broker, self.waiters = settings, engine, broker, waiters

    async def run(self, act: Callable[[Transaction], T]) -> T:
        """Run `act` in a transaction of its own.

        Raises: DatabaseUnavailable, where the database is away or too slow; InvalidField, where it cannot be asked, as
        for a name that holds a NUL.
        """
        try:
            async with self.engine.begin() as connection:
                return await connection.run_sync(act)
        except failures.DatabaseError as error:
            if failures.is_temporary(error):
                raise DatabaseUnavailable from error
            if failures.is_unstorable(error):
                raise InvalidField(field="the request", problem=failures.problem(error)) from None
            raise


class Books:
    """The caller's organization: use cases run in a transaction that shows nothing else."""

    def __init__(self, state: State, caller: Caller) -> None:
        self.state, self.caller = state, caller

    async def run(
        self, use_case: Callable[Concatenate[Transaction, int, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `use_case(tx, organization_id, …)` in one transaction."""

        def act(tx: Transaction) -> T:
            connections.show_organization(tx, self.caller.organization_id)
            return use_case(tx, self.caller.organization_id, *args, **kwargs)

        return await self.state.run(act)


def state_of(request: Request) -> State:
    state: State = request.app.state.ledgermill
    return state


async def authenticate(request: Request) -> Books:
    """Who calls, by `Authorization: Bearer KEY` or `X-API-Key: KEY`. Raises Unauthenticated."""
    secret = request.headers.get("x-api-key")
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if secret is None and scheme.lower() == "bearer":
        secret = credentials.strip()
    if not secret or len(secret) > 200:  # noqa: PLR2004 - ours are 46
        raise Unauthenticated
    state = state_of(request)
    caller = await state.run(lambda tx: api_keys.find(tx, hash_key(secret)))
    if caller is None:
        raise Unauthenticated
    return Books(state, caller)


def _with_scope(scope: str) -> Callable[[Books], Books]:
    def check(books: Annotated[Books, Depends(authenticate)]) -> Books:
        if scope not in books.caller.scopes:
            raise ScopeMissing(scope=scope)
        return books

    return check


Reading = Annotated[Books, Depends(_with_scope("read"))]
Posting = Annotated[Books, Depends(_with_scope("post"))]
Opening = Annotated[Books, Depends(_with_scope("ledgers"))]


async def read_body(request: Request) -> bytes:
    """The body, up to the size that the settings allow. Raises InvalidField."""
    most = state_of(request).settings.most_body_bytes
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise InvalidField(field="the body", problem=f"is larger than {most} bytes; send several requests")
        chunks.append(chunk)
    return b"".join(chunks)


Body = Annotated[bytes, Depends(read_body)]


def wait_s(request: Request, *, default: float) -> float:
    """How long the client wants to wait (RFC 7240): `Prefer: wait=N`, or not at all with `respond-async`."""
    preferences = request.headers.get("prefer", "").lower()
    if "respond-async" in preferences:
        return 0.0
    asked = re.search(r"\bwait\s*=\s*\"?(\d{1,4})", preferences)
    return min(float(asked.group(1)), LONGEST_WAIT_S) if asked else default


def correlation_of(request: Request) -> str | None:
    """The trace that the request belongs to (W3C traceparent), kept with its jobs."""
    found = request.headers.get("traceparent") or request.headers.get("x-correlation-id")
    return None if found is None or not found.isprintable() else found[:200]


def answer(body: BaseModel, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A model as JSON; integers of any length stay whole."""
    return Response(body.model_dump_json(), status, headers, media_type="application/json")


def openapi_body(*media: tuple[str, dict[str, Any]], required: bool = True) -> dict[str, Any]:
    """The OpenAPI description of a body that a route reads by itself."""
    return {"requestBody": {"required": required, "content": {kind: {"schema": schema} for kind, schema in media}}}
