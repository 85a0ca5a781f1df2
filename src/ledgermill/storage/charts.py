"""Charts kept in memory: a cache that is brought up to date under the posting lock, and so is never wrong."""

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from ledgermill.domain.ledgers import Chart, LedgerReference
from ledgermill.domain.plans import Books
from ledgermill.storage import ledgers
from ledgermill.storage.connections import Transaction

MOST_ORGANIZATIONS = 64
MOST_LEDGERS = 250_000  # some 150 MB


class Known(NamedTuple):
    """What this process knows of an organization's ledgers, as of a version of its chart, and of its books."""

    version: int
    chart: Chart
    books: Books | None


class Charts:
    """The ledgers that this process has met, by organization; what was used longest ago goes first."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Known] = OrderedDict()

    def known(self, organization_id: int) -> Known | None:
        """What is known without asking; it may be out of date."""
        return self._known.get(organization_id)

    def note(self, organization_id: int, books: Books) -> None:
        """Remember the books as they were last posted to."""
        self._known[organization_id] = self._known[organization_id]._replace(books=books)

    def at(
        self,
        tx: Transaction,
        organization_id: int,
        *,
        version: int,
        references: Collection[LedgerReference],
        suspense_id: int,
    ) -> Chart:
        """The chart at this version, with every ledger of these names that exists and all heads above.

        The caller holds the posting lock that gave the version; a name that the cache lacks is looked up.
        """
        known_version, chart, books = self._known.get(organization_id, Known(version, Chart(), None))
        if known_version < version:
            known = [
                ledger
                for ledger in ledgers.changed_since(tx, organization_id, known_version)
                if ledger.ledger_id in chart.by_id
            ]
            chart.add(known)
            heads = {one.parent_id for one in known if one.parent_id is not None} - chart.by_id.keys()
            if heads:
                chart.add(ledgers.by_ids(tx, organization_id, heads))
        missing = [reference for reference in references if None in chart.find(reference)]
        if missing:
            chart.add(ledgers.by_reference(tx, organization_id, missing))
        if suspense_id not in chart.by_id:
            chart.add(ledgers.by_ids(tx, organization_id, [suspense_id]))
        self._remember(organization_id, Known(version, chart, books))
        return chart

    def _remember(self, organization_id: int, known: Known) -> None:
        self._known[organization_id] = known
        self._known.move_to_end(organization_id)
        while len(self._known) > 1 and (
            len(self._known) > MOST_ORGANIZATIONS or sum(len(one.chart) for one in self._known.values()) > MOST_LEDGERS
        ):
            self._known.popitem(last=False)
