"""ledgermill posts to double-entry ledgers from a message queue."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledgermill.producer import Producer

__all__ = ["Producer"]


def __getattr__(name: str) -> object:
    # The Producer brings Celery along; a process that needs neither starts without them.
    if name == "Producer":
        from ledgermill.producer import Producer  # noqa: PLC0415

        return Producer
    raise AttributeError(name)
