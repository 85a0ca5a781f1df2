"""The API: `create_app()` is what a server runs."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from ledgermill.api import jobs, journals, ledgers, operations, problems, rejected, shapes
from ledgermill.api.dependencies import State
from ledgermill.api.waiters import Waiters
from ledgermill.broker.publishing import Broker
from ledgermill.config import Settings
from ledgermill.config import settings as process_settings
from ledgermill.observability import configure_logging
from ledgermill.storage import connections

GARBAGE_COLLECTED_EVERY = 50_000  # objects more than before
DESCRIPTION = "Posts to double-entry ledgers, and tells what became of each job and what the balance is."


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; without settings, with those of the process."""
    chosen = settings or process_settings()
    configure_logging(level=chosen.log_level, as_json=chosen.log_format == "json")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = connections.api_engine(chosen.url_of("api"), prepare_threshold=chosen.db_prepare_threshold)
        statements = connections.api_statements(chosen.url_of("api"), prepare_threshold=chosen.db_prepare_threshold)
        await statements.open()
        broker = Broker(chosen)
        waiters = Waiters(chosen.broker_url.get_secret_value())
        waiters.start()
        app.state.ledgermill = state = State(chosen, engine, statements, broker, waiters)
        state.room.start()
        _collect_garbage_seldom()
        yield
        await state.room.stop()
        await state.bell.stop()
        await waiters.stop()
        broker.close()
        await statements.close()
        await engine.dispose()

    app = FastAPI(
        title="ledgermill", description=DESCRIPTION, version=version("ledgermill"), lifespan=lifespan, redoc_url=None
    )
    problems.install(app)
    for module in (jobs, journals, ledgers, rejected, operations):  # the busiest first; /journals is no ledger's name
        app.include_router(module.router)
    _describe(app)
    return app


def _collect_garbage_seldom() -> None:
    """Look no more at what lives as long as the process: half of what a body of 1,000 journals costs would be that."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_COLLECTED_EVERY)


def _describe(app: FastAPI) -> None:
    """Complete FastAPI's description with the shapes that routes read by themselves, and with how to authenticate."""
    made = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(shapes.schemas())
            for name in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(name, None)
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            for path, operations_ in document["paths"].items():
                for operation in operations_.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]  # FastAPI's own; ours is a 400
                    if path.startswith("/v1/"):
                        operation["security"] = [{"bearer": []}, {"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way to extend it
