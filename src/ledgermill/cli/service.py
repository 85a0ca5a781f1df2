"""`ledgermill up`, `down` and `status`: all of ledgermill on one machine."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ledgermill.cli import machine_state
from ledgermill.cli.machine_state import State
from ledgermill.cli.session import print_json
from ledgermill.config import settings
from ledgermill.embedded import processes, supervisor

NOT_READY = 3
READY_WITHIN_S = 120.0  # a first start on a slow disk
DOWN_WITHIN_S = 150.0
POLL_S = 0.05

app = typer.Typer(help="All of ledgermill on one machine.")


@app.command()
def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready, and leave it running.")] = False,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Open a demonstration organization.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", hidden=True)] = False,
) -> None:
    """Start PostgreSQL, Redis, the workers, beat, the API and Flower on this machine, and stay until Ctrl-C.

    Data and run files live in LEDGERMILL_HOME. With DATABASE_URL or BROKER_URL set, these servers are used instead of
    ones of our own. A port in use: the next free one.
    """
    home = settings().home
    machine_state.prepare(home)
    if detach and not machine_state.is_supervised(home):
        _detach(home, demo=demo)
        return
    with machine_state.supervising(home) as is_ours:
        if is_ours:
            machine_state.write(home, State(supervisor=os.getpid()))
            typer.echo("Starting ...")
            from ledgermill.cli.machine import Machine  # noqa: PLC0415 - `status` does not wait for SQLAlchemy
            from ledgermill.observability import configure_logging  # noqa: PLC0415

            configure_logging(level="WARNING", as_json=False)
            Machine(settings(), with_demonstration=demo).run(_say_nothing if quiet else _announce)
            typer.echo("Stopped.")
            return
    state = _wait_until_ready(home, None)
    if not state.ready:
        typer.echo(state.problem or "Another `ledgermill up` runs here and is not ready.", err=True)
        raise typer.Exit(1)
    typer.echo("It is up already.")
    _announce(state)


@app.command()
def down() -> None:
    """Stop what `ledgermill up` started, also what is left of one that was killed."""
    home = settings().home
    if not home.exists():
        typer.echo("Nothing is up.")
        return
    machine_state.prepare(home)
    give_up_at = time.monotonic() + DOWN_WITHIN_S
    was_up = asked = False
    while True:
        with machine_state.supervising(home) as is_ours:
            if is_ours:
                from ledgermill.cli.machine import STOP_WITHIN_S, stop_servers  # noqa: PLC0415 - as above

                left = supervisor.end_leftovers(home, within_s=STOP_WITHIN_S)
                stop_servers(home)
                machine_state.write(home, State())
                break
        pid = machine_state.read(home).supervisor
        if pid is not None and not asked:
            was_up = asked = True
            os.kill(pid, signal.SIGTERM)  # it holds the lock, so this pid is its own
        if time.monotonic() > give_up_at:
            typer.echo(f"It did not stop within {DOWN_WITHIN_S:.0f} s.", err=True)
            raise typer.Exit(1)
        time.sleep(POLL_S)
    typer.echo("Stopped." if was_up else f"Processes left behind, now ended: {left}." if left else "Nothing is up.")


@app.command()
def status(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what runs. Exit code 0 if it is ready, else 3."""
    state = _state(settings().home)
    if as_json:
        shown = asdict(state)
        del shown["notes"], shown["problem"], shown["supervisor"]
        supervising = {} if state.supervisor is None else {"supervisor": state.supervisor}
        print_json({**shown, "pids": {**supervising, **state.pids}})
    elif state.ready:
        _announce(state)
        for name, pid in state.pids.items():
            typer.echo(f"  {name:<12} pid {pid}")
        if state.paused:
            typer.echo(f"The workers pause, since jobs fail and none is posted: {state.paused}. Their log says more.")
    else:
        if state.supervisor:
            typer.echo("It is starting, or not well.")
        elif any(supervisor.marked(settings().home)):
            typer.echo("It was killed; `ledgermill down` ends what is left of it, and `ledgermill up` too.")
        else:
            typer.echo("Nothing is up.")
        if state.problem:
            typer.echo(state.problem)
    if not state.ready:
        raise typer.Exit(NOT_READY)


def _state(home: Path) -> State:
    """What runs now: the state that was kept is only as good as the supervisor that keeps it."""
    state = machine_state.read(home)
    if not machine_state.is_supervised(home):
        return State(problem=state.problem)
    answer = machine_state.read_answer(state.api_url or "", "/readyz") if state.ready else None
    state.ready = answer is not None
    state.paused = json.loads(answer).get("paused") if answer else None
    return state


def _detach(home: Path, *, demo: bool) -> None:
    log = home / "log" / "up.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "ledgermill.cli", "up", "--quiet", "--demo" if demo else "--no-demo"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    state = _wait_until_ready(home, started)
    if not state.ready:
        typer.echo(state.problem or processes.tail(log) or "It is not ready; see the logs.", err=True)
        typer.echo(f"Logs are in {log.parent}.", err=True)
        raise typer.Exit(1)
    _announce(state)


def _wait_until_ready(home: Path, started: subprocess.Popen[bytes] | None) -> State:
    """The state once it is ready, or once that is hopeless."""
    give_up_at = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up_at:
        has_ended = started is not None and started.poll() is not None
        state = machine_state.read(home)
        if state.ready and machine_state.is_supervised(home):
            return state
        if has_ended and not machine_state.is_supervised(home):
            return state
        time.sleep(POLL_S)
    return State(problem=f"It was not ready within {READY_WITHIN_S:.0f} s.")


def _say_nothing(_: State) -> None:
    """What is detached writes to a log, where no key belongs."""


def _announce(state: State) -> None:
    for note in state.notes:
        typer.echo(note)
    typer.echo(f"API       {state.api_url}/docs")
    typer.echo(f"Flower    {state.flower_url}  (read-only; open to this machine only, so it asks for no password)")
    typer.echo(f"Logs      {settings().home / 'log'}")
    if state.api_key is None:
        typer.echo("Make an organization and a key: ledgermill organization create --help")
        return
    typer.echo(f"API key   {state.api_key}  (organization {state.organization})")
    curl = f"curl -s -H 'Authorization: Bearer {state.api_key}'"
    journal = (
        '{"entries": [{"ledger_code": "BANK", "type": "debit", "amount": 12500},'
        ' {"ledger_code": "SALES-ONLINE", "type": "credit", "amount": 12500}]}'
    )
    typer.echo("Try:")
    for path in ("ledgers/tree", "ledgers/BANK/balance", "ledgers/BANK/entries?limit=3", "jobs?state=rejected"):
        typer.echo(f"  {curl} '{state.api_url}/v1/{path}'")
    typer.echo(f"  {curl} {state.api_url}/v1/ledgers/journals -H 'Content-Type: application/json' -d '{journal}'")
