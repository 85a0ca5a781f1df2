"""A real Redis for one machine: started, found and stopped by the folder that it lives in."""

import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ledgermill.embedded import places, ports, processes, redis_programs
from ledgermill.embedded.places import Place
from ledgermill.errors import ServerDidNotStart

NAME = "redis"
LOGIN = "default"
MOST_MEMORY = "512mb"
READY_WITHIN_S = 60.0  # reading a large append-only file back

# The shell ends at once and leaves the server to the system: no zombie of ours, and its pid is known before it is up.
LAUNCH = '"$0" "$1" </dev/null >>"$2" 2>&1 & echo $!'


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running server."""

    url: str
    port: int
    pid: int
    data_dir: Path


def start(home: Path, *, preferred_port: int = 6380) -> RedisServer:
    """Start the server whose data live below `home`; if it already runs, return it.

    It keeps its data, its password and, while that is free, its port from start to start; it outlives this process.
    Raises `ServerDidNotStart`, which quotes the end of the server's log.
    """
    try:
        with places.locked(home, NAME):
            place = places.prepare(home, NAME, logins=(LOGIN,), port=preferred_port)
            if pid := _pid(place):
                try:
                    return _wait_until_ready(place, pid=pid)
                except ServerDidNotStart:
                    if _pid(place):
                        raise  # else it was just killed, and looked alive for a moment
            return _launch(place)
    except OSError as error:
        raise ServerDidNotStart(server="Redis", reason=str(error)) from error


def stop(home: Path, *, save: bool = True) -> None:
    """Stop the server and wait until it is gone; nothing happens if it does not run.

    With `save` all that it was told is on disk afterwards. Without, it is killed: what it had not written is lost.
    """
    if not (place := places.find(home, NAME)):
        return
    with places.locked(home, NAME):
        if pid := _pid(place):
            gently = [(signal.SIGTERM, 30.0)] if save else []
            processes.end(pid, _configuration(place), [*gently, (signal.SIGKILL, 10.0)])


def running(home: Path) -> RedisServer | None:
    """The server below `home` if it runs and answers."""
    place = places.find(home, NAME)
    pid = _pid(place) if place else None
    if place and pid and _answers(place):
        return _server(place, pid=pid)
    return None


def wipe(home: Path) -> None:
    """Delete the data of a stopped server (one that runs is killed); its password and port stay."""
    stop(home, save=False)
    if not (place := places.find(home, NAME)):
        return
    with places.locked(home, NAME):
        if place.data_dir.exists():
            shutil.rmtree(place.data_dir)


def discard(home: Path) -> None:
    """Stop the server and delete all of it, also what had to live outside `home`."""
    wipe(home)
    if place := places.find(home, NAME):
        places.remove(place)


def _launch(place: Place) -> RedisServer:
    program = redis_programs.server(place)
    places.make_folder(place.data_dir, mode=0o700, account=place.account)
    while True:
        # Written down first: should we die now, the next start finds the server by it.
        place = places.remember(place, port=ports.next_free(place.port))
        places.write(_configuration(place), _settings(place), account=place.account)
        places.new_log(place)
        ended = processes.run(
            ["/bin/sh", "-c", LAUNCH, program, _configuration(place), place.log], account=place.account
        )
        if not ended.stdout.strip().isdigit():
            raise ServerDidNotStart(server="Redis", reason=ended.stdout)
        try:
            return _wait_until_ready(place, pid=int(ended.stdout))
        except ServerDidNotStart:
            if ports.is_free(place.port):
                raise  # else the port was taken under our eyes: try the next


def _settings(place: Place) -> str:
    folder = str(place.data_dir).replace("\\", "\\\\").replace('"', '\\"')
    lines = [
        "# Written anew by ledgermill at each start.",
        f"bind {ports.LOOPBACK}",
        f"port {place.port}",
        f"requirepass {place.passwords[LOGIN]}",
        f'dir "{folder}"',
        "pidfile server.pid",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',  # the append-only file has it all
        f"maxmemory {MOST_MEMORY}",  # it refuses what is more, rather than to take all that the machine has
        "maxmemory-policy noeviction",  # a broker that forgets messages is none
        "tcp-backlog 128",
        "set-proc-title no",  # the server is recognised by its arguments
    ]
    return "\n".join([*lines, ""])


def _configuration(place: Place) -> Path:
    return place.folder / "redis.conf"


def _pid(place: Place) -> int | None:
    try:
        pid = int((place.data_dir / "server.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if processes.is_alive(pid, _configuration(place)) else None


def _server(place: Place, *, pid: int) -> RedisServer:
    url = f"redis://:{place.passwords[LOGIN]}@{ports.LOOPBACK}:{place.port}/0"
    return RedisServer(url=url, port=place.port, pid=pid, data_dir=place.data_dir)


def _wait_until_ready(place: Place, *, pid: int) -> RedisServer:
    deadline = time.monotonic() + READY_WITHIN_S
    while processes.is_alive(pid, _configuration(place)) and time.monotonic() < deadline:
        if _answers(place):
            return _server(place, pid=pid)
        time.sleep(processes.POLL_S)
    raise ServerDidNotStart(server="Redis", reason=f"{processes.tail(place.log)}\n(from {place.log})")


def _answers(place: Place) -> bool:
    once = Retry(NoBackoff(), 0)
    client = Redis(host=ports.LOOPBACK, port=place.port, password=place.passwords[LOGIN], socket_timeout=1, retry=once)
    try:
        with client:
            return bool(client.ping())
    except RedisError:  # not up yet, still loading its data, or a stranger on this port
        return False
