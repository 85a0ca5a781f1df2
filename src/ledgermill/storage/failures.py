"""What a failure of the database means: try again, refuse the job, or report a bug."""

import psycopg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

RETRY_CLASSES = ("08", "53", "57P")  # connection, resources, the server stops or starts
# Serialization, deadlock, timeouts; and a server that only reads, as a standby does until it is promoted.
RETRY_STATES = frozenset({"40001", "40P01", "55P03", "57014", "25P03", "25P04", "25006"})
REFUSAL_CLASSES = ("22", "23")  # the data themselves, or a constraint
UNIQUE_VIOLATION = "23505"

DatabaseError = DBAPIError, PoolTimeout, psycopg.Error


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a failure; None where the server said nothing, as when it went away."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return origin.sqlstate if isinstance(origin, psycopg.Error) else None


def is_temporary(error: BaseException) -> bool:
    """Whether the same transaction may well succeed later: then it is tried again and rejects nobody."""
    state = sqlstate(error)
    if state is not None:
        return state in RETRY_STATES or state.startswith(RETRY_CLASSES)
    return isinstance(
        error, (OperationalError, InterfaceError, PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError)
    ) or (isinstance(error, DBAPIError) and error.connection_invalidated)


def is_refusal(error: BaseException) -> bool:
    """Whether the database refuses what we gave it, so that the job at fault has to be found."""
    return (sqlstate(error) or "").startswith(REFUSAL_CLASSES)


def is_unstorable(error: BaseException) -> bool:
    """Whether a value does not fit its type, as a text with NUL, so that it names nothing in the database."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(origin, psycopg.DataError)


def violated(error: BaseException) -> str | None:
    """The name of the violated constraint, where it is one."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return origin.diag.constraint_name if isinstance(origin, psycopg.Error) else None


def problem(error: BaseException) -> str:
    """What the server says of it, without the values that it was given."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return (
        (origin.diag.message_primary or "has a value that the database cannot hold")
        if isinstance(origin, psycopg.Error)
        else str(error)
    )
