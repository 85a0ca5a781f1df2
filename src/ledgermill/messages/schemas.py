"""JSON Schemas of the messages and their items, kept in git: `python -m ledgermill.messages.schemas [--check]`."""

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from ledgermill.messages.journals import BalanceUpdateV1, JournalV1
from ledgermill.messages.ledgers import LedgerNewV1

FOLDER: Final = Path(__file__).parent / "schemas"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@with_config(ConfigDict(extra="allow"))
class PostJournalsV1(TypedDict):
    """The arguments of the task `ledgermill.post_journals`; `journals` may also be one JSON text of the list."""

    organization: str
    journals: list[JournalV1] | str


@with_config(ConfigDict(extra="allow"))
class UpdateBalancesV1(TypedDict):
    """The arguments of the task `ledgermill.update_balances`; `updates` may also be one JSON text of the list."""

    organization: str
    updates: list[BalanceUpdateV1] | str


@with_config(ConfigDict(extra="allow"))
class LookV1(TypedDict):
    """The arguments of the task `ledgermill.look`, which rings for a lane."""

    lane: int


MESSAGES: Final = {
    "post_journals": PostJournalsV1,
    "update_balances": UpdateBalancesV1,
    "look": LookV1,
    "JournalV1": JournalV1,
    "BalanceUpdateV1": BalanceUpdateV1,
    "LedgerNewV1": LedgerNewV1,
}


def documents() -> dict[Path, dict[str, Any]]:
    """Each schema with the file that it is kept in."""
    return {
        FOLDER / f"{name}.json": {"$schema": DIALECT, **TypeAdapter(shape).json_schema()}
        for name, shape in MESSAGES.items()
    }


def write_or_check(made: Mapping[Path, Mapping[str, Any]], arguments: list[str]) -> int:
    """Write these documents; with `--check`, print how the files differ instead. The exit code of the process."""
    drifted = False
    for path, document in made.items():
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            continue
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        if kept != text:
            drifted = True
            names = (f"{path.name} as kept", f"{path.name} as the code has it")
            sys.stdout.writelines(difflib.unified_diff(kept.splitlines(True), text.splitlines(True), *names))
    return int(drifted)


if __name__ == "__main__":
    raise SystemExit(write_or_check(documents(), sys.argv[1:]))
