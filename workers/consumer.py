"""Celery's consumer, guarded: a message whose task or arguments are not ours is refused before a pool process sees it.

Celery acknowledges such messages and drops them; here they reach the transport, which has their bytes, as an error.
"""

from collections.abc import Callable, Container, Mapping
from typing import Any, NoReturn

from celery.worker.consumer import Consumer as CeleryConsumer

from workers.unreadable import UnreadableError

# Arguments cross to the pool by pickle, which recurses like JSON; deeper ones could fail there, where a failure costs
# the worker a process for good.
LEVELS_ALLOWED = 64

# Items that come as one JSON text are counted by a field that each has once, without reading the text.
ONCE_AN_ITEM = {"journals": '"entries"', "updates": '"amount"'}

NOT_BRACKETS_OR_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))


class Consumer(CeleryConsumer):  # type: ignore[misc]  # Celery ships no types
    """Celery's setting: `worker_consumer = "workers.consumer:Consumer"`."""

    def create_task_handler(self, *options: Any) -> Callable[[Any], None]:
        hand_on = super().create_task_handler(*options)

        def on_task_received(message: Any) -> None:
            require_task(message, self.strategies)
            arguments = require_arguments(message, self.app.tasks[message.headers["task"]])
            # What Flower shows: never the payload itself, which producers that are not ours send along.
            message.headers["argsrepr"], message.headers["kwargsrepr"] = "()", readable(arguments)
            hand_on(message)

        return on_task_received

    # What Celery would drop for reasons that the checks above do not know.

    def on_unknown_message(self, body: Any, message: Any) -> NoReturn:  # noqa: ARG002
        raise UnreadableError("not a task message")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> NoReturn:  # noqa: ARG002
        raise UnreadableError("unknown task") from exc

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> NoReturn:  # noqa: ARG002
        raise UnreadableError("invalid task message") from exc

    def on_decode_error(self, message: Any, exc: BaseException) -> NoReturn:  # noqa: ARG002
        raise UnreadableError("body cannot be decoded") from exc


def require_task(message: Any, tasks: Container[str]) -> None:
    """Celery's own tasks count as unknown: `celery.map` and its like run any other task for whoever asks."""
    name = message.headers["task"]
    if name not in tasks or name.startswith("celery."):
        raise UnreadableError("unknown task")


def readable(arguments: Mapping[str, Any]) -> str:
    """Arguments as a person reads them: "500 journals, acme"."""
    counts, names = [], []
    for name, value in arguments.items():
        if isinstance(value, list) or (name in ONCE_AN_ITEM and isinstance(value, str)):
            counts.append(f"{count_items(name, value)} {name}")
        elif isinstance(value, (str, int)):
            names.append(str(value)[:100])
    return ", ".join(counts + names)


def count_items(name: str, value: object) -> int:
    """How many items an argument holds, as a list or as JSON text; 0 where it is neither."""
    if isinstance(value, list):
        return len(value)
    return value.count(ONCE_AN_ITEM[name]) if isinstance(value, str) else 0


def require_arguments(message: Any, task: Any) -> dict[str, Any]:
    """The arguments by name, once the body fits the task. Celery decodes it once, here."""
    try:
        body = message.decode()
    except Exception as error:
        raise UnreadableError("body is not JSON that kombu reads") from error
    if nests_too_deep(message.body):
        raise UnreadableError(f"body nests deeper than {LEVELS_ALLOWED} levels")
    match body:
        case [list(args), dict(kwargs), dict() | None]:
            pass
        case _:
            raise UnreadableError("body is not [args, kwargs, embed]")
    try:
        task.__header__(*args, **kwargs)
    except TypeError:
        raise UnreadableError("arguments do not fit the task") from None
    return kwargs


def nests_too_deep(text: bytes) -> bool:
    """Whether valid JSON nests deeper than `LEVELS_ALLOWED` (up to twice that may pass), in bulk operations only."""
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, NOT_BRACKETS_OR_QUOTES)
    brackets = b"".join(plain.split(b'"')[::2])
    for _ in range(LEVELS_ALLOWED):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")  # the innermost level goes
        if not brackets:
            return False
    return True
