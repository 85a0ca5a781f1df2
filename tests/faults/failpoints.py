"""Named points in a worker or API process where a test lets it die, fail, sleep or stand still.

The product has no hooks: `install`, called by `tests.faults.failing_app`, wraps functions of ours. A test arms one point
at a time, in a folder that the processes share:

    points = Failpoints(folder)                     # give processes `points.environment`
    points.arm("P6", action="kill", nth=3)          # the third time that any of them comes there
    fired = points.wait(timeout_s=20)               # in which process; None if nobody came
    points.resume(fired)                            # after "stop": it goes on
"""

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import psycopg
from redis.exceptions import ConnectionError as RedisConnectionError

Action = Literal["kill", "raise", "sleep", "stop"]
FOLDER: Final = "LEDGERMILL_FAILPOINTS"
SLEEP_S: Final = "LEDGERMILL_FAILPOINT_SLEEP_S"


class Point(NamedTuple):
    """A place in the code; the programs that come there, with which traffic; and what makes sense there.

    Programs: posting, maintenance, api. Traffic: message (broker), http, later (messages with a due_at, or that come
    again), sweep (an inbox whose rings are lost; beat).
    """

    where: str
    programs: tuple[str, ...]
    traffic: str
    actions: tuple[Action, ...] = ("kill", "raise", "sleep", "stop")


POINTS: Final[Mapping[str, Point]] = {
    "P1": Point("API: accepted and committed, before the ring", ("api",), "http"),
    "P2": Point("API: rung, before the answer", ("api",), "http"),
    "P3": Point("moved into the taker's list in Redis, and the answer is lost", ("posting",), "message"),
    "P4": Point("heard a ring, before the claim", ("posting",), "http"),
    "P5": Point("the claim is committed, before the work", ("posting",), "http"),
    "P6": Point("all is written, before COMMIT", ("posting",), "message"),
    "P7": Point("COMMIT is sent, its answer not read", ("posting",), "message"),
    "P8": Point("committed and told, before the messages are dropped", ("posting",), "message"),
    "P9": Point("dropped, before the pool process returns", ("posting",), "message"),
    "X1": Point("taken, before anything is read", ("posting",), "message"),
    "X2": Point("kept in the inbox, before the message is dropped", ("posting",), "later"),
    "S1": Point("sweep: lanes found, before the ring", ("maintenance",), "sweep"),
}


class Injected(Exception):
    """What "raise" raises where nothing that can really happen fits better."""


class Fired(NamedTuple):
    """A point that went off, in which process. `stopped` are the processes that `resume` wakes."""

    name: str
    action: Action
    pid: int
    stopped: tuple[int, ...]


class Failpoints:
    """The test's side. `sleep_s` is longer than the lease of what is at work."""

    def __init__(self, folder: Path, *, sleep_s: float = 10.0) -> None:
        self._folder = folder
        self.sleep_s = sleep_s
        folder.mkdir(exist_ok=True, parents=True)

    @property
    def environment(self) -> dict[str, str]:
        """For programs that run the app or `create_app` of `tests.faults.failing_app`, in the project's folder."""
        return {FOLDER: str(self._folder), SLEEP_S: str(self.sleep_s)}

    def arm(self, name: str, *, action: Action, nth: int = 1) -> None:
        """Let the `nth` process that comes to this point meet this; once, and instead of what was armed before."""
        assert action in POINTS[name].actions
        self.disarm()
        draft = self._folder / "draft"
        draft.write_text(f"{name}:{nth}:{action}")
        draft.rename(self._folder / "armed")

    def disarm(self) -> None:
        for name in ("armed", "came", "fired"):
            (self._folder / name).unlink(missing_ok=True)

    def fired(self) -> Fired | None:
        try:
            name, action, pid, stopped = json.loads((self._folder / "fired").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return Fired(name, action, pid, tuple(stopped))

    def wait(self, *, timeout_s: float) -> Fired | None:
        """What went off, as soon as it does."""
        deadline = time.monotonic() + timeout_s
        while (found := self.fired()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return found

    def resume(self, fired: Fired) -> None:
        """Let go on what stands still."""
        for pid in fired.stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def reach(name: str, *, error: Callable[[], BaseException] = lambda: Injected("a failpoint")) -> None:
    """A process comes to a point; where that is armed for it, it meets its fate."""
    folder = Path(os.environ[FOLDER])
    try:
        armed, nth, action = (folder / "armed").read_text().split(":")
    except (FileNotFoundError, ValueError):
        return
    if armed != name:
        return
    file = os.open(folder / "came", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b".")  # all that came, also from other processes: each append makes it one longer
    came = os.lseek(file, 0, os.SEEK_CUR)
    os.close(file)
    if came == int(nth):
        _meet(name, action, folder, error)


def _meet(name: str, action: str, folder: Path, error: Callable[[], BaseException]) -> None:
    with suppress(FileNotFoundError):
        (folder / "armed").unlink()
    # A host that stands still takes the worker's main process along, which else would end its child.
    standing = [os.getppid(), os.getpid()] if action == "stop" else []
    draft = folder / f"fired.{os.getpid()}"
    draft.write_text(json.dumps([name, action, os.getpid(), standing]))
    draft.rename(folder / "fired")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise error()
    elif action == "sleep":
        time.sleep(float(os.environ[SLEEP_S]))
    else:
        for pid in standing:
            os.kill(pid, signal.SIGSTOP)


def install() -> None:
    """In the process that is to fail, before it forks: wrap what the points stand at."""
    if FOLDER not in os.environ:
        return
    from ledgermill.api.bell import Bell  # noqa: PLC0415 - only processes that fail need them all
    from ledgermill.broker.intake import Intake  # noqa: PLC0415
    from ledgermill.broker.publishing import Broker  # noqa: PLC0415
    from ledgermill.storage import claims, connections, inbox  # noqa: PLC0415
    from ledgermill.usecases import delivery, posting, waiting  # noqa: PLC0415
    from workers import posting as worker  # noqa: PLC0415

    _wrap(Bell, "ring", before="P1")
    _wrap(Broker, "ring", after="P2", only="api")
    _wrap(Intake, "take", after="P3", error=lambda: RedisConnectionError("a failpoint: the answer is lost"))
    _wrap(Intake, "take", after="X1", error=MemoryError, only_if=bool)
    _wrap(claims, "claim", before="P4")
    _wrap(waiting, "_settle_groups", before="P5")
    _wrap(worker, "_settle", after="P8")
    _wrap(worker, "_drain", after="P9")
    for keeping in ("_keep", "_keep_for_later"):
        _wrap(delivery, keeping, after="X2", error=lambda: psycopg.OperationalError("a failpoint: no answer to COMMIT"))
    _wrap(inbox, "lanes_to_ring", after="S1", only_if=bool)
    _around_commits(connections, posting)


def _wrap(
    owner: Any,
    name: str,
    *,
    before: str | None = None,
    after: str | None = None,
    only: str | None = None,
    only_if: Callable[[Any], bool] = lambda _: True,
    **options: Any,
) -> None:
    """Put points around a function; the one after it only where `only_if` holds of what it returned."""
    wrapped = getattr(owner, name)

    @functools.wraps(wrapped)
    def with_points(*args: Any, **named: Any) -> Any:
        if before:
            reach(before, **options)
        found = wrapped(*args, **named)
        if after and only_if(found) and (only is None or only == _program()):
            reach(after, **options)
        return found

    setattr(owner, name, with_points)


def _program() -> str:
    return "api" if os.environ.get("LEDGERMILL_FAILPOINTS_API") else "worker"


def _around_commits(connections: Any, posting: Any) -> None:
    """P6 and P7 are at the commit of a transaction that posted, below SQLAlchemy: its answer is on the way there."""
    posts = _Flag()

    def do_commit(connection: Any) -> None:
        if not posts.take():
            connection.commit()
            return
        driver = connection.driver_connection
        with _closing_on_error(driver):
            reach("P6", error=lambda: psycopg.OperationalError("a failpoint: the connection is lost before COMMIT"))
            driver.pgconn.send_query(b"COMMIT")
            driver.pgconn.flush()
            reach("P7", error=lambda: psycopg.OperationalError("a failpoint: no answer to COMMIT"))
            result = driver.pgconn.get_result()
            if result is None or result.status != psycopg.pq.ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)
            while driver.pgconn.get_result() is not None:
                pass

    make_engine = connections.engine

    @functools.wraps(make_engine)
    def engine(*args: Any, **named: Any) -> Any:
        made = make_engine(*args, **named)
        made.dialect.do_commit = do_commit
        return made

    connections.engine = engine
    write = posting._finish

    @functools.wraps(write)
    def finish(*args: Any, **named: Any) -> Any:
        found = write(*args, **named)
        posts.is_set = True
        return found

    posting._finish = finish


class _Flag:
    """Whether the transaction under way has posted; a pool process works on one at a time."""

    is_set = False

    def take(self) -> bool:
        found, self.is_set = self.is_set, False
        return found


@contextmanager
def _closing_on_error(connection: Any) -> Iterator[None]:
    try:
        yield
    except psycopg.Error:
        connection.close()
        raise
