"""Three workers that are broken on purpose, so that a run of faults shows that it would notice.

`celery -A tests.faults.mutants worker` with LEDGERMILL_MUTANT. Nothing of the product knows of it: functions of ours are
replaced before the pool forks. `prepare` does to the run's own database what the mutant needs besides.
"""

import os
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg

from ledgermill.storage import balances, connections, posting_lock
from ledgermill.usecases import posting

VARIABLE: Final = "LEDGERMILL_MUTANT"

# All that binds a key to its first job: a unique index over the key, wherever it is kept.
UNIQUE_KEYS = """
    SELECT c.conname, i.indexrelid::regclass::text, i.indrelid::regclass::text
    FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = 'idempotency_key'
    LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid
    WHERE i.indisunique AND i.indrelid::regclass::text LIKE 'ledgermill.%'
"""


def no_idempotency() -> None:
    """Whether a key is known is not looked up under the lock; `prepare` drops the constraint that would notice."""
    require(posting, "_look")
    posting._look = lambda *_, **__: ({}, frozenset())


def lock_order_reversed() -> None:
    """Half of the transactions lock the balances first, one by one, the root before its leaves; then the organization."""
    ledgers = "SELECT ledger_id FROM ledgermill.balance WHERE organization_id = %s ORDER BY depth, ledger_id"
    lock_one = "SELECT FROM ledgermill.balance WHERE organization_id = %s AND ledger_id = %s FOR NO KEY UPDATE"

    def after_balances(lock: Callable[..., Any]) -> Callable[..., Any]:
        def lock_last(tx: Any, organization_id: int) -> Any:
            if random.random() < 0.5:
                connection = connections.raw(tx)
                for (ledger_id,) in connection.execute(ledgers, [organization_id]).fetchall():
                    connection.execute(lock_one, [organization_id, ledger_id]).fetchall()
            return lock(tx, organization_id)

        return lock_last

    for name in ("take", "ask"):  # alone, and in a pipeline
        require(posting_lock, name)
        setattr(posting_lock, name, after_balances(getattr(posting_lock, name)))


def update_dropped() -> None:
    """Of every twentieth batch the balance of one head is not written: a leaf's would be noticed by its next entry,

    whose number it gives.
    """
    require(balances, "add")
    add = balances.add

    def add_most(tx: Any, organization_id: int, changes: Sequence[Any], **more: Any) -> None:
        heads = [change for change in changes if not change.own_entries]
        if heads and random.random() < 0.05:
            changes = [change for change in changes if change is not heads[-1]]
        add(tx, organization_id, changes, **more)

    balances.add = add_most


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "no_idempotency": no_idempotency,
    "lock_order_reversed": lock_order_reversed,
    "update_dropped": update_dropped,
}


def require(module: Any, name: str) -> None:
    """A mutant of what is there no more would be none."""
    assert callable(getattr(module, name)), f"{module.__name__}.{name} has moved: mend its mutant"


def prepare(connection: psycopg.Connection[Any], mutant: str) -> None:
    """As the owner of the tables."""
    if mutant != "no_idempotency":
        return
    found = connection.execute(UNIQUE_KEYS).fetchall()
    assert found, "keys are bound by no constraint that this mutant knows"
    for constraint, index, table in found:
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}" if constraint else f"DROP INDEX {index}")
        connection.execute(f"CREATE INDEX ON {table} (organization_id, idempotency_key)")


if mutant := os.environ.get(VARIABLE):
    MUTANTS[mutant]()
    from workers.app import app  # noqa: F401 - Celery looks for it here
