"""`ledgermill up` on this machine: ready, used, hurt, stopped, and back with its data."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ledgermill.embedded import ports, postgres, redis, supervisor

VARIABLES_OF_OTHERS = ("DATABASE_URL", "BROKER_URL", "API_PORT", "WORKER_DATABASE_URL", "API_DATABASE_URL")


class Machine:
    """A home, and `ledgermill` in it."""

    def __init__(self, home: Path, *, api_port: int) -> None:
        self.home = home
        inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES_OF_OTHERS}
        self.environment = {**inherited, "LEDGERMILL_HOME": str(home), "API_PORT": str(api_port)}

    def __call__(self, *arguments: str, exits_with: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ledgermill.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == exits_with, done.stdout + done.stderr
        return done.stdout

    def status(self, *, exits_with: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", "--json", exits_with=exits_with))
        return found

    def processes(self) -> set[int]:
        """What runs of this home: what the supervisor marked, and the two servers."""
        servers = [postgres.running(self.home), redis.running(self.home)]
        return {*supervisor.marked(self.home), *(server.pid for server in servers if server)}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="ledgermill-up-") as folder:
        Path(folder).chmod(0o755)
        found = Machine(Path(folder) / "home", api_port=ports.next_free(18_080))
        try:
            yield found
        finally:
            found("down")
            redis.discard(found.home)
            postgres.discard(found.home)


def get(state: dict[str, Any], path: str) -> Any:
    parts = urlsplit(state["api_url"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    connection.request("GET", path, headers={"Authorization": f"Bearer {state['api_key']}"})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, body
    return body


def wait_for(happens: Callable[[], bool], *, within_s: float) -> None:
    give_up_at = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_it_comes_up_is_hurt_goes_down_and_comes_back_with_its_data(machine: Machine) -> None:
    assert not machine.status(exits_with=3)["ready"]

    # A first start: the demonstration is there and posts.
    output = machine("up", "--detach")
    state = machine.status()
    assert state["api_key"] in output
    assert set(state["pids"]) == {
        "supervisor", "postgres", "redis", "posting", "maintenance", "beat", "api", "flower"
    }  # fmt: skip
    assert (machine.home / "secrets.json").stat().st_mode & 0o077 == 0
    assert (machine.home / "run" / "state.json").stat().st_mode & 0o077 == 0
    wait_for(lambda: get(state, "/v1/ledgers/BANK/balance")["entry_count"] > 150, within_s=10)
    assert {"INSUFFICIENT_BALANCE", "LEDGER_NOT_FOUND", "HEAD_LEDGER", "UNBALANCED"} <= {
        job["error"]["code"] for job in get(state, "/v1/jobs?state=rejected")["jobs"]
    }
    assert "It is up already." in machine("up")

    # A worker that is killed comes back, and so does a server.
    for name in ("posting", "redis"):
        pid = state["pids"][name]
        os.kill(pid, signal.SIGKILL)

        def is_back(name: str = name, pid: int = pid) -> bool:
            now = json.loads((machine.home / "run" / "state.json").read_text())
            return bool(now["ready"]) and now["pids"].get(name, pid) != pid

        wait_for(is_back, within_s=15)
    journals = get(state, "/v1/ledgers/BANK/balance")["entry_count"]

    # Down, and up again.
    machine("down")
    assert machine.processes() == set()
    assert not machine.status(exits_with=3)["ready"]
    started = time.monotonic()
    machine("up", "--detach")
    assert time.monotonic() - started < 15  # 6 s on a machine that does nothing else
    again = machine.status()
    assert (again["api_key"], again["database_url"]) == (state["api_key"], state["database_url"])
    assert get(again, "/v1/ledgers/BANK/balance")["entry_count"] == journals

    # Killed without a word: the next `down` finds what is left.
    os.kill(again["pids"]["supervisor"], signal.SIGKILL)
    assert machine.processes()
    assert "Processes left behind" in machine("down")
    assert machine.processes() == set()


def test_a_port_in_use_gives_the_next_one_and_says_so(machine: Machine) -> None:
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, ports.next_free(18_090)))
        taken.listen()
        port = taken.getsockname()[1]
        machine.environment["API_PORT"] = str(port)

        output = machine("up", "--detach", "--no-demo")
        state = machine.status()
        machine("down")

    chosen = urlsplit(state["api_url"]).port
    assert chosen is not None
    assert chosen > port
    assert f"Port {port} is in use: the API listens on {chosen}." in output
    assert state["api_key"] is None


def test_servers_that_are_given_are_used_and_a_start_that_fails_says_why(machine: Machine) -> None:
    machine.environment["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/none"
    machine.environment["BROKER_URL"] = "redis://127.0.0.1:9/0"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ledgermill.cli", "up", "--detach"],
            env=machine.environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        del machine.environment["DATABASE_URL"], machine.environment["BROKER_URL"]

    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert machine.processes() == set()
