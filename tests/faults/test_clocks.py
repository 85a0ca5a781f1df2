"""Workers whose clocks are hours ahead and behind: nothing is posted twice, and the books keep the database's time."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clocks import is_available, shifted
from fleet import Fleet, ended, fleet, long, new_books, publish, require_posted_once
from running import System, eventually, journal

from ledgermill.broker.publishing import redis_client
from ledgermill.config import Settings

pytestmark = pytest.mark.skipif(not is_available(), reason="needs the libfaketime wheel: Linux on x86-64")

AHEAD, BEHIND = timedelta(hours=2), timedelta(hours=-2)


def _worker(programs: Fleet, by: timedelta, name: str = "worker") -> None:
    programs.worker(name, environment=shifted(by), has_beat=name == "worker")


def _booked(system: System) -> list[datetime]:
    rows = system.rows("SELECT ended_at FROM ledgermill.job WHERE state = 'posted' ORDER BY position")
    return [row[0] for row in rows]


def test_workers_four_hours_apart_post_each_journal_once_and_in_the_order_of_the_database(
    settings: Settings, tmp_path: Path
) -> None:
    limits = {"visibility_timeout_s": 5, "task_time_limit_s": 3}
    with fleet(settings.model_copy(update=limits), tmp_path) as programs:
        system = programs.system()
        new_books(system)
        _worker(programs, AHEAD)
        _worker(programs, BEHIND, "other")
        started = datetime.now(UTC)
        keys = [f"m-{n}" for n in range(300)]

        publish(system, keys, each=5)
        publish(system, keys, each=7)

        require_posted_once(system, keys)
        booked = _booked(system)
        assert booked == sorted(booked)
        assert started - timedelta(seconds=1) <= booked[0] <= booked[-1] <= datetime.now(UTC) + timedelta(seconds=1)


@long
@pytest.mark.parametrize("by", [pytest.param(AHEAD, id="ahead"), pytest.param(BEHIND, id="behind")])
def test_a_journal_is_posted_at_its_time_whatever_the_worker_thinks_it_is(
    by: timedelta, settings: Settings, tmp_path: Path
) -> None:
    with fleet(settings, tmp_path) as programs:
        system = programs.system()
        new_books(system)
        _worker(programs, by)
        due = datetime.now(UTC) + timedelta(seconds=3)

        publish(system, ["later"], due_at=due.isoformat())
        publish(system, ["now"])

        eventually(lambda: ended(system, ["now"]))
        eventually(lambda: ended(system, ["later"]), within_s=10)
        (booked,) = system.rows("SELECT ended_at FROM ledgermill.job WHERE idempotency_key = 'later'")
        assert due <= booked[0] <= due + timedelta(seconds=5)


@long
@pytest.mark.parametrize("by", [pytest.param(AHEAD, id="ahead"), pytest.param(BEHIND, id="behind")])
def test_a_message_that_comes_back_is_posted_soon_whatever_the_worker_thinks_what_time_it_is(
    by: timedelta, settings: Settings, tmp_path: Path
) -> None:
    with fleet(settings, tmp_path) as programs:
        system = programs.system()
        new_books(system)
        system.publish("post_journals", organization="acme", journals=[journal("back")])
        _mark_as_redelivered(system)
        _worker(programs, by)

        eventually(lambda: ended(system, ["back"]), within_s=10)


@long
@pytest.mark.parametrize("by", [pytest.param(AHEAD, id="ahead"), pytest.param(BEHIND, id="behind")])
def test_what_an_api_accepts_is_posted_at_once_whatever_it_thinks_what_time_it_is(
    by: timedelta, settings: Settings, tmp_path: Path
) -> None:
    with fleet(settings, tmp_path) as programs:
        programs.worker()
        url = programs.api(environment=shifted(by))
        system = programs.system(api_url=url)
        acme = system.new_organization()
        answer = acme.post(journal("k"))

        assert answer.status_code == 201, answer.text


def _mark_as_redelivered(system: System) -> None:
    """As if a worker had taken it and died."""
    with redis_client(system.settings.broker_url.get_secret_value()) as client:
        raw = client.rpop("posting")
        message = json.loads(raw)  # type: ignore[arg-type]
        message["properties"]["delivery_info"]["redelivered"] = True
        client.lpush("posting", json.dumps(message))
