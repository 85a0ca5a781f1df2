"""Ledgers: the accounts of the books, as a tree of heads that group and leaves that take entries."""

from collections.abc import Iterable
from datetime import date
from typing import Final, Literal, NamedTuple, get_args

LedgerType = Literal["asset", "liability", "equity", "income", "expense"]
Side = Literal["D", "C"]

DEBIT: Final = "D"
CREDIT: Final = "C"
LEDGER_TYPES: Final[tuple[LedgerType, ...]] = get_args(LedgerType)
DEBIT_TYPES: Final = frozenset({"asset", "expense"})

NUMBERS_PER_TYPE_CODE: Final = 10_000_000  # a ledger number is 3 digits of type code and 7 that count


class LedgerReference(NamedTuple):
    """How a request names a ledger: by one identifier or several that must agree."""

    uuid: str | None = None
    code: str | None = None
    number: int | None = None

    def __str__(self) -> str:
        return " / ".join(str(part) for part in self if part is not None)


class Ledger(NamedTuple):
    """A ledger as the rules see it. `limit` is the overdraft in minor units, None where there is no floor."""

    ledger_id: int
    uuid: str
    code: str
    number: int
    type: LedgerType
    currency: str
    is_head: bool
    parent_id: int | None
    depth: int
    normal_side: Side
    active: bool
    limit: int | None
    opening_date: date | None
    closing_date: date | None


class Chart:
    """Ledgers found by any of their names. With a ledger, all its ancestors are in it."""

    def __init__(self, ledgers: Iterable[Ledger] = ()) -> None:
        self.by_id: dict[int, Ledger] = {}
        self.by_uuid: dict[str, Ledger] = {}
        self.by_code: dict[str, Ledger] = {}
        self.by_number: dict[int, Ledger] = {}
        self._lineages: dict[int, tuple[int, ...]] = {}
        self.add(ledgers)

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, ledgers: Iterable[Ledger]) -> None:
        """Take these in, in place of what was known of them."""
        self._lineages.clear()
        for ledger in ledgers:
            old = self.by_id.get(ledger.ledger_id)
            if old is not None:
                del self.by_uuid[old.uuid], self.by_code[old.code], self.by_number[old.number]
            self.by_id[ledger.ledger_id] = ledger
            self.by_uuid[ledger.uuid] = ledger
            self.by_code[ledger.code] = ledger
            self.by_number[ledger.number] = ledger

    def find(self, reference: LedgerReference) -> list[Ledger | None]:
        """What each given identifier names; None where it names nothing here."""
        uuid, code, number = reference
        found: list[Ledger | None] = []
        if uuid is not None:
            found.append(self.by_uuid.get(uuid))
        if code is not None:
            found.append(self.by_code.get(code))
        if number is not None:
            found.append(self.by_number.get(number))
        return found

    def lineage(self, ledger_id: int) -> tuple[int, ...]:
        """The ids of a ledger and of the heads above it, nearest first."""
        found = self._lineages.get(ledger_id)
        if found is None:
            parent_id = self.by_id[ledger_id].parent_id
            above = () if parent_id is None else self.lineage(parent_id)
            found = self._lineages[ledger_id] = (ledger_id, *above)
        return found


def normal_side_of(ledger_type: LedgerType) -> Side:
    """Assets and expenses grow by debits, the others by credits."""
    return DEBIT if ledger_type in DEBIT_TYPES else CREDIT


def type_of_code(type_code: int) -> LedgerType | None:
    """The type of a 3-digit type code, by its first digit: 1 asset, 2 liability, 3 equity, 4 income, 5 expense."""
    first_digit = type_code // 100
    return LEDGER_TYPES[first_digit - 1] if 1 <= first_digit <= len(LEDGER_TYPES) else None


def default_type_code(ledger_type: LedgerType) -> int:
    """The type code of a ledger that was opened with a type only: 101 for assets to 501 for expenses."""
    return (LEDGER_TYPES.index(ledger_type) + 1) * 100 + 1


def number_of(type_code: int, count: int) -> int:
    """A 10-digit ledger number: the type code, then 7 digits."""
    return type_code * NUMBERS_PER_TYPE_CODE + count % NUMBERS_PER_TYPE_CODE


def has_floor_by_default(ledger_type: LedgerType, *, is_head: bool) -> bool:
    """Asset and liability leaves may not fall below their limit; all others may."""
    return not is_head and ledger_type in {"asset", "liability"}
