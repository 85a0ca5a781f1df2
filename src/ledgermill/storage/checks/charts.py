"""Checks of organizations and their charts: trees of heads, with a balance for each ledger."""

from typing import Final

from ledgermill.storage.checks.check import Check

CHARTS: Final = (
    Check(
        "organizations_can_post",
        "Every organization has a posting lock that counts its ledgers, and a suspense ledger that takes entries.",
        "organization",
        """
        SELECT o.organization_id, o.suspense_id AS ledger_id, p.next_ledger_id, max(l.ledger_id) AS last_ledger_id
        FROM organization AS o
        LEFT JOIN posting_lock AS p USING (organization_id)
        LEFT JOIN ledger AS l USING (organization_id)
        GROUP BY o.organization_id, o.suspense_id, p.next_ledger_id
        HAVING coalesce(p.next_ledger_id <= max(l.ledger_id), true)
            OR coalesce(bool_or(l.is_head) FILTER (WHERE l.ledger_id = o.suspense_id), true)
        """,
    ),
    Check(
        "ledgers_have_balances",
        "Every ledger has one balance, of the same depth, and every balance a ledger.",
        "ledger",
        """
        SELECT coalesce(l.organization_id, b.organization_id) AS organization_id,
               coalesce(l.ledger_id, b.ledger_id) AS ledger_id, l.depth, b.depth AS depth_of_balance
        FROM ledger AS l FULL JOIN balance AS b ON b.organization_id = l.organization_id AND b.ledger_id = l.ledger_id
        WHERE l.depth IS DISTINCT FROM b.depth
        """,
    ),
    Check(
        "parents_are_heads",
        "Every ledger that is below another is below a head of the same organization.",
        "ledger",
        """
        SELECT l.organization_id, l.ledger_id, l.parent_id
        FROM ledger AS l LEFT JOIN ledger AS p ON p.organization_id = l.organization_id AND p.ledger_id = l.parent_id
        WHERE l.parent_id IS NOT NULL AND p.is_head IS NOT TRUE
        """,
    ),
    Check(
        "children_are_one_deeper",
        "The depth of a ledger is that of its parent and 1, and 0 without one.",
        "ledger",
        """
        SELECT l.organization_id, l.ledger_id, l.depth, p.depth + 1 AS expected
        FROM ledger AS l LEFT JOIN ledger AS p ON p.organization_id = l.organization_id AND p.ledger_id = l.parent_id
        WHERE l.depth <> coalesce(p.depth + 1, 0)
        """,
    ),
    Check(
        "children_have_their_parents_type",
        "A ledger has the type of its parent.",
        "ledger",
        """
        SELECT l.organization_id, l.ledger_id, l.type, p.type AS of_parent
        FROM ledger AS l JOIN ledger AS p ON p.organization_id = l.organization_id AND p.ledger_id = l.parent_id
        WHERE l.type <> p.type
        """,
    ),
    Check(
        "currencies_are_bound",
        "The currency of every ledger and the base currency of every organization are bound there.",
        "ledger",
        """
        SELECT used.organization_id, used.ledger_id, used.currency
        FROM (SELECT organization_id, ledger_id, currency FROM ledger
              UNION ALL SELECT organization_id, NULL, base_currency FROM organization) AS used
        LEFT JOIN currency AS c ON c.organization_id = used.organization_id AND c.code = used.currency
        WHERE c.code IS NULL
        """,
    ),
    Check(
        "chart_versions_are_counted",
        "No ledger was changed at a version that its organization has not reached: workers would not hear of the next.",
        "ledger",
        """
        SELECT l.organization_id, l.ledger_id, l.changed_at_version, p.chart_version
        FROM ledger AS l JOIN posting_lock AS p USING (organization_id) WHERE l.changed_at_version > p.chart_version
        """,
    ),
    Check(
        "trees_have_roots",
        "Every ledger hangs below a root: no chain of parents is a circle.",
        "ledger",
        """
        WITH RECURSIVE hanging AS (
            SELECT l.organization_id, l.ledger_id FROM ledger AS l WHERE l.parent_id IS NULL
            UNION ALL
            SELECT l.organization_id, l.ledger_id
            FROM hanging AS h JOIN ledger AS l ON l.organization_id = h.organization_id AND l.parent_id = h.ledger_id
        )
        SELECT l.organization_id, l.ledger_id, l.parent_id
        FROM ledger AS l LEFT JOIN hanging AS h USING (organization_id, ledger_id) WHERE h.ledger_id IS NULL
        """,
    ),
)
