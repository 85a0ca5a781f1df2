"""Charts kept in memory: a cache that is brought up to date under the posting lock, and so is never wrong."""

from collections import OrderedDict
from collections.abc import Collection

from ledgermill.domain.ledgers import Chart, LedgerReference
from ledgermill.storage import ledgers
from ledgermill.storage.connections import Transaction

MOST_ORGANIZATIONS = 64
MOST_LEDGERS = 250_000  # some 150 MB


class Charts:
    """The ledgers that this process has met, by organization; what was used longest ago goes first."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[int, Chart]] = OrderedDict()

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
        known_version, chart = self._known.get(organization_id, (version, Chart()))
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
        self._remember(organization_id, version, chart)
        return chart

    def _remember(self, organization_id: int, version: int, chart: Chart) -> None:
        self._known[organization_id] = (version, chart)
        self._known.move_to_end(organization_id)
        while len(self._known) > 1 and (
            len(self._known) > MOST_ORGANIZATIONS or sum(len(c) for _, c in self._known.values()) > MOST_LEDGERS
        ):
            self._known.popitem(last=False)
