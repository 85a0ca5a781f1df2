"""What a route gets: who calls, transactions that show only the caller's organization, and the parts of a request."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from fastapi import Depends, Request, Response
from pydantic import BaseModel

from ledgermill.api.bell import Bell
from ledgermill.api.gathering import Gatherer
from ledgermill.api.room import Room
from ledgermill.api.waiters import Waiters
from ledgermill.broker.publishing import Broker
from ledgermill.config import Settings
from ledgermill.errors import DatabaseUnavailable, InvalidField, OrganizationDraining, ScopeMissing, Unauthenticated
from ledgermill.storage import api_keys, connections, failures, inbox, jobs, outcomes
from ledgermill.storage.api_keys import Caller
from ledgermill.storage.connections import AsyncEngine, AsyncStatement, AsyncStatements, Transaction
from ledgermill.storage.inbox import Waiting
from ledgermill.storage.outcomes import Outcome
from ledgermill.usecases.organizations import hash_key

LONGEST_WAIT_S = 60.0
ANSWERED_WITHIN_S = 10.0  # the server ends each statement after 2 s; who is silent for so long is gone

P = ParamSpec("P")
T = TypeVar("T")
Asked = TypeVar("Asked")


class State:
    """What one API process holds.

    `keys`, `ended_jobs`, `outcomes` and `inbox` gather: by key hash, by key hash and job id, and by key hash and what
    to accept.
    """

    def __init__(
        self, settings: Settings, engine: AsyncEngine, statements: AsyncStatements, broker: Broker, waiters: Waiters
    ) -> None:
        self.settings, self.engine, self.statements = settings, engine, statements
        self.broker, self.waiters, self.bell = broker, waiters, Bell(broker)
        self.room = Room(settings, statements, broker)
        self.keys: Gatherer[bytes, Caller | None] = Gatherer(self._asking(api_keys.find_many))
        self.ended_jobs: Gatherer[tuple[bytes, UUID | None], jobs.Found | None] = Gatherer(
            self._asking(jobs.find_ended)
        )
        self.outcomes: Gatherer[tuple[bytes, UUID], Outcome | None] = Gatherer(self._asking(outcomes.find))
        self.inbox: Gatherer[tuple[bytes, Waiting], str | None] = Gatherer(self._accept)

    async def run(self, act: Callable[[Transaction], T]) -> T:
        """Run `act` in a transaction of its own.

        Raises: DatabaseUnavailable, where the database is away or too slow; InvalidField, where it cannot be asked, as
        for a name that holds a NUL.
        """
        async with _our_errors(), self.engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            with connections.answering_within(driver, ANSWERED_WITHIN_S):  # type: ignore[arg-type]  # it is psycopg's
                async with connection.begin():
                    return await connection.run_sync(act)

    def _asking(
        self, find: Callable[[AsyncStatement, Sequence[Asked]], Awaitable[Sequence[T]]]
    ) -> Callable[[Sequence[Asked]], Awaitable[Sequence[T]]]:
        async def ask(asked: Sequence[Asked]) -> Sequence[T]:
            async with _our_errors(), self.statements.connection() as connection:
                with connections.answering_within(connection, ANSWERED_WITHIN_S):
                    return await find(connection, asked)

        return ask

    async def _accept(self, asked: Sequence[tuple[bytes, Waiting]]) -> Sequence[str | None]:
        states = await self._asking(inbox.accept)(asked)
        for _, waiting in asked:
            self.bell.ring(waiting.lane)  # here, since it is committed also where its client has gone meanwhile
        return states


@asynccontextmanager
async def _our_errors() -> AsyncIterator[None]:
    try:
        yield
    except failures.DatabaseError as error:
        if failures.is_temporary(error):
            raise DatabaseUnavailable from error
        if failures.is_unstorable(error):
            raise InvalidField(field="the request", problem=failures.problem(error)) from None
        raise


class Books:
    """The caller's organization: use cases run in a transaction that shows nothing else."""

    def __init__(self, state: State, caller: Caller, *, key_sha256: bytes) -> None:
        self.state, self.caller, self.key_sha256 = state, caller, key_sha256

    def require(self, scope: str) -> None:
        """Raises ScopeMissing."""
        if scope not in self.caller.scopes:
            raise ScopeMissing(scope=scope)

    async def run(
        self, use_case: Callable[Concatenate[Transaction, int, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `use_case(tx, organization_id, …)` in one transaction."""

        def act(tx: Transaction) -> T:
            connections.show_organization(tx, self.caller.organization_id)
            return use_case(tx, self.caller.organization_id, *args, **kwargs)

        return await self.state.run(act)

    async def outcome(self, job_id: UUID) -> Outcome | None:
        """How a job ended; None where it has not, or is none of the caller's. The caller may read, or asked for it."""
        return await self.state.outcomes.ask((self.key_sha256, job_id))

    def require_room(self) -> None:
        """Raises Backlogged, where what was accepted before waits too long."""
        self.state.room.require(self.caller.organization_uuid)

    async def accept(self, waiting: Waiting) -> None:
        """Put one job into the inbox, in one transaction with what others accept now; workers are rung for.

        Raises: OrganizationDraining; Unauthenticated, where the key was revoked since.
        """
        state = await self.state.inbox.ask((self.key_sha256, waiting), size=len(waiting.payload))
        if state is None:
            raise Unauthenticated
        if state == "draining":
            raise OrganizationDraining(organization=self.caller.organization_code)


def state_of(request: Request) -> State:
    state: State = request.app.state.ledgermill
    return state


def key_of(request: Request) -> bytes:
    """The hash of the key that came, as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Raises Unauthenticated."""
    secret = request.headers.get("x-api-key")
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if secret is None and scheme.lower() == "bearer":
        secret = credentials.strip()
    if not secret or len(secret) > 200:  # noqa: PLR2004 - ours are 46
        raise Unauthenticated
    return hash_key(secret)


async def authenticate(request: Request) -> Books:
    """Who calls, by a key that is valid at this moment. Raises Unauthenticated."""
    state, sha256 = state_of(request), key_of(request)
    caller = await state.keys.ask(sha256)
    if caller is None:
        raise Unauthenticated
    return Books(state, caller, key_sha256=sha256)


def _with_scope(scope: str) -> Callable[[Books], Awaitable[Books]]:
    async def check(books: Annotated[Books, Depends(authenticate)]) -> Books:  # async, or it would take a thread
        books.require(scope)
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
