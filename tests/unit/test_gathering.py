"""Gathering and ringing: company shortens the work and changes nobody's answer."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from ledgermill.api import gathering
from ledgermill.api.bell import Bell
from ledgermill.api.gathering import Gatherer
from ledgermill.errors import DatabaseUnavailable


class Database:
    """Doubles numbers, all that come in one statement at a time; refuses negative ones; may be away."""

    def __init__(self) -> None:
        self.statements: list[list[int]] = []
        self.is_away = False

    async def double(self, numbers: Sequence[int]) -> list[int]:
        self.statements.append(list(numbers))
        await asyncio.sleep(0.001)
        if self.is_away:
            raise DatabaseUnavailable
        if min(numbers) < 0:
            raise ValueError(min(numbers))
        return [2 * number for number in numbers]


def test_what_comes_together_is_asked_in_a_few_statements_and_each_gets_its_own_answer() -> None:
    database = Database()

    async def ask() -> list[int]:
        gatherer = Gatherer(database.double)
        return await asyncio.gather(*(gatherer.ask(number) for number in range(1_000)))

    assert asyncio.run(ask()) == [2 * number for number in range(1_000)]
    assert sorted(number for statement in database.statements for number in statement) == list(range(1_000))
    assert len(database.statements) <= 1_000 / gathering.MOST_GATHERED + gathering.AT_ONCE


def test_what_comes_while_statements_are_under_way_waits_for_the_next() -> None:
    database = Database()

    async def ask() -> None:
        gatherer = Gatherer(database.double)
        early = []
        for number in range(gathering.AT_ONCE):
            early.append(asyncio.create_task(gatherer.ask(number)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        late = [asyncio.create_task(gatherer.ask(number)) for number in (7, 8, 9)]
        await asyncio.gather(*early, *late)

    asyncio.run(ask())

    assert database.statements == [*([number] for number in range(gathering.AT_ONCE)), [7, 8, 9]]


def test_what_is_wrong_with_one_is_no_others_failure() -> None:
    database = Database()

    async def ask() -> list[int | BaseException]:
        gatherer = Gatherer(database.double)
        return await asyncio.gather(*(gatherer.ask(number) for number in (1, -2, 3)), return_exceptions=True)

    first, second, third = asyncio.run(ask())

    assert (first, third) == (2, 6)
    assert isinstance(second, ValueError)


def test_a_database_that_is_away_is_asked_once_and_everybody_hears_of_it() -> None:
    database = Database()
    database.is_away = True

    async def ask() -> list[int | BaseException]:
        gatherer = Gatherer(database.double)
        return await asyncio.gather(*(gatherer.ask(number) for number in range(10)), return_exceptions=True)

    assert {type(answer) for answer in asyncio.run(ask())} == {DatabaseUnavailable}
    assert len(database.statements) == 1


def test_a_client_that_goes_away_takes_nobody_with_it() -> None:
    async def ask() -> int:
        gatherer = Gatherer(Database().double)
        gone = asyncio.create_task(gatherer.ask(1))
        stays = asyncio.create_task(gatherer.ask(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(ask()) == 4


def test_large_ones_are_not_gathered_beyond_a_size() -> None:
    database = Database()

    async def ask() -> None:
        gatherer = Gatherer(database.double)
        size = gathering.MOST_GATHERED_BYTES // 2
        await asyncio.gather(*(gatherer.ask(number, size=size) for number in range(5)))
        await gatherer.ask(5, size=10 * size)

    asyncio.run(ask())

    assert max(map(len, database.statements)) == 2
    assert sorted(number for statement in database.statements for number in statement) == [0, 1, 2, 3, 4, 5]


class Broker:
    """Takes its time to ring."""

    def __init__(self, *, lanes: int) -> None:
        self.lanes = lanes
        self.rung: list[int] = []
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def ring(self, lane: int) -> bool:
        self.rung.append(lane)
        self.has_begun.set()
        self.may_end.wait(5)
        return True


@pytest.mark.parametrize(("lanes", "rung"), [(0, [0, 0]), (4, [3, 3])])
def test_what_is_accepted_during_a_ring_is_rung_for_once_more_and_once_only(lanes: int, rung: list[int]) -> None:
    broker = Broker(lanes=lanes)

    async def ring() -> None:
        bell = Bell(broker)  # type: ignore[arg-type]
        bell.ring(7)
        await asyncio.to_thread(broker.has_begun.wait, 5)
        for _ in range(20):
            bell.ring(7)
        broker.may_end.set()
        await bell.stop()

    asyncio.run(ring())

    assert broker.rung == rung
