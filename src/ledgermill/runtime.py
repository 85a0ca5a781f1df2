"""What a process holds while it runs: settings, connections, and the charts that it has met."""

import os
import secrets
import time
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

Role = Literal["owner", "worker", "api", "readonly"]


class Runtime:
    """The real things, wired in one place, each made on first use and only in the process that made the runtime."""

    def __init__(self, settings: Settings, *, role: Role) -> None:
        self.settings = settings
        self.role = role
        self.charts = Charts()
        self.organizations = Directory()
        self.process_id = os.getpid()

    @cached_property
    def engine(self) -> Engine:
        """The database as this runtime's role."""
        if os.getpid() != self.process_id:
            raise RuntimeError("A runtime does not survive a fork; make one in each process.")
        return connections.engine(self.settings.url_of(self.role), prepare_threshold=self.settings.db_prepare_threshold)

    @cached_property
    def broker(self) -> Broker:
        return Broker(self.settings)

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
