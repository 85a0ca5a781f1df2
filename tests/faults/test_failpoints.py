"""Every failpoint with every action that fits it, once, in real workers and a real API: each job ends once."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from failpoints import POINTS, Action, Failpoints
from fleet import Fleet, fleet, long
from running import Organization, eventually, journal

from ledgermill.config import Settings
from ledgermill.usecases.verify import verify

APP = "tests.faults.failing_app"
LEASE_S, LIMIT_S = 5, 3
CRASH_LOOP_S = 6.0  # granian gives up on an API that dies again so soon after it came back


class Stage(NamedTuple):
    programs: Fleet
    points: Failpoints
    books: Organization
    api_died_at: list[float]


@pytest.fixture(scope="module")
def stage(shared_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two workers, so that one goes on while the other stands still, and an API."""
    folder: Path = tmp_path_factory.mktemp("failpoints")
    points = Failpoints(folder / "points", sleep_s=LEASE_S + 2)
    limits = {"visibility_timeout_s": LEASE_S, "task_time_limit_s": LIMIT_S}
    with fleet(shared_settings.model_copy(update=limits), folder) as programs:
        for name in ("one", "two"):
            programs.worker(name, app=APP, has_beat=name == "one", environment=points.environment)
        url = programs.api(app=f"{APP}:create_app", environment=points.environment)
        yield Stage(programs, points, programs.system(api_url=url).new_organization(), [])


EACH: list[tuple[str, Action]] = [(name, action) for name, point in POINTS.items() for action in point.actions]


@pytest.mark.parametrize(
    ("name", "action"),
    [pytest.param(*one, marks=[] if one[1] == "kill" else [long], id="-".join(one)) for one in EACH],
)
def test_each_job_ends_once_whatever_happens_there(
    name: str, action: Action, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    programs, points, acme, api_died_at = stage
    kills_api = action == "kill" and "api" in POINTS[name].programs
    for died_at in api_died_at[-1:] if kills_api else ():
        time.sleep(max(0.0, died_at + CRASH_LOOP_S - time.monotonic()))
    before = acme.balance("TILL")
    keys = [f"{name}-{action}-{n}" for n in range(6)]
    points.arm(name, action=action)
    started = time.monotonic()

    unanswered = _send(acme, POINTS[name].traffic, keys)
    fired = points.wait(timeout_s=10)
    assert fired is not None, f"{name} was not reached\n{programs.log('one')[-2_000:]}"
    if kills_api:
        api_died_at.append(time.monotonic())
    if fired.stopped:
        time.sleep(LEASE_S + 1 if "posting" in POINTS[name].programs else 1)  # the lease ends; another has the jobs
        points.resume(fired)
    for key in unanswered:
        _until_accepted(acme, key)

    jobs = acme.ended(keys, within_s=40)
    took_s = time.monotonic() - started
    assert {job["state"] for job in jobs.values()} == {"posted"}
    if fired.stopped or action == "sleep":
        time.sleep(1)  # whoever comes back late must change nothing
    assert acme.balance("TILL") - before == 100 * len(keys)
    with capsys.disabled():
        print(f"\n{name} {action}: ended after {took_s:.1f} s", end="")


def test_the_books_hold_after_all_of_them(stage: Stage) -> None:
    report = verify(stage.books.system.owner.engine)

    assert report.is_clean, report.as_text()
    for name in ("one", "two"):
        assert stage.programs.started[name].poll() is None


def _send(acme: Organization, traffic: str, keys: list[str]) -> list[str]:
    """The keys of those that were sent over HTTP and had no answer that accepts them."""
    if traffic == "http":
        return [key for key in keys if not _is_accepted(acme, key)]
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    later = {"due_at": due.isoformat()} if traffic in {"later", "sweep"} else {}
    for start in range(0, len(keys), 2):
        acme.publish([journal(key, **later) for key in keys[start : start + 2]])
    return []


def _is_accepted(acme: Organization, key: str) -> bool:
    try:
        with httpx2.Client(base_url=acme.system.api_url, timeout=2) as client:
            headers = {"X-API-Key": acme.key, "Prefer": "respond-async"}
            return client.post("/v1/ledgers/journals", json=journal(key), headers=headers).is_success
    except httpx2.TransportError:
        return False


def _until_accepted(acme: Organization, key: str) -> None:
    eventually(lambda: _is_accepted(acme, key), within_s=20)
