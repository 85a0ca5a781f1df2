"""The worker and the API with failpoints, see `tests.faults.failpoints`.

`celery -A tests.faults.failing_app worker`, `granian --factory tests.faults.failing_app:create_app`, in the project's
folder. Without LEDGERMILL_FAILPOINTS they are what they always are.
"""

import os
from typing import Any

from tests.faults import failpoints
from workers.app import app

__all__ = ["app", "create_app"]

failpoints.install()


def create_app() -> Any:
    """The API."""
    os.environ["LEDGERMILL_FAILPOINTS_API"] = "1"
    from ledgermill.api.app import create_app as create  # noqa: PLC0415 - workers do without

    return create()
