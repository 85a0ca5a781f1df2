"""The bank example's pure parts: the order of booking, what rounded interest explains, and the sums of the file."""

import sys
from datetime import date
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import bank_books
from bank_checks import kind_of_day
from bank_reference import Account, Booked, Transaction, Year, book, booking_order, explained_by_interest

DAY = date(1993, 5, 31)


def a_transaction(
    change: int, balance: int, symbol: str = "", *, on: date = DAY, operation: str = "VKLAD", bank: str = ""
) -> Transaction:
    return Transaction(f"{change}:{balance}", "7", on, change > 0, operation, abs(change), balance, symbol, bank, "")


def test_a_day_is_put_into_the_order_in_which_each_balance_follows_from_the_one_before() -> None:
    third, first, second = a_transaction(-300, 1_700), a_transaction(500, 1_500), a_transaction(500, 2_000)

    assert booking_order(1_000, [third, first, second]) == [first, second, third]


def test_an_order_without_a_rounding_is_found_before_one_with_a_rounding() -> None:
    # Both orders are within 10 of each recorded balance, but only the second is exact.
    ten, twenty = a_transaction(10, 130), a_transaction(20, 120)

    assert booking_order(100, [ten, twenty]) == [twenty, ten]


def test_a_balance_that_is_a_tenth_off_still_has_its_place() -> None:
    fee, interest = a_transaction(-1_460, 10_200, "SLUZBY"), a_transaction(1_650, 11_660, "UROK")

    assert booking_order(10_000, [fee, interest]) == [interest, fee]


def test_a_day_whose_balances_do_not_follow_has_no_order() -> None:
    assert booking_order(1_000, [a_transaction(500, 1_520)]) is None
    assert booking_order(1_000, [a_transaction(500, 1_500), a_transaction(500, 2_030)]) is None


@pytest.mark.parametrize(
    ("steps", "explained"),
    [
        ([(False, 0), (True, 10)], [True, True]),
        ([(True, 10), (True, -10), (True, -10)], [True, True, True]),
        ([(False, 10)], [False]),  # before any interest, nothing is hidden
        ([(True, 0), (False, 10)], [True, True]),  # the hidden 5 are now shown as 10
        ([(True, 0), (False, 10), (False, 10)], [True, True, False]),  # they cannot be shown twice
        ([(True, 20)], [False]),
    ],
)
def test_rounded_interest_explains_a_tenth_but_neither_more_nor_what_no_interest_preceded(
    steps: list[tuple[bool, int]], explained: list[bool]
) -> None:
    assert list(explained_by_interest(steps)) == explained


def test_days_follow_one_another_and_a_day_without_an_order_stays_as_it_is_given() -> None:
    later = date(1993, 6, 1)
    stray = [a_transaction(5, 900, on=later), a_transaction(7, 400, on=later)]

    booked = book({later: stray, DAY: [a_transaction(-20, 80), a_transaction(100, 100)]})

    assert [(day, [b.transaction.balance for b in found]) for day, found in booked.items()] == [
        (DAY, [100, 80]),
        (later, [900, 400]),
    ]
    assert [(b.off, b.is_explained) for b in booked[later]] == [(815, False), (-507, False)]


def test_the_sums_of_a_day_go_up_the_tree_and_to_the_other_side() -> None:
    booked = book({DAY: [a_transaction(900, 900), a_transaction(-200, 700, operation="PREVOD NA UCET", bank="QR")]})
    year = Year({"7": Account("7", "1", DAY, booked)}, {"1": ("Praha", "Prague"), "2": ("Brno", "south Moravia")})

    totals = {code: days[DAY] for code, days in bank_books.day_totals(year).items()}

    customers = ("ACCOUNT-7", "DISTRICT-1", "REGION-PRAGUE", "BANK")
    assert totals == {
        **dict.fromkeys(customers, (200, 900)),
        "CASH": (900, 0),
        "NOSTRO-QR": (0, 200),
        "NOSTRO": (0, 200),
        "OWN-ASSETS": (900, 200),
    }


def test_only_accounts_that_the_bank_let_go_below_zero_have_no_floor() -> None:
    districts = {"1": ("Praha", "Prague")}
    below = Account("7", "1", DAY, book({DAY: [a_transaction(-10, -10)]}))
    above = Account("8", "1", DAY, book({DAY: [a_transaction(10, 10)._replace(account_id="8")]}))

    chart = {ledger["code"]: ledger for ledger in bank_books.chart(Year({"7": below, "8": above}, districts))}

    assert (chart["ACCOUNT-7"]["balance_floor"], chart["ACCOUNT-8"]["balance_floor"]) == ("none", "limit")


@pytest.mark.parametrize(
    ("before", "differences", "is_explained", "kind"),
    [
        (0, [0, 0], True, "agree"),
        (-20, [-20, -20], True, "agree"),  # carried from earlier roundings
        (-20, [-20, -30], True, "rounded"),
        (0, [10, 0], True, "rounded"),
        (0, [0, 10], False, "other"),
        (0, [0, 20], True, "other"),
        (0, [0, 1], True, "other"),
        (0, [0, None], True, "other"),  # our next entry is another transaction's
    ],
)
def test_a_day_agrees_is_rounded_or_is_to_be_explained(
    before: int, differences: list[int | None], is_explained: bool, kind: str
) -> None:
    booked = [Booked(a_transaction(1, 1), 0, is_explained) for _ in differences]

    assert kind_of_day(before, differences, booked) == kind
