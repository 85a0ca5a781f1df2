"""Checks of the catalog: what the migrations made to keep the promises is in force, and nobody may do more.

Partitions count as their table: PostgreSQL hands its constraints down to them, but neither triggers nor grants.
"""
# ruff: noqa: S608 - the statements are put together from constants of this package

from collections.abc import Iterable
from typing import Final

from ledgermill.storage.checks import fences
from ledgermill.storage.checks.check import Check
from ledgermill.storage.roles import API, LOGINS


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of text constants, as VALUES takes them."""
    return ", ".join(f"({', '.join(map(_quoted, row))})" for row in rows)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


_OURS: Final = "IN ('ledgermill'::regnamespace, 'ledgermill_api'::regnamespace)"
_LOGINS: Final = f"({', '.join(map(_quoted, LOGINS))})"
_TRIGGERS: Final = """
    SELECT t.tgrelid, t.tgname,
           regexp_replace(pg_get_triggerdef(t.oid), '^.* (BEFORE .*) ON .* (FOR EACH \\w+) .*$', '\\1 \\2')
               AS definition
    FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL AND p.proname = 'refuse_change'
      AND p.pronamespace = 'ledgermill'::regnamespace AND p.prosrc ~ '^\\s*BEGIN\\s+RAISE EXCEPTION '"""
_IN_FORCE: Final = f"""
    SELECT 'primary key' AS kind, r.relname::text AS name, pg_get_constraintdef(c.oid) AS definition
    FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid JOIN pg_index AS i ON i.indexrelid = c.conindid
    WHERE c.contype = 'p' AND i.indisvalid AND i.indisready AND r.relnamespace = 'ledgermill'::regnamespace
    UNION ALL
    SELECT 'not null', r.relname || '.' || a.attname, 'NOT NULL'
    FROM pg_attribute AS a JOIN pg_class AS r ON r.oid = a.attrelid
    WHERE a.attnotnull AND a.attnum > 0 AND NOT a.attisdropped AND r.relkind IN ('r', 'p')
      AND r.relnamespace = 'ledgermill'::regnamespace
    UNION ALL
    SELECT 'constraint', r.relname || '.' || c.conname, pg_get_constraintdef(c.oid)
    FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
    LEFT JOIN pg_index AS i ON i.indexrelid = c.conindid AND c.contype = 'u'
    WHERE c.convalidated AND i.indisvalid IS NOT FALSE AND r.relnamespace = 'ledgermill'::regnamespace
    UNION ALL
    SELECT 'index', r.relname,
           CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || substring(pg_get_indexdef(r.oid) FROM 'USING .*')
    FROM pg_index AS i JOIN pg_class AS r ON r.oid = i.indexrelid
    WHERE i.indisvalid AND i.indisready AND r.relnamespace = 'ledgermill'::regnamespace
    UNION ALL
    SELECT 'trigger', r.relname || '.' || t.tgname, t.definition
    FROM ({_TRIGGERS}) AS t JOIN pg_class AS r ON r.oid = t.tgrelid WHERE r.relnamespace = 'ledgermill'::regnamespace
"""
_GRANTED: Final = f"""
    SELECT r.relowner AS owner, n.nspname || '.' || coalesce(whole.relname, r.relname) AS name, r.relacl AS acl
    FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
    LEFT JOIN pg_class AS whole ON r.relispartition AND whole.oid = pg_partition_root(r.oid)
    WHERE r.relnamespace {_OURS} AND r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL
    SELECT r.relowner, n.nspname || '.' || r.relname || '.' || a.attname, a.attacl
    FROM pg_attribute AS a JOIN pg_class AS r ON r.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = r.relnamespace
    WHERE r.relnamespace {_OURS} AND a.attnum > 0
    UNION ALL
    SELECT n.nspowner, n.nspname, n.nspacl FROM pg_namespace AS n WHERE n.oid {_OURS}
"""

CATALOG: Final = (
    Check(
        "safeguards_are_in_place",
        "The keys, constraints, NOT NULLs, indexes and triggers that the promises rest on are in force, in each "
        "partition too.",
        "organization",
        f"""
        SELECT CAST(NULL AS int) AS organization_id, wanted.kind, wanted.name AS missing, wanted.definition
        FROM (VALUES {_rows(fences.fences())}) AS wanted (kind, name, definition)
        WHERE NOT EXISTS (SELECT FROM ({_IN_FORCE}) AS f
                          WHERE f.kind = wanted.kind AND f.name = wanted.name AND f.definition = wanted.definition)
        UNION ALL
        SELECT NULL, 'trigger of a partition', part.relname || ' of ' || whole.relname, t.definition
        FROM ({_TRIGGERS}) AS t JOIN pg_class AS whole ON whole.oid = t.tgrelid
        JOIN pg_class AS part ON part.relispartition AND part.relkind = 'r' AND pg_partition_root(part.oid) = whole.oid
        WHERE NOT EXISTS (SELECT FROM ({_TRIGGERS}) AS own
                          WHERE own.tgrelid = part.oid AND own.definition = t.definition)
        """,
    ),
    Check(
        "tables_do_what_they_say",
        "No table of ours has a trigger or rule of somebody else's, hides rows, or is lost with a crash.",
        "organization",
        """
        SELECT CAST(NULL AS int) AS organization_id, found.relname AS name, found.problem
        FROM (SELECT r.relname, 'trigger ' || t.tgname AS problem
              FROM pg_trigger AS t JOIN pg_class AS r ON r.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
              WHERE NOT t.tgisinternal AND p.proname <> 'refuse_change' AND r.relnamespace = 'ledgermill'::regnamespace
              UNION ALL
              SELECT r.relname, 'rule ' || w.rulename
              FROM pg_rewrite AS w JOIN pg_class AS r ON r.oid = w.ev_class
              WHERE w.rulename <> '_RETURN'
                AND r.relnamespace IN ('ledgermill'::regnamespace, 'ledgermill_api'::regnamespace)
              UNION ALL
              SELECT r.relname, CASE WHEN r.relrowsecurity THEN 'row security' ELSE 'not logged' END
              FROM pg_class AS r
              WHERE r.relkind IN ('r', 'p') AND (r.relrowsecurity OR r.relpersistence <> 'p')
                AND r.relnamespace = 'ledgermill'::regnamespace) AS found
        """,
    ),
    Check(
        "roles_may_do_their_work_and_no_more",
        "Service roles, and everybody, have the grants of the migrations; nobody else changes anything.",
        "organization",
        f"""
        WITH wanted AS (
            SELECT * FROM (VALUES {_rows(fences.grants())}) AS w (grantee, privilege, name)
        ), granted AS (
            SELECT DISTINCT coalesce(r.rolname::text, 'PUBLIC') AS grantee, g.privilege_type AS privilege, o.name
            FROM ({_GRANTED}) AS o CROSS JOIN LATERAL aclexplode(o.acl) AS g
            LEFT JOIN pg_roles AS r ON r.oid = g.grantee
            WHERE g.grantee <> o.owner
        )
        SELECT CAST(NULL AS int) AS organization_id, coalesce(w.grantee, g.grantee) AS role,
               coalesce(w.privilege, g.privilege) AS privilege, coalesce(w.name, g.name) AS name,
               CASE WHEN w.name IS NULL THEN 'granted too much' ELSE 'not granted' END AS problem
        FROM wanted AS w FULL JOIN granted AS g
            ON g.grantee = w.grantee AND g.privilege = w.privilege AND g.name = w.name
        WHERE g.name IS NULL
           OR (w.name IS NULL AND (g.grantee IN {_LOGINS} OR g.grantee = 'PUBLIC'
                                   OR g.privilege NOT IN ('SELECT', 'USAGE')))
        """,
    ),
    Check(
        "roles_are_nothing_else",
        "No service role is a superuser, owns anything of ours, or is a member of another role.",
        "organization",
        f"""
        SELECT CAST(NULL AS int) AS organization_id, r.rolname AS role, found.problem
        FROM (VALUES {_rows((login,) for login in LOGINS)}) AS wanted (rolname)
        LEFT JOIN pg_roles AS r ON r.rolname = wanted.rolname
        CROSS JOIN LATERAL (
            SELECT 'no such role: ' || wanted.rolname AS problem WHERE r.oid IS NULL
            UNION ALL
            SELECT 'may more than others'
            WHERE r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
            UNION ALL
            SELECT 'member of ' || m.roleid::regrole FROM pg_auth_members AS m WHERE m.member = r.oid
            UNION ALL
            SELECT 'owner of ' || c.relname FROM pg_class AS c WHERE c.relowner = r.oid AND c.relnamespace {_OURS}
        ) AS found
        """,
    ),
    Check(
        "functions_are_fenced",
        "Functions that act as their owner have a fixed search_path, and only the api role may call them.",
        "organization",
        f"""
        SELECT CAST(NULL AS int) AS organization_id, p.proname AS function, found.problem
        FROM pg_proc AS p CROSS JOIN LATERAL (
            SELECT 'no fixed search_path' AS problem
            WHERE p.prosecdef AND 'search_path=ledgermill, pg_temp' <> ALL (coalesce(p.proconfig, ARRAY['']))
            UNION ALL
            SELECT 'owned by ' || p.proowner::regrole
            WHERE p.proowner <> (SELECT r.relowner FROM pg_class AS r WHERE r.oid = 'ledgermill.job'::regclass)
            UNION ALL
            SELECT 'called by ' || coalesce(r.rolname::text, 'PUBLIC')
            FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS g
            LEFT JOIN pg_roles AS r ON r.oid = g.grantee
            WHERE g.grantee <> p.proowner AND r.rolname IS DISTINCT FROM '{API}'
              AND p.prorettype <> 'trigger'::regtype
        ) AS found
        WHERE p.pronamespace {_OURS}
        """,
    ),
    Check(
        "views_show_one_organization",
        "Every view of the api role shows the organization that the transaction named, and lets nothing else in.",
        "organization",
        f"""
        SELECT CAST(NULL AS int) AS organization_id, coalesce(wanted.name, r.relname) AS view
        FROM (VALUES {_rows((view,) for view in fences.VIEWS)}) AS wanted (name)
        FULL JOIN (SELECT * FROM pg_class WHERE relkind IN ('v', 'm')
                   AND relnamespace = 'ledgermill_api'::regnamespace) AS r ON r.relname = wanted.name
        WHERE r.oid IS NULL OR NOT coalesce(r.reloptions @> ARRAY['security_barrier=true', 'check_option=local'], false)
           OR pg_get_viewdef(r.oid) !~ 'organization_id\\) AS organization_id\\)|ledgermill_api.organization_id\\(\\)'
           OR r.relowner <> (SELECT o.relowner FROM pg_class AS o WHERE o.oid = 'ledgermill.job'::regclass)
        """,
    ),
)
