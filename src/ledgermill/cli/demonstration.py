"""The demonstration: a small business with a chart of ledgers in four levels, and a month of journals."""

import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from ledgermill.cli import machine_state, session
from ledgermill.config import Settings
from ledgermill.errors import OrganizationExists
from ledgermill.messages import routes
from ledgermill.messages.ledgers import read_ledger
from ledgermill.runtime import Runtime, now
from ledgermill.storage import organizations, posting_lock
from ledgermill.storage.connections import Engine
from ledgermill.usecases import charts
from ledgermill.usecases import organizations as organization_usecases

ORGANIZATION: Final = "demo"
SCOPES: Final = ("read", "post", "ledgers")
DAYS: Final = 30
MESSAGES: Final = 10
OPENED_WITHIN_S: Final = 10.0
POLL_S: Final = 0.02

# Indented by level; a ledger with others below it is a head.
CHART: Final = """
ASSETS                  asset      Assets
  CURRENT-ASSETS        asset      Current assets
    CASH-AND-BANK       asset      Cash and bank
      BANK              asset      Bank account
      PETTY-CASH        asset      Petty cash
      CARD-CLEARING     asset      Card payments on their way
    RECEIVABLES         asset      Receivables
      CUSTOMERS         asset      Customers
      DEPOSITS-PAID     asset      Deposits paid
    INVENTORY           asset      Inventory
      COFFEE-BEANS      asset      Coffee beans
      PACKAGING         asset      Packaging
  FIXED-ASSETS          asset      Fixed assets
    EQUIPMENT           asset      Equipment
      ROASTER           asset      Roaster
      DELIVERY-BIKE     asset      Delivery bike
LIABILITIES             liability  Liabilities
  CURRENT-LIABILITIES   liability  Current liabilities
    PAYABLES            liability  Payables
      SUPPLIERS         liability  Suppliers
      WAGES-PAYABLE     liability  Wages payable
    TAXES               liability  Taxes
      VAT               liability  Value added tax
EQUITY                  equity     Equity
  OWNERS-EQUITY         equity     Owner's equity
    CAPITAL-ACCOUNTS    equity     Capital accounts
      CAPITAL           equity     Capital
      DRAWINGS          equity     Drawings
INCOME                  income     Income
  OPERATING-INCOME      income     Operating income
    SALES               income     Sales
      SALES-SHOP        income     Shop
      SALES-ONLINE      income     Online shop
EXPENSES                expense    Expenses
  OPERATING-EXPENSES    expense    Operating expenses
    COST-OF-SALES       expense    Cost of sales
      BEANS-USED        expense    Beans used
      PACKAGING-USED    expense    Packaging used
    RUNNING-COSTS       expense    Running costs
      RENT              expense    Rent
      WAGES             expense    Wages
      BANK-FEES         expense    Bank fees
"""

Row = tuple[str, str, str, int, str]  # name, debited ledger, credited ledger, minor units, description

OPENING: Final[tuple[Row, ...]] = (
    ("capital", "BANK", "CAPITAL", 9_000_000, "Capital paid in"),
    ("cash", "PETTY-CASH", "BANK", 50_000, "Cash for the till"),
    ("customers", "CUSTOMERS", "CAPITAL", 2_500_000, "Open invoices brought forward"),
    ("suppliers", "COFFEE-BEANS", "SUPPLIERS", 3_200_000, "Beans on credit"),
    ("packaging", "PACKAGING", "SUPPLIERS", 400_000, "Bags and boxes on credit"),
    ("roaster", "ROASTER", "CAPITAL", 1_800_000, "Roaster brought in"),
)


def open_books(engine: Engine, home: Path) -> str:
    """The demonstration's API key; its organization, chart and key are made where they are missing."""
    kept = machine_state.read_secrets(home)
    with engine.begin() as tx:
        try:
            with tx.begin_nested():
                organization_usecases.create(
                    tx, code=ORGANIZATION, name="Demonstration", base_currency="EUR", time_zone="Europe/Prague"
                )
            organization_id = organizations.find(tx, ORGANIZATION)["organization_id"]
            items = [(item["code"], read_ledger(item)) for item in chart()]
            charts.open_chart(tx, organization_id, items, principal_id=session.principal_id(tx, organization_id))
        except OrganizationExists:
            if "api_key" in kept:
                return str(kept["api_key"])
        key = organization_usecases.create_key(
            tx, ORGANIZATION, name="demonstration", scopes=SCOPES, expires_at=None
        ).secret
    machine_state.write_secrets(home, {**kept, "api_key": key})
    return key


def publish_once(engine: Engine, settings: Settings) -> None:
    """Publish a month of journals and balance updates, unless the books have journals already."""
    if _is_posted(engine):
        return
    today = now().date()
    runtime = Runtime(settings, role="owner")
    try:
        _send(runtime, routes.POST_JOURNALS, "journals", [*opening(today)])
        # Two processes take messages side by side, and without the opening there is nothing to take from.
        give_up_at = time.monotonic() + OPENED_WITHIN_S
        while not _is_posted(engine) and time.monotonic() < give_up_at:
            time.sleep(POLL_S)
        days = [*daily(today)]
        for first in range(MESSAGES):
            _send(runtime, routes.POST_JOURNALS, "journals", days[first::MESSAGES])
        _send(runtime, routes.UPDATE_BALANCES, "updates", [*updates(today)])
    finally:
        runtime.close()


def chart() -> Iterator[dict[str, Any]]:
    """The ledgers, parents first."""
    lines = [line for line in CHART.splitlines() if line]
    levels = [(len(line) - len(line.lstrip())) // 2 for line in lines]
    above: dict[int, str] = {}
    for place, line in enumerate(lines):
        level = levels[place]
        code, ledger_type, name = line.split(maxsplit=2)
        is_head = place + 1 < len(lines) and levels[place + 1] > level
        above[level] = code
        parent = {"parent_ledger_code": above[level - 1]} if level else {}
        yield {"code": code, "name": name, "type": ledger_type, "is_head": is_head, **parent}


def opening(today: date) -> Iterator[dict[str, Any]]:
    """What the business begins with."""
    for row in OPENING:
        yield _journal("opening", today - timedelta(days=DAYS), row)


def daily(today: date) -> Iterator[dict[str, Any]]:
    """Some ten journals a day; every tenth day brings one that cannot be posted."""
    for age in range(DAYS - 1, -1, -1):
        day = today - timedelta(days=age)
        for sale in range(6):
            net = 900 + (age * 137 + sale * 271) % 2_600
            yield _sale(day, sale, net=net, vat=net * 21 // 100, into="BANK" if sale % 2 else "CARD-CLEARING")
        yield _journal("invoice", day, ("online", "CUSTOMERS", "SALES-ONLINE", 4_000 + age * 113, "Online order"))
        yield _journal("payment", day, ("paid", "BANK", "CUSTOMERS", 3_500 + age * 97, "A customer paid"))
        yield _journal("usage", day, ("beans", "BEANS-USED", "COFFEE-BEANS", 2_100 + age * 31, "Roasted today"))
        yield _journal("purchase", day, ("supplier", "SUPPLIERS", "BANK", 1_800 + age * 53, "Supplier paid"))
        if age % 7 == 0:
            yield _journal("wages", day, ("wages", "WAGES", "BANK", 64_000, "Wages of the week"))
        if age % 10 == 0:
            yield from _mistakes(day, age)
    yield _journal("rent", today - timedelta(days=3), ("rent", "RENT", "BANK", 120_000, "Rent"))


def updates(today: date) -> Iterator[dict[str, Any]]:
    """Balance updates: one ledger against another, or against the suspense ledger."""
    for age in range(0, DAYS, 5):
        day = today - timedelta(days=age)
        update = {"type": "debit", "value_date": day.isoformat()}
        fee = {"ledger_code": "BANK-FEES", "amount": 150 + age, "contra": {"ledger_code": "BANK"}, **update}
        unclear = {"ledger_code": "BANK", "amount": 7_700 + age, "description": "Payment without a name", **update}
        yield {"idempotency_key": f"demo-{day}-fee", **fee}
        yield {"idempotency_key": f"demo-{day}-unclear", **unclear}


def _is_posted(engine: Engine) -> bool:
    with engine.begin() as tx:
        organization_id = organizations.find(tx, ORGANIZATION)["organization_id"]
        return posting_lock.take(tx, organization_id).next_position > 1


def _mistakes(day: date, age: int) -> Iterator[dict[str, Any]]:
    """One for each of the usual reasons to be rejected."""
    if age == 0:
        yield _journal("purchase", day, ("till-overdrawn", "PACKAGING", "PETTY-CASH", 99_000_000, "More than there is"))
    elif age == 10:  # noqa: PLR2004 - as the next
        yield _journal("sale", day, ("no-such-ledger", "BANK", "SALES-MARKET", 5_000, "A ledger that nobody opened"))
    else:
        unbalanced = _journal("sale", day, ("unbalanced", "BANK", "SALES-SHOP", 5_000, "Debits are not credits"))
        unbalanced["entries"][1]["amount"] = 4_990
        yield unbalanced
        yield _journal("sale", day, ("head", "CASH-AND-BANK", "SALES-SHOP", 5_000, "A head takes no entries"))


def _sale(day: date, number: int, *, net: int, vat: int, into: str) -> dict[str, Any]:
    sale = _journal("sale", day, (f"sale-{number}", into, "SALES-SHOP", net + vat, "Sold in the shop"))
    sale["entries"][1]["amount"] = net
    sale["entries"].append({"ledger_code": "VAT", "type": "credit", "amount": vat})
    return sale


def _journal(journal_type: str, day: date, row: Row) -> dict[str, Any]:
    name, debit, credit, amount, description = row
    return {
        "idempotency_key": f"demo-{day}-{name}",
        "transaction": {
            "type": journal_type,
            "value_date": day.isoformat(),
            "description": description,
            "reference_id": f"{name}-{day:%y%m%d}",
        },
        "entries": [
            {"ledger_code": debit, "type": "debit", "amount": amount},
            {"ledger_code": credit, "type": "credit", "amount": amount},
        ],
    }


def _send(runtime: Runtime, route: routes.Route, field: str, items: list[dict[str, Any]]) -> None:
    runtime.broker.celery.send_task(
        route.task,
        kwargs={"organization": ORGANIZATION, field: items},
        queue=route.queue,
        argsrepr="()",
        kwargsrepr=f"{len(items)} {field}, {ORGANIZATION}",
    )
