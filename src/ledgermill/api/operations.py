"""Routes for operators: is it alive, is it ready, and the metrics."""

import hmac
from typing import Final

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ledgermill.api import shapes
from ledgermill.api.dependencies import state_of
from ledgermill.api.metrics import LedgermillCollector
from ledgermill.api.pause_metrics import PauseCollector
from ledgermill.api.verification_metrics import VerificationCollector
from ledgermill.errors import BrokerUnavailable, NotMigrated, Unauthenticated
from ledgermill.messages import routes
from ledgermill.storage import metrics, migrations, releases

router = APIRouter(tags=["operations"])

NEEDED_MIGRATION: Final = migrations.newest()


@router.get("/healthz")
async def health() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@router.get("/readyz", responses=shapes.problems(503))
async def readiness(request: Request) -> dict[str, str]:
    """The database answers and has the migrations of this release, and the broker answers.

    `paused`, where it is there, names the kinds of jobs that workers do not post, since jobs fail and none is posted.
    """
    state = state_of(request)
    found = await state.run(metrics.migration)
    if found != NEEDED_MIGRATION:
        raise NotMigrated(found=found, needed=NEEDED_MIGRATION)
    if not await anyio.to_thread.run_sync(state.broker.is_there):
        raise BrokerUnavailable
    pauses = await state.run(releases.pauses)
    paused = {"paused": ", ".join(sorted({pause.kind for pause in pauses}))} if pauses else {}
    return {"status": "ready", "migration": found, **paused}


@router.get("/metrics", response_class=PlainTextResponse, responses=shapes.problems(401, 503))
async def read_metrics(request: Request) -> Response:
    """Jobs, waiting times, queue lengths, batches and phases, for Prometheus."""
    state = state_of(request)
    if (key := state.settings.metrics_key) is not None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
            raise Unauthenticated
    waiting = await state.run(metrics.waiting)
    ended = await state.run(metrics.ended)
    verifications = await state.run(metrics.verifications)
    pauses = await state.run(releases.pauses)
    queues = [*routes.posting_queues(lanes=state.settings.posting_lanes), routes.MAINTENANCE_QUEUE]
    counters, lengths = await anyio.to_thread.run_sync(state.broker.counters_and_lengths, queues)
    registry = CollectorRegistry()
    registry.register(LedgermillCollector(waiting, ended, counters, lengths, state.room.in_inbox, state.room.in_broker))
    registry.register(VerificationCollector(verifications))
    registry.register(PauseCollector(pauses))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
