"""The intake's main process: whom it sends to a queue, and when."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from workers import intake


class Pool:
    """A consumer with a pool and an event loop whose time goes on by `pass_time`."""

    controller: Any = type("Controller", (), {"semaphore": None})
    event_dispatcher = None

    def __init__(self, processes: int) -> None:
        self.num_processes = processes
        self.pool = self.hub = self
        self.stays: list[bool] = []
        self.endings: list[Callable[[list[Any]], None]] = []
        self.later: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def apply_async(self, _: object, args: Any, *, callback: Any, **_options: object) -> None:
        self.stays.append(args[2] > 0)
        self.endings.append(callback)

    def call_later(self, _: float, callback: Callable[..., None], *args: Any) -> None:
        self.later.append((callback, args))

    def pass_time(self) -> None:
        due, self.later = self.later, []
        for callback, args in due:
            callback(*args)


class Queue:
    """A watch; `head` stands for the oldest message."""

    head: int | None = None
    looks = 0

    def look(self) -> None:
        self.looks += 1

    def oldest(self) -> int | None:
        return self.head


@pytest.fixture
def queue() -> Queue:
    return Queue()


def step(queue: Queue, *, processes: int) -> intake.Intake:
    found = intake.Intake.__new__(intake.Intake)
    found.consumer, found.watches = Pool(processes), {"posting": queue}  # type: ignore[dict-item]
    found.draining, found.first, found.gone, found.progressed_at = Counter(), {}, [], 0.0
    return found


def test_one_process_at_a_queue_is_enough_while_its_oldest_message_changes(queue: Queue) -> None:
    main = step(queue, processes=2)
    main._hear("posting")
    for head in (1, 2, None, 3):
        queue.head = head
        main._hear("posting")
        main.consumer.pass_time()

    assert main.consumer.stays == [True]
    assert queue.looks == 0  # it waits in Redis, so nobody else should be told of a message


def test_another_comes_where_a_message_has_waited_and_leaves_when_the_queue_is_empty(queue: Queue) -> None:
    main, queue.head = step(queue, processes=3), 1
    main._hear("posting")
    main.consumer.pass_time()
    assert len(main.consumer.stays) == 1
    main.consumer.pass_time()

    assert main.consumer.stays == [True, False]


def test_when_the_first_is_back_the_queue_is_watched_again_and_nobody_else_is_sent(queue: Queue) -> None:
    main, queue.head = step(queue, processes=2), 1
    main._hear("posting")
    main.consumer.endings[0]([])
    for _ in range(3):
        main.consumer.pass_time()

    assert queue.looks == 1
    assert (len(main.consumer.stays), main.first, main.draining["posting"]) == (1, {}, 0)


def test_the_last_free_process_does_not_stay_at_an_empty_queue(queue: Queue) -> None:
    alone = step(queue, processes=1)
    alone._hear("posting")
    lanes = step(queue, processes=2)
    for lane in ("posting.0", "posting.1"):
        lanes._hear(lane)

    assert alone.consumer.stays == [False]
    assert lanes.consumer.stays == [True, False]
