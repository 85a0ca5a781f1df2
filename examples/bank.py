"""Posts a year of a real bank through the broker, and checks the books against the bank's own.

    python examples/bank.py FOLDER [--again] [--hledger OUT.journal] [--report OUT.json]

FOLDER holds the PKDD'99 financial data: transactions-1993.csv, accounts.csv, districts.csv. A posting worker has to
run. What is compared, and what counts as agreement, is said in `bank_checks.py` and `bank_reference.py`.
"""

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import bank_books
import bank_checks
from bank_reference import Year, read_year

from ledgermill.config import Settings
from ledgermill.errors import OrganizationNotFound
from ledgermill.messages import routes
from ledgermill.messages.ledgers import read_ledger
from ledgermill.producer import MOST_IN_A_MESSAGE, Producer
from ledgermill.runtime import Runtime
from ledgermill.storage import jobs, ledgers, organizations
from ledgermill.storage.connections import Transaction, snapshot
from ledgermill.usecases import charts
from ledgermill.usecases import organizations as organization_usecases

MESSAGE_SIZE: Final = 500
WAIT_AT_MOST_S: Final = 300.0
LOOK_EVERY_S: Final = 0.1
UNACKNOWLEDGED_KEY: Final = "unacked"  # where Celery's Redis transport keeps what workers have taken
SHOWN_AT_MOST: Final = 20

Journals = list[dict[str, Any]]


def main() -> int:
    """Run the example; 1 where a check failed."""
    options = _options()
    given = {"database_url": options.database_url, "broker_url": options.broker_url}
    runtime = Runtime(Settings(**{name: url for name, url in given.items() if url}), role="owner")
    try:
        report = run(runtime, options)
    finally:
        runtime.close()
    if options.report:
        options.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if report["problems"] else 0


def run(runtime: Runtime, options: argparse.Namespace) -> dict[str, Any]:
    """Open, publish, wait, check; what was found, with every failed check among its `problems`."""
    year = read_year(options.folder)
    with runtime.engine.begin() as tx:
        organization_id, opened = open_books(tx, options.organization, year)
    messages = list(pack(year))
    total = sum(map(len, messages))
    print(f"{opened} ledgers opened; publishing {total:,} journals in {len(messages)} messages", flush=True)
    seconds = publish(runtime, options.organization, organization_id, messages)
    print(f"all have an outcome after {seconds:.1f} s: {total / seconds:,.0f} journals/s", flush=True)
    report: dict[str, Any] = {
        "journals": total,
        "messages": len(messages),
        "seconds": round(seconds, 2),
        "journals_per_s": round(total / seconds),
        "problems": [],
    }
    if options.again:
        _publish_again(runtime, options.organization, organization_id, messages, report)
    with snapshot(runtime.engine) as tx:
        _check(tx, organization_id, year, report)
        if options.hledger:
            _check_with_hledger(tx, organization_id, options.hledger, report)
    for problem in report["problems"][:SHOWN_AT_MOST]:
        print(f"WRONG  {problem}")
    print(f"{len(report['problems'])} problems" if report["problems"] else "all checks passed")
    return report


def open_books(tx: Transaction, organization: str, year: Year) -> tuple[int, int]:
    """Make the organization and its ledgers where they are missing: its inner id, and how many ledgers were opened."""
    try:
        organizations.find(tx, organization)
    except OrganizationNotFound:
        organization_usecases.create(
            tx, code=organization, name="A Czech bank in 1993", base_currency="CZK", time_zone="Europe/Prague"
        )
    organization_id: int = organizations.find(tx, organization)["organization_id"]
    wanted = bank_books.chart(year)
    there, _ = ledgers.taken(tx, organization_id, codes=[ledger["code"] for ledger in wanted], numbers=[])
    missing = [(ledger["code"], read_ledger(ledger)) for ledger in wanted if ledger["code"] not in there]
    if missing:
        charts.open_chart(tx, organization_id, missing, principal_id=organizations.BROKER_PRINCIPAL_ID)
    return organization_id, len(missing)


def pack(year: Year) -> Iterator[Journals]:
    """All journals, in messages of some hundreds.

    An account's year stays in one message, in the bank's order of booking. Order is kept within a message, not between
    messages that two workers take; so running balances are the bank's whichever message comes first.
    """
    message: Journals = []
    for account in year.accounts.values():
        message += [bank_books.journal(booked.transaction) for day in account.days.values() for booked in day]
        if len(message) >= MESSAGE_SIZE:
            yield message
            message = []
    if message:
        yield message


def publish(runtime: Runtime, organization: str, organization_id: int, messages: Sequence[Journals]) -> float:
    """Send the messages as an upstream system would, and wait for their outcomes; the seconds that this took."""
    started = time.monotonic()
    broker_url = runtime.settings.broker_url.get_secret_value()
    with Producer(broker_url, organization, most_in_a_message=MOST_IN_A_MESSAGE) as producer:
        for message in messages:
            producer.post_many(message)
    missing = {journal["idempotency_key"] for message in messages for journal in message}
    while True:
        was_idle = _is_idle(runtime, organization_id)
        with runtime.engine.connect() as tx:
            missing -= jobs.settled(tx, organization_id, missing).keys()
        if not missing and was_idle:
            return time.monotonic() - started
        if time.monotonic() - started > WAIT_AT_MOST_S:
            sys.exit(f"{len(missing)} journals have no outcome after {WAIT_AT_MOST_S:.0f} s. Does a worker run?")
        time.sleep(LOOK_EVERY_S)


def _is_idle(runtime: Runtime, organization_id: int) -> bool:
    """Whether every message was taken and acknowledged, and nothing waits in the inbox.

    Twice in a row, for a message that was just taken is for a moment in neither place.
    """
    for _ in range(2):
        with runtime.engine.connect() as tx:
            waiting = organizations.waiting_jobs(tx, organization_id)
        taken = runtime.broker.redis.hlen(UNACKNOWLEDGED_KEY)
        if waiting or taken or runtime.broker.queue_length(routes.POST_JOURNALS.queue):
            return False
        time.sleep(LOOK_EVERY_S / 2)
    return True


def _publish_again(
    runtime: Runtime, organization: str, organization_id: int, messages: list[Journals], report: dict[str, Any]
) -> None:
    with snapshot(runtime.engine) as tx:
        before = bank_checks.digests(tx, organization_id)
    shuffled = random.Random(1993).sample(messages, len(messages))  # noqa: S311 - an order, not a secret
    seconds = publish(runtime, organization, organization_id, shuffled)
    with snapshot(runtime.engine) as tx:
        after = bank_checks.digests(tx, organization_id)
    changed = [f"{table}: {before[table]}, then {after[table]}" for table in before if before[table] != after[table]]
    report["again"] = {"seconds": round(seconds, 2), "changed": changed, "tables": after}
    report["problems"] += [f"published again, changed {change}" for change in changed]
    print(f"published again in another order in {seconds:.1f} s: {len(changed)} of {len(after)} tables changed")


def _check(tx: Transaction, organization_id: int, year: Year, report: dict[str, Any]) -> None:
    posted, rejected = bank_checks.outcomes(tx, organization_id, year)
    days = bank_checks.account_days(tx, organization_id, year)
    totals = bank_checks.wrong_totals(tx, organization_id, year)
    report |= {
        "posted": posted,
        "rejected": {code: len(found) for code, found in rejected.items()},
        "account_days": {**days._asdict(), "others": len(days.others)},
        "regions": len({region for _, region in year.districts.values()}),
        "bank_balance": sum(transaction.change for transaction in year.transactions()),
        "wrong_totals": len(totals),
    }
    report["problems"] += [f"{code}: {reason}" for code, found in rejected.items() for reason in found]
    if posted != report["journals"]:
        report["problems"].append(f"{posted:,} of {report['journals']:,} journals are posted")
    report["problems"] += [*days.others, *totals]
    print(f"journals       {posted:,} posted, rejected: {report['rejected'] or 'none'}")
    print(
        f"account-days   {days.agree:,} agree, {days.rounded:,} are off by the bank's rounding of interest, "
        f"{len(days.others):,} others"
    )
    print(
        f"               {days.identical:,} end-to-end identical; the largest difference that roundings of a year "
        f"add up to is {days.largest_difference / 100:.2f} CZK"
    )
    print(f"totals         {len(totals)} of a ledger or its days differ from the file, heads included")
    print(f"the bank       {report['bank_balance'] / 100:,.2f} CZK owed to customers")


def _check_with_hledger(tx: Transaction, organization_id: int, path: Path, report: dict[str, Any]) -> None:
    bank_checks.write_hledger(tx, organization_id, path)
    if shutil.which("hledger") is None:
        print(f"hledger        is not installed; the journal is in {path}")
        return
    result = bank_checks.compare_hledger(tx, organization_id, path)
    report["hledger"] = {"accounts": result.accounts, "differences": len(result.differences)}
    report["problems"] += result.differences
    print(f"hledger        {result.accounts:,} accounts compared, {len(result.differences)} differ")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Post a year of a real bank, and check the books against the bank's.")
    parser.add_argument("folder", type=Path, help="the folder of the PKDD'99 financial data")
    parser.add_argument("--organization", default="bank", help="code of the organization; made where it is missing")
    parser.add_argument("--again", action="store_true", help="publish a second time, the messages in another order")
    parser.add_argument("--hledger", type=Path, metavar="FILE", help="write an hledger journal, and compare balances")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--database-url", help="the owner's login; DATABASE_URL by default")
    parser.add_argument("--broker-url", help="BROKER_URL by default")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
