"""What the books say after the bank's year was posted, held against the year as the bank recorded it, and hledger."""

import csv
import os
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from bank_books import Totals, account_code, day_totals, key_of
from bank_reference import SHOWN_TO, Booked, Year
from sqlalchemy import text

from ledgermill.storage.connections import Transaction as DatabaseTransaction

OUTCOMES: Final = text("""
    SELECT state, code, message, idempotency_key FROM ledgermill.job WHERE organization_id = :organization_id
""")
RUNNING_BALANCES: Final = text("""
    SELECT l.code, j.idempotency_key, -e.balance_after  -- kept as debits minus credits
    FROM ledgermill.entry e
    JOIN ledgermill.ledger l USING (organization_id, ledger_id)
    JOIN ledgermill.job j USING (organization_id, position)
    WHERE organization_id = :organization_id
    ORDER BY ledger_id, e.number
""")
DAY_TOTALS: Final = text("""
    SELECT l.code, d.value_date, sum(d.debits), sum(d.credits)
    FROM ledgermill.day_balance d JOIN ledgermill.ledger l USING (organization_id, ledger_id)
    WHERE organization_id = :organization_id GROUP BY l.code, d.value_date
""")
BALANCES: Final = text("""
    SELECT l.ledger_id, l.parent_id, l.code, b.debits, b.credits
    FROM ledgermill.ledger l JOIN ledgermill.balance b USING (organization_id, ledger_id)
    WHERE organization_id = :organization_id ORDER BY l.depth
""")
JOURNALS: Final = text("""
    SELECT j.position, j.value_date, j.reference_id, j.description, e.ledger_id, e.side, e.amount, e.currency
    FROM ledgermill.job j JOIN ledgermill.entry e USING (organization_id, position)
    WHERE organization_id = :organization_id ORDER BY j.value_date, j.position, e.line
""")
KEPT_TABLES: Final = {
    "job": "job_id",
    "entry": "ledger_id, number",
    "balance": "ledger_id",
    "day_balance": "ledger_id, value_date, booked_on",
    "posting_lock": "organization_id",
}


class AccountDays(NamedTuple):
    """How our running balances compare with the bank's, counted in days of an account on which it was booked.

    On a day that agrees, our balance after every transaction differs from the bank's by what it differed by before the
    day: the bank's balances follow from one another, and so do ours, by the same steps. On a rounded day the two part
    by 0.10 CZK at one step or several, each of which rounded interest explains (`explained_by_interest`). All others
    are in `others`, with the difference after each transaction. `identical` are days with no difference at all.
    `largest_difference` is that of any day, in haléře.
    """

    agree: int
    rounded: int
    others: list[str]
    identical: int
    largest_difference: int


class HledgerResult(NamedTuple):
    accounts: int
    differences: list[str]


def outcomes(tx: DatabaseTransaction, organization_id: int, year: Year) -> tuple[int, dict[str, list[str]]]:
    """How many of the year's journals are posted, and the reasons for which others were rejected, by code."""
    keys = {key_of(transaction) for transaction in year.transactions()}
    posted, rejected = 0, defaultdict(list)
    for state, code, message, key in tx.execute(OUTCOMES, {"organization_id": organization_id}):
        if state == "posted":
            posted += key in keys
        else:
            rejected[code].append(f"{key}: {message}")
    return posted, dict(rejected)


def digests(tx: DatabaseTransaction, organization_id: int) -> dict[str, str]:
    """Of each table that posting writes: how many rows there are, and an MD5 over all of them."""
    found = {}
    for table, order in KEPT_TABLES.items():
        rows, digest = tx.execute(
            text(f"""
                SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY {order}))
                FROM ledgermill.{table} t WHERE organization_id = :organization_id
            """),  # noqa: S608 - the names are those above
            {"organization_id": organization_id},
        ).one()
        found[table] = f"{rows} rows, {digest}"
    return found


def account_days(tx: DatabaseTransaction, organization_id: int, year: Year) -> AccountDays:
    """Compare each account's running balances, read from its entries, with the bank's, transaction by transaction."""
    ours: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for code, key, balance in tx.execute(RUNNING_BALANCES, {"organization_id": organization_id}):
        ours[code].append((key, int(balance)))
    counts: Counter[str] = Counter()
    others, largest = [], 0
    for account in year.accounts.values():
        entries = iter(ours[account_code(account.account_id)])
        before = 0
        for day, booked in account.days.items():
            differences = [*_differences(booked, entries)]
            kind = kind_of_day(before, differences, booked)
            counts[kind] += 1
            if kind == "other":
                others.append(f"account {account.account_id} on {day}: {before} before, then {differences}")
            counts["identical"] += all(difference == 0 for difference in differences)
            largest = max(largest, *(abs(difference or 0) for difference in differences))
            before = differences[-1] or 0
        others += [f"account {account.account_id} has an entry that the bank has not: {key}" for key, _ in entries]
    return AccountDays(counts["agree"], counts["rounded"], others, counts["identical"], largest)


def kind_of_day(before: int, differences: Sequence[int | None], booked: Sequence[Booked]) -> str:
    """`agree`, `rounded` or `other`, as `AccountDays` says; the differences are before the day and in its course."""
    if all(difference == before for difference in differences):
        return "agree"
    steps = zip([before, *differences], differences, booked, strict=False)
    for earlier, later, (_, _, is_explained) in steps:
        if earlier is None or later is None or abs(later - earlier) not in {0, SHOWN_TO} or not is_explained:
            return "other"
    return "rounded"


def wrong_totals(tx: DatabaseTransaction, organization_id: int, year: Year) -> list[str]:
    """Where a ledger's totals, of the year or of a day, are not those of the file; heads and contra ledgers too."""
    parameters = {"organization_id": organization_id}
    expected = day_totals(year)
    days: defaultdict[str, dict[date, tuple[int, int]]] = defaultdict(dict)
    for code, day, debits, credits_ in tx.execute(DAY_TOTALS, parameters):
        days[code][day] = int(debits), int(credits_)
    found: Totals = dict(days)
    problems = [
        f"{code} on {day}: {found.get(code, {}).get(day)} are its debits and credits, {sides} those of the file"
        for code in sorted(expected.keys() | found.keys())
        for day in sorted(expected.get(code, {}).keys() | found.get(code, {}).keys())
        if (sides := expected.get(code, {}).get(day)) != found.get(code, {}).get(day)
    ]
    for _, _, code, debits, credits_ in tx.execute(BALANCES, parameters):
        sums = tuple(sum(sides) for sides in zip(*expected.get(code, {}).values(), strict=True)) or (0, 0)
        if sums != (debits, credits_):
            problems.append(f"{code}: {debits} and {credits_} are its debits and credits, {sums} those of the file")
    return problems


def write_hledger(tx: DatabaseTransaction, organization_id: int, path: Path) -> None:
    """Write all journals, from the entries as they are in the database, for hledger; debits are positive."""
    names = {ledger_id: name for ledger_id, name, _ in _balances(tx, organization_id)}
    position = None
    with path.open("w", encoding="utf-8") as file:
        for row in tx.execute(JOURNALS, {"organization_id": organization_id}):
            if row.position != position:
                position = row.position
                file.write(f"\n{row.value_date} ({row.reference_id}) {row.description}\n")
            signed = int(row.amount) if row.side == "D" else -int(row.amount)
            file.write(f"    {names[row.ledger_id]}  {_in_crowns(signed)} {row.currency}\n")


def compare_hledger(tx: DatabaseTransaction, organization_id: int, path: Path) -> HledgerResult:
    """Let hledger sum the journals, at every level of the tree, and compare each account's balance with ours."""
    balances = {name: balance for _, name, balance in _balances(tx, organization_id)}
    theirs: dict[str, str] = {}
    for depth in range(1, max(name.count(":") for name in balances) + 2):
        options = ["--flat", "--no-total", "--empty", f"--depth={depth}", "--output-format=csv"]
        answer = subprocess.run(
            ["hledger", f"--file={path}", "balance", *options],
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            check=True,
            capture_output=True,
            text=True,
        )
        theirs |= {row["account"]: row["balance"] for row in csv.DictReader(StringIO(answer.stdout))}
    differences = [
        f"{name}: {_in_crowns(balances.get(name, 0))} here, {theirs.get(name)} in hledger"
        for name in sorted(balances.keys() | theirs.keys())
        if theirs.get(name, "0").removesuffix(" CZK") not in _spellings(balances.get(name))
    ]
    return HledgerResult(len(theirs), differences)


def _differences(booked: Sequence[Booked], entries: Iterator[tuple[str, int]]) -> Iterator[int | None]:
    """After each transaction, the bank's balance less ours; None where our next entry is not that transaction's."""
    for transaction, _, _ in booked:
        key, balance = next(entries, ("", 0))
        yield transaction.balance - balance if key == key_of(transaction) else None


def _balances(tx: DatabaseTransaction, organization_id: int) -> list[tuple[int, str, int]]:
    """Each ledger with its path from the root, and its debits minus its credits."""
    paths: dict[Any, str] = {None: ""}
    found = []
    for ledger_id, parent_id, code, debits, credits_ in tx.execute(BALANCES, {"organization_id": organization_id}):
        paths[ledger_id] = f"{paths[parent_id]}:{code}".removeprefix(":")
        found.append((ledger_id, paths[ledger_id], int(debits - credits_)))
    return found


def _in_crowns(minor_units: int) -> str:
    whole, rest = divmod(abs(minor_units), 100)
    return f"{'-' if minor_units < 0 else ''}{whole}.{rest:02d}"


def _spellings(balance: int | None) -> set[str]:
    if balance is None:
        return set()
    return {_in_crowns(balance), "0"} if balance == 0 else {_in_crowns(balance)}
