"""What a process holds while it runs: settings, connections, and the charts that it has met."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal
from uuid import UUID

from ledgermill.broker.publishing import Broker
from ledgermill.config import Settings
from ledgermill.domain import ids
from ledgermill.storage import connections
from ledgermill.storage.charts import Charts
from ledgermill.storage.connections import Engine
from ledgermill.storage.organizations import Directory
from ledgermill.storage.releases import Known

Role = Literal["owner", "worker", "api", "readonly"]


class Runtime:
    """The real things, wired in one place, each made on first use and only in the process that made the runtime."""

    def __init__(self, settings: Settings, *, role: Role) -> None:
        self.settings = settings
        self.role = role
        self.charts = Charts()
        self.organizations = Directory()
        self.release = Known()
        self.may_retry_at = 0.0  # on the monotonic clock: what failed before has had its share of the time until then
        self.process_id = os.getpid()
        self._turn_began_at: float | None = None

    @cached_property
    def engine(self) -> Engine:
        """The database as this runtime's role."""
        if os.getpid() != self.process_id:
            raise RuntimeError("A runtime does not survive a fork; make one in each process.")
        return connections.engine(self.settings.url_of(self.role), prepare_threshold=self.settings.db_prepare_threshold)

    @cached_property
    def broker(self) -> Broker:
        return Broker(self.settings)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A task of a pool process, from its begin to its end, which has to come before the time limit ends both."""
        self._turn_began_at = time.monotonic()
        try:
            yield
        finally:
            self._turn_began_at = None

    def turn_ends_at(self, share: float) -> float:
        """When so much of a task's time is over, on the monotonic clock; outside of a turn, it begins now.

        All that a task does counts from one begin. Were it counted for each step, a task that waits for a job that
        loops could be ended with it, and what waited would seem at fault too.
        """
        began_at = time.monotonic() if self._turn_began_at is None else self._turn_began_at
        return began_at + share * self.settings.task_time_limit_s

    def close(self) -> None:
        for name, resource in list(self.__dict__.items()):
            if name == "engine":
                resource.dispose()
            elif name == "broker":
                resource.close()


def now() -> datetime:
    """The clock, read at the edge."""
    return datetime.now(UTC)


def new_batch_id() -> UUID:
    """The id of a batch that is accepted now."""
    return ids.batch_id(unix_ms=time.time_ns() // 1_000_000, random_bits=secrets.randbits(ids.RANDOM_BITS))
