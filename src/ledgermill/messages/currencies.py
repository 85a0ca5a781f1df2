"""Currencies by ISO 4217: which there are, and how many decimals they have."""

from functools import cache
from typing import Final
from uuid import UUID, uuid5

from iso4217 import Currency

from ledgermill.errors import InvalidField

CURRENCIES: Final = UUID("0d3b2a4e-3c39-5c53-9a53-6f2f3f4d0a57")


def own_id(code: str) -> UUID:
    """The id that a currency has until a client names one of its own."""
    return uuid5(CURRENCIES, code)


@cache
def exponent_of(code: str) -> int:
    """The number of decimals of a currency: 2 for EUR, 0 for JPY, 3 for KWD, 4 for CLF. Raises InvalidField."""
    try:
        exponent: int | None = Currency(code).exponent
    except ValueError:
        raise InvalidField(field="currency", problem=f"{code} is no currency of ISO 4217") from None
    return exponent or 0  # metals and funds have none
