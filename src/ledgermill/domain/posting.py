"""Planning: what a batch does to locked balances, job after job, without touching anything.

All rules that need the books are here. A refused job changes nothing; the next one sees the balances as if it had not
been there.
"""

from collections.abc import Iterable, Mapping
from uuid import UUID

from ledgermill.domain.journals import LARGEST_MINOR_UNITS, JournalRequest, Request
from ledgermill.domain.ledgers import DEBIT, Chart, LedgerReference
from ledgermill.domain.planner import NotKnownHereError, Planner
from ledgermill.domain.plans import (
    Balance,
    Batch,
    Books,
    Draft,
    Plan,
    Settled,
    Shift,
)


def references(requests: Iterable[Request]) -> set[LedgerReference]:
    """The ledgers that these requests name."""
    return {
        entry.ledger
        for request in requests
        if isinstance(request, JournalRequest)
        for entry in request.entries
        if not entry.is_suspense
    }


def ledgers_to_lock(batches: Iterable[Batch], chart: Chart, suspense_id: int) -> set[int]:
    """The ledgers that these batches may move: those that they name, the suspense ledger, and all heads above."""
    found = {suspense_id}
    for batch in batches:
        for reference in references(batch.requests):
            found.update(ledger.ledger_id for ledger in chart.find(reference) if ledger is not None)
    return {ledger_id for leaf_id in found for ledger_id in chart.lineage(leaf_id)}


def plan(
    batches: Iterable[Batch],
    *,
    chart: Chart,
    balances: Mapping[int, Balance],
    books: Books,
    settled: Mapping[str, Settled],
    recorded: frozenset[UUID],
) -> Plan:
    """Decide each job, batch after batch in the order of the jobs.

    Args:
        batches: of one organization; the places in each are unique.
        chart: every ledger that they name and that exists, and all ancestors.
        balances: the locked balance of each ledger of the chart.
        books: the organization under its posting lock.
        settled: what is known of keys that were bound before this batch.
        recorded: ids of keyless jobs that an earlier delivery of this message has recorded.
    """
    planner = Planner(chart, balances, books, settled, recorded)
    for batch in batches:
        planner.take(batch)
    return planner.finish()


def draft(batches: Iterable[Batch], *, chart: Chart, chart_version: int, assumed: Books) -> Draft | None:
    """Plan before the locks, so that others post meanwhile; None where the chart does not know all ledgers.

    Under the lock `fit` makes it the plan, by adding what the balances really are; that takes a tenth of the time.
    """
    books = assumed._replace(next_position=0, next_rejection=0)
    planner = Planner(chart, None, books, {}, frozenset())
    try:
        for batch in batches:
            planner.take(batch)
    except NotKnownHereError:
        return None
    planned = planner.finish()
    lowest = {ledger_id: leaf.lowest for ledger_id, leaf in planner.leaves.items() if leaf.lowest is not None}
    # Also what a refused job names: under the lock it is looked at again where the draft does not fit.
    touched = {change.ledger_id for change in planned.balances}
    for ledger_id in planner.leaves.keys() - touched:
        touched.update(chart.lineage(ledger_id))
    return Draft(planned, books, chart_version, frozenset(touched), lowest)


def is_current(drafted: Draft, *, chart_version: int, books: Books) -> bool:
    """Whether the books are as the draft assumed them: the chart, the day, and the organization's rules."""
    return chart_version == drafted.chart_version and drafted.assumed == books._replace(
        next_position=0, next_rejection=0, booked_at=drafted.assumed.booked_at
    )


def fit(drafted: Draft, *, chart: Chart, balances: Mapping[int, Balance], books: Books) -> Plan | None:
    """The draft as the plan that `plan` would make of these balances; None where only `plan` can tell.

    Each journal ends where it would end, shifted by the balance at the start: so a floor holds at every journal if it
    holds at the lowest one.
    """
    for change in drafted.plan.balances:
        before = balances[change.ledger_id]
        if before.debits + before.credits + change.debits + change.credits > LARGEST_MINOR_UNITS:
            return None
    for ledger_id, lowest in drafted.lowest.items():
        ledger, before = chart.by_id[ledger_id], balances[ledger_id]
        start = before.debits - before.credits if ledger.normal_side == DEBIT else before.credits - before.debits
        if start + lowest + (ledger.limit or 0) - before.held < 0:
            return None
    starts = {
        ledger_id: (balance.last_number, balance.debits - balance.credits) for ledger_id, balance in balances.items()
    }
    return drafted.plan._replace(shift=Shift(books.next_position, books.next_rejection, starts))
