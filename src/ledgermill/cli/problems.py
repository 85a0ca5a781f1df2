"""What a command says when it fails: a code and a sentence on standard error, never a traceback for what is known."""

import sys
from typing import NamedTuple

from pydantic import ValidationError

from ledgermill.errors import DatabaseUnavailable, InvalidField, LedgermillError, NotMigrated, Unavailable
from ledgermill.storage import failures, migrations

REFUSED = 1
UNAVAILABLE = 2
UNDEFINED = ("3F000", "42P01", "42883", "42703")  # schema, table, function, column
NO_RIGHTS = "42501"


class Report(NamedTuple):
    """The lines to print, and the exit code."""

    lines: list[str]
    exit_code: int


def report(error: Exception) -> int | None:
    """Print what is known about this error, and return the exit code; None where it is a bug."""
    found = describe(error)
    if found is None:
        return None
    sys.stderr.write("".join(f"{line}\n" for line in found.lines))
    return found.exit_code


def describe(error: Exception) -> Report | None:
    """What is known about this error; None where it is a bug."""
    if isinstance(error, LedgermillError):
        return _reported(error)
    if isinstance(error, ValidationError) and error.title == "Settings":
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        wrong = [
            InvalidField(field=".".join(map(str, problem["loc"])).upper() or "The settings", problem=problem["msg"])
            for problem in problems
        ]
        return Report([f"{each.code}: {each}" for each in wrong], REFUSED)
    if isinstance(error, failures.DatabaseError):
        return _failed(error)
    return None


def _failed(error: Exception) -> Report | None:
    state = failures.sqlstate(error) or ""
    if state in UNDEFINED:
        return _reported(NotMigrated(found="none or an old one", needed=migrations.newest()))
    if state == NO_RIGHTS or state.startswith("28"):
        denied = f"DATABASE_DENIED: The database denies this login what it needs: {failures.problem(error)}"
        return Report([denied], UNAVAILABLE)
    if failures.is_temporary(error):
        # Without a state the server said nothing; then the driver tells why, and never repeats a password.
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        found = _reported(DatabaseUnavailable())
        return found._replace(lines=[*found.lines, f"  {reason}"])
    return None


def _reported(error: LedgermillError) -> Report:
    lines = [f"{error.code}: {error}"]
    problems = error.details.get("problems")
    if isinstance(problems, list):
        lines += [f"  {problem['at']}: {problem['code']}: {problem['message']}" for problem in problems]
    return Report(lines, UNAVAILABLE if isinstance(error, Unavailable) else REFUSED)
