"""How the bank's year is kept in ledgers: the chart, and the journal of each transaction."""

from collections import defaultdict
from datetime import date
from typing import Any, Final, NamedTuple

from bank_reference import Transaction, Year

KEY_PREFIX: Final = "pkdd-"
BANK: Final = "BANK"
CASH, CARDS, NOSTRO = "CASH", "CARD-SETTLEMENT", "NOSTRO"
FEES, PENALTY_INTEREST, INTEREST_PAID = "FEES", "PENALTY-INTEREST", "INTEREST-PAID"
PURPOSES: Final = {
    "SIPO": "household payment",
    "POJISTNE": "insurance payment",
    "DUCHOD": "pension",
    "UVER": "loan payment",
}

Totals = dict[str, dict[date, tuple[int, int]]]


class Kind(NamedTuple):
    """What a transaction is: its journal's type, its words, and the ledger on the other side."""

    type: str
    words: str
    contra: str


KINDS_BY_SYMBOL: Final = {
    "UROK": Kind("interest", "Interest", INTEREST_PAID),
    "SANKC. UROK": Kind("penalty_interest", "Penalty interest", PENALTY_INTEREST),
    "SLUZBY": Kind("fee", "Fee", FEES),
}
KINDS_BY_OPERATION: Final = {
    "VKLAD": Kind("cash_in", "Cash paid in", CASH),
    "VYBER": Kind("cash_out", "Cash withdrawn", CASH),
    "VYBER KARTOU": Kind("card", "Withdrawn by card", CARDS),
    "PREVOD Z UCTU": Kind("transfer_in", "Received from another bank", NOSTRO),  # completed by which bank
    "PREVOD NA UCET": Kind("transfer_out", "Sent to another bank", NOSTRO),
}


def chart(year: Year) -> list[dict[str, Any]]:
    """The ledgers of the bank, as they are opened.

    Customers' accounts are liabilities below bank, region and district. An account may go below 0 only if the bank's
    own records do so. The bank's own assets have no floor: the data begin without what it held before.
    """
    below_zero = {transaction.account_id for transaction in year.transactions() if transaction.balance < 0}
    used = {account.district_id for account in year.accounts.values()}
    districts = {district: names for district, names in year.districts.items() if district in used}
    banks = sorted({transaction.bank for transaction in year.transactions() if transaction.bank})
    ledgers = [
        _head(BANK, "Customers' accounts", "liability"),
        *(
            _head(region_code(region), region, "liability", BANK)
            for region in sorted({r for _, r in districts.values()})
        ),
        *(
            _head(district_code(district), name, "liability", region_code(region))
            for district, (name, region) in districts.items()
        ),
        _head("OWN-ASSETS", "Cash and other banks", "asset"),
        _leaf(CASH, "Cash", "asset", "OWN-ASSETS"),
        _head(NOSTRO, "Our accounts with other banks", "asset", "OWN-ASSETS"),
        *(_leaf(f"{NOSTRO}-{bank}", f"Our account with bank {bank}", "asset", NOSTRO) for bank in banks),
        _leaf(CARDS, "Card withdrawals to be settled", "liability"),
        _head("INCOME", "Income", "income"),
        _leaf(FEES, "Fees", "income", "INCOME"),
        _leaf(PENALTY_INTEREST, "Penalty interest", "income", "INCOME"),
        _head("EXPENSES", "Expenses", "expense"),
        _leaf(INTEREST_PAID, "Interest paid to customers", "expense", "EXPENSES"),
    ]
    for account in year.accounts.values():
        leaf = _leaf(
            account_code(account.account_id),
            f"Account {account.account_id}",
            "liability",
            district_code(account.district_id),
            floor="none" if account.account_id in below_zero else "limit",
        )
        ledgers.append(leaf | {"opening_date": account.opened_on.isoformat()})
    return ledgers


def journal(transaction: Transaction) -> dict[str, Any]:
    """A transaction as a journal of two entries, keyed by its id."""
    kind = kind_of(transaction)
    account = account_code(transaction.account_id)
    debited, credited = (kind.contra, account) if transaction.is_credit else (account, kind.contra)
    metadata = {
        "operation": transaction.operation,
        "k_symbol": transaction.symbol,
        "bank": transaction.bank,
        "account": transaction.counter_account,
    }
    purpose = PURPOSES.get(transaction.symbol)
    return {
        "idempotency_key": key_of(transaction),
        "transaction": {
            "type": kind.type,
            "currency_code": "CZK",
            "value_date": transaction.value_date.isoformat(),
            "description": f"{kind.words}: {purpose}" if purpose else kind.words,
            "reference_id": transaction.trans_id,
            "metadata": {name: text for name, text in metadata.items() if text},
        },
        "entries": [
            {"ledger_code": debited, "type": "debit", "amount": transaction.amount},
            {"ledger_code": credited, "type": "credit", "amount": transaction.amount},
        ],
    }


def kind_of(transaction: Transaction) -> Kind:
    """What the bank's codes stand for; a symbol of the bank's own business says more than the operation.

    Raises KeyError for codes that are not known.
    """
    kind = KINDS_BY_SYMBOL.get(transaction.symbol) or KINDS_BY_OPERATION[transaction.operation]
    return kind._replace(contra=f"{NOSTRO}-{transaction.bank}") if kind.contra == NOSTRO else kind


def day_totals(year: Year) -> Totals:
    """Debits and credits of each ledger, heads too, on each day, summed straight from the transactions."""
    parents: dict[str, str | None] = {ledger["code"]: ledger["parent_ledger_code"] for ledger in chart(year)}
    totals: defaultdict[str, dict[date, tuple[int, int]]] = defaultdict(dict)
    for transaction in year.transactions():
        day, sides = transaction.value_date, (0, transaction.amount)
        account_sides = sides if transaction.is_credit else sides[::-1]
        for code, (debit, credit) in (
            (account_code(transaction.account_id), account_sides),
            (kind_of(transaction).contra, account_sides[::-1]),
        ):
            above: str | None = code
            while above is not None:
                debits, credits_ = totals[above].get(day, (0, 0))
                totals[above][day] = debits + debit, credits_ + credit
                above = parents[above]
    return dict(totals)


def key_of(transaction: Transaction) -> str:
    return f"{KEY_PREFIX}{transaction.trans_id}"


def region_code(region: str) -> str:
    return f"REGION-{region.upper().replace(' ', '-')}"


def district_code(district_id: str) -> str:
    return f"DISTRICT-{district_id}"


def account_code(account_id: str) -> str:
    return f"ACCOUNT-{account_id}"


def _head(code: str, name: str, ledger_type: str, parent: str | None = None) -> dict[str, Any]:
    return {"code": code, "name": name, "type": ledger_type, "is_head": True, "parent_ledger_code": parent}


def _leaf(code: str, name: str, ledger_type: str, parent: str | None = None, *, floor: str = "none") -> dict[str, Any]:
    return {
        "code": code,
        "name": name,
        "type": ledger_type,
        "is_head": False,
        "parent_ledger_code": parent,
        "balance_floor": floor,
    }
