"""Who is refused for what waits: the organizations of that lane, and only while it can be seen."""

import asyncio
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from ledgermill.api.room import Room
from ledgermill.broker.backlog import Seen
from ledgermill.config import Settings
from ledgermill.errors import Backlogged
from ledgermill.messages import routes

LANES = 4


class Away:
    """Neither the database nor the broker answers."""

    redis = property(lambda self: self)

    def connection(self) -> Any:
        raise OSError

    def pipeline(self, **_options: object) -> Any:
        raise RedisConnectionError


def room_of(*, lanes: int = LANES) -> Room:
    away = cast("Any", Away())
    return Room(Settings(posting_lanes=lanes, most_backlog_s=60), away, away)


def organization_on(lane: int) -> UUID:
    return next(found for found in iter(uuid4, None) if routes.lane_of(found) % LANES == lane)


@pytest.mark.parametrize("where", ["broker", "inbox"])
def test_an_organization_is_refused_for_its_own_lane_only(where: str) -> None:
    room = room_of()
    if where == "broker":
        room.in_broker = {"posting.2": Seen(5, 61.4, 0.0), "posting": Seen(9, 9_999.0, 0.0)}
    else:
        room.in_inbox = {"posting.2": 61.4}

    room.require(organization_on(1))
    with pytest.raises(Backlogged) as caught:
        room.require(organization_on(2))

    assert caught.value.details == {"queue": "posting.2", "oldest_s": 61, "most_s": 60, "retry_after_s": 2}


def test_without_lanes_all_are_on_one_queue_and_come_again_within_a_minute() -> None:
    room = room_of(lanes=0)
    room.in_inbox = {"posting": 60.0}
    room.require(uuid4())

    room.in_inbox = {"posting": 86_400.0}
    with pytest.raises(Backlogged) as caught:
        room.require(uuid4())

    assert caught.value.details["retry_after_s"] == 60


def test_what_cannot_be_seen_any_more_refuses_nobody() -> None:
    room = room_of(lanes=0)
    room.in_inbox, room.in_broker = {"posting": 100.0}, {"posting": Seen(1, 100.0, 0.5)}

    asyncio.run(room.look())

    room.require(uuid4())
    assert (room.in_inbox, room.in_broker) == ({}, {})
