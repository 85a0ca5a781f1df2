"""`ledgermill api` serves HTTP; `ledgermill worker-health` says whether the worker beside it is alive."""

from typing import Annotated, Any, Final

import typer

from ledgermill.config import settings
from ledgermill.errors import InvalidField
from ledgermill.observability import configure_logging, is_fresh

HEARTBEAT_MAX_AGE_S = 15.0
STOP_WITHIN_S = 10

# Granian's own handlers and format make way for ours, which the root logger has.
LOG_AS_WE_DO: Final[dict[str, Any]] = {
    "loggers": {"_granian": {"handlers": [], "level": "INFO", "propagate": True}},
}

app = typer.Typer(help="Services.")


@app.command()
def api(*, workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1) -> None:
    """Serve HTTP on API_HOST and API_PORT until SIGTERM."""
    from granian import Granian  # noqa: PLC0415 - the health check beside it starts every few seconds
    from granian.constants import Interfaces  # noqa: PLC0415

    configure_logging(level=settings().log_level, as_json=settings().log_format == "json")
    Granian(
        "ledgermill.api.app:create_app",
        address=settings().api_host,
        port=settings().api_port,
        interface=Interfaces.ASGI,
        workers=workers,
        factory=True,
        log_access=False,
        log_dictconfig=LOG_AS_WE_DO,
        websockets=False,
        workers_kill_timeout=STOP_WITHIN_S,
    ).serve()


@app.command()
def worker_health() -> None:
    """Exit with 0 if the worker that touches LEDGERMILL_HEARTBEAT_FILE is alive, else with 1."""
    path = settings().ledgermill_heartbeat_file
    if path is None:
        raise InvalidField(field="LEDGERMILL_HEARTBEAT_FILE", problem="is not set, so nobody knows")
    if not is_fresh(path, max_age_s=HEARTBEAT_MAX_AGE_S):
        typer.echo(f"{path} was not touched within {HEARTBEAT_MAX_AGE_S:.0f} s.", err=True)
        raise typer.Exit(1)
