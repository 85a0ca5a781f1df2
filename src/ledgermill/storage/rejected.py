"""Jobs that were not posted, by the count of their refusal; of the organization that the transaction shows.

Refusals are counted from 1 without a gap, so that any look at them is a range of an index, however many jobs there are.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import RowMapping, bindparam, select, text

from ledgermill.storage.connections import Transaction
from ledgermill.storage.tables import posting_lock

BEFORE = text("SELECT ledgermill_api.refused_before(:moment)")
LAST = select(posting_lock.c.next_rejection - 1).where(posting_lock.c.organization_id == bindparam("organization_id"))
_REFUSED = """
    ledgermill_api.refused_jobs(:above, :upto, CAST(:code AS text), CAST(:kind AS text), CAST(:state AS text),
                                CAST(:asking AS text), CAST(:saying AS text), :only_open, :newest_first, :with_request,
                                :limit)
"""
REFUSED = text(f"SELECT * FROM {_REFUSED}")  # noqa: S608 - ours
COUNTS = text(f"""
    SELECT code, kind, state, count(*) AS jobs, count(*) FILTER (WHERE is_open) AS open_jobs, max(ended_at) AS newest,
           min(ended_at) AS oldest
    FROM {_REFUSED} GROUP BY code, kind, state
""")  # noqa: S608 - ours


class Wanted(NamedTuple):
    """Which refused jobs; None asks for nothing. `text` is looked for in the message, in any case of letters."""

    code: str | None = None
    kind: str | None = None
    state: str | None = None
    reference_id: str | None = None
    text: str | None = None
    only_open: bool = False


def last(tx: Transaction, organization_id: int) -> int:
    """The count of the newest refusal; 0 where there is none."""
    return int(tx.execute(LAST, {"organization_id": organization_id}).scalar_one())


def before(tx: Transaction, moment: datetime) -> int:
    """The count of the last refusal before this moment; 0 where there is none."""
    return int(tx.execute(BEFORE, {"moment": moment}).scalar_one())


def within(
    tx: Transaction,
    wanted: Wanted,
    *,
    above: int,
    upto: int,
    limit: int,
    newest_first: bool = True,
    with_request: bool = False,
) -> Sequence[RowMapping]:
    """Up to `limit` refused jobs whose count is above one and at most the other, each with its request if asked for."""
    parameters = _parameters(wanted, above=above, upto=upto)
    parameters |= {"limit": limit, "newest_first": newest_first, "with_request": with_request}
    return tx.execute(REFUSED, parameters).mappings().all()


def counts(tx: Transaction, wanted: Wanted, *, above: int, upto: int) -> Sequence[RowMapping]:
    """How many refused jobs are in this range, by code, kind and state; `open_jobs` of them wait to be dealt with."""
    parameters = _parameters(wanted, above=above, upto=upto)
    parameters |= {"limit": upto - above, "newest_first": False, "with_request": False}
    return tx.execute(COUNTS, parameters).mappings().all()


def _parameters(wanted: Wanted, *, above: int, upto: int) -> dict[str, object]:
    # The request is kept as Python's JSON, in which a field of this name and content has one spelling.
    asking = None if wanted.reference_id is None else json.dumps({"reference_id": wanted.reference_id})[1:-1]
    return {
        "above": above,
        "upto": upto,
        "code": wanted.code,
        "kind": wanted.kind,
        "state": wanted.state,
        "asking": asking,
        "saying": wanted.text,
        "only_open": wanted.only_open,
    }
