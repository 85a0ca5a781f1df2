"""What clients can rely on, kept in git: the OpenAPI document and the message schemas.

`python -m ledgermill.api.openapi`, in the root of the source tree, writes them; with `--check` it shows what drifted.
"""

import sys
from pathlib import Path
from typing import Any, Final

from ledgermill.api.app import create_app
from ledgermill.config import Settings
from ledgermill.messages import schemas

FILE: Final = Path("docs/openapi.json")


def document() -> dict[str, Any]:
    """The OpenAPI document that the API serves."""
    return create_app(Settings()).openapi()


if __name__ == "__main__":
    raise SystemExit(schemas.write_or_check({FILE: document(), **schemas.documents()}, sys.argv[1:]))
