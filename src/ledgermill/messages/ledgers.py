"""Ledgers as they are opened and shown: the shapes of `/v1/ledgers`."""

import csv
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from io import StringIO
from typing import Annotated, Any, Final, Literal, NotRequired
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from ledgermill.domain.journals import LARGEST_MINOR_UNITS
from ledgermill.errors import InvalidField, InvalidJson, LedgermillError
from ledgermill.messages.fields import (
    Code,
    CurrencyCode,
    DateText,
    Description,
    LedgerNumber,
    Metadata,
    Name,
    UuidText,
    first_problem,
)
from ledgermill.messages.jobs import JournalOutV1
from ledgermill.messages.posting import read_list

MOST_LEDGERS: Final = 200_000
MinorUnits = Annotated[int, Field(ge=0, le=LARGEST_MINOR_UNITS)]
LedgerTypeName = Literal["asset", "liability", "equity", "income", "expense"]


@with_config(ConfigDict(extra="forbid", strict=True))
class LedgerNewV1(TypedDict):
    """A ledger to be opened. A head takes children, a leaf takes entries; `type` or `type_code` says what it is."""

    code: Code
    name: NotRequired[Name | None]
    description: NotRequired[Description | None]
    type: NotRequired[LedgerTypeName | None]
    type_code: NotRequired[Annotated[int, Field(ge=100, le=599)] | None]
    ledger_num_id: NotRequired[LedgerNumber | None]
    currency_id: NotRequired[UuidText | None]
    currency_code: NotRequired[CurrencyCode | None]
    is_head: NotRequired[bool | None]
    parent_ledger_id: NotRequired[UuidText | None]
    parent_ledger_code: NotRequired[Code | None]
    parent_ledger_num_id: NotRequired[LedgerNumber | None]
    normal_side: NotRequired[Literal["debit", "credit"] | None]
    active: NotRequired[bool | None]
    allow_manual_entry: NotRequired[bool | None]
    balance_floor: NotRequired[Literal["limit", "none"] | None]
    overdraft_enabled: NotRequired[bool | None]
    overdraft_limit: NotRequired[MinorUnits | None]
    opening_date: NotRequired[DateText | None]
    closing_date: NotRequired[DateText | None]
    balance_current: NotRequired[Literal[0] | None]
    balance_available: NotRequired[int | None]
    metadata: NotRequired[Metadata | None]


class LedgerV1(BaseModel):
    """A ledger with its balance. Balances are whole minor units, positive on the ledger's normal side."""

    id: UUID
    code: str
    ledger_num_id: int = Field(description="The 10-digit account number.")
    name: str
    description: str | None
    type: LedgerTypeName
    type_code: int
    currency_id: UUID | None
    currency_code: str
    is_head: bool
    normal_side: Literal["debit", "credit"]
    balance_current: int
    balance_available: int = Field(
        description="What may still be taken: the balance and the overdraft, less what is held."
    )
    overdraft_enabled: bool
    overdraft_limit: int
    allow_manual_entry: bool
    last_activity_date: datetime | None
    opening_date: date | None
    closing_date: date | None
    parent_ledger_id: UUID | None
    child_ledger_ids: list[UUID] = Field(
        description="The first 1,000 direct children, by code; all are at children_url."
    )
    children_url: str | None
    created_at: datetime
    created_by: UUID | None
    modified_at: datetime
    modified_by: UUID | None
    active: bool
    metadata: dict[str, Any]


class LedgerAnswerV1(BaseModel):
    """One ledger."""

    ledger: LedgerV1


class LedgerPageV1(BaseModel):
    """Ledgers by code. `next_after` leads to the next page; null on the last."""

    ledgers: list[LedgerV1]
    next_after: str | None


class BalanceV1(BaseModel):
    """The balance of a ledger, of its whole subtree for a head. All amounts are whole minor units."""

    ledger_id: UUID
    code: str
    ledger_num_id: int
    currency_code: str
    precision: int = Field(description="How many of an amount's digits are decimals.")
    is_head: bool
    balance_current: int
    balance_available: int
    total_debits: int
    total_credits: int
    held: int
    entry_count: int = Field(description="Entries of the ledger itself; the version counts those below a head too.")
    version: int
    last_activity_date: datetime | None


class BalanceUpdatedV1(BaseModel):
    """A balance update that was posted: the journal, and the balance that the ledger has now."""

    message: str
    balance: BalanceV1
    journal: JournalOutV1


class LedgersOpenedV1(BaseModel):
    """How many ledgers were opened, and their ids in the order in which they came."""

    opened: int
    ledger_ids: list[UUID]


class TreeNodeV1(BaseModel):
    """A ledger of a tree, with its balance and what is below it."""

    id: UUID
    code: str
    ledger_num_id: int
    name: str
    type: LedgerTypeName
    currency_code: str
    is_head: bool
    active: bool
    balance_current: int
    total_debits: int
    total_credits: int
    children: list["TreeNodeV1"]


class TreeV1(BaseModel):
    """Whole trees with their balances, at one moment."""

    ledgers: list[TreeNodeV1]


_NEW: Final[TypeAdapter[LedgerNewV1]] = TypeAdapter(LedgerNewV1)
_FLAGS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_FLAG_FIELDS: Final = frozenset({"is_head", "active", "allow_manual_entry", "overdraft_enabled"})
_WHOLE_FIELDS: Final = frozenset({"type_code", "ledger_num_id", "parent_ledger_num_id", "overdraft_limit"})


def read_ledger(item: object) -> LedgerNewV1:
    """One ledger to be opened. Raises what is wrong with it first."""
    try:
        return _NEW.validate_python(item)
    except ValidationError as error:
        raise first_problem(error) from None


def read_chart(text: str, *, is_csv: bool) -> Iterator[tuple[str, LedgerNewV1 | LedgermillError]]:
    """The ledgers of a chart, each with where it stands in the file, or what is wrong there.

    CSV has a header of field names; JSON is a list of objects, or one object a line. Raises InvalidJson, InvalidField.
    """
    for where, item in _csv_items(text) if is_csv else _json_items(text):
        try:
            yield where, read_ledger(item)
        except LedgermillError as error:
            yield where, error


def _csv_items(text: str) -> Iterator[tuple[str, object]]:
    reader = csv.DictReader(StringIO(text.removeprefix("\ufeff")))
    if not reader.fieldnames:
        raise InvalidField(field="the file", problem="is empty; its first line names the columns")
    for row in reader:
        yield f"line {reader.line_num}", _from_csv(row)


def _from_csv(row: Mapping[Any, Any]) -> dict[str, object]:
    item: dict[str, object] = {}
    for name, text in row.items():
        if name is None:
            item["(columns without a name)"] = text
        elif text is not None and (stripped := text.strip()):
            if name in _FLAG_FIELDS:
                item[name] = _FLAGS.get(stripped.lower(), stripped)
            elif name in _WHOLE_FIELDS and stripped.isascii() and stripped.isdigit():
                item[name] = int(stripped)
            else:
                item[name] = stripped
    return item


def _json_items(text: str) -> Iterator[tuple[str, object]]:
    if text.lstrip().startswith("["):
        yield from ((f"item {index}", item) for index, item in enumerate(read_list(text), 1))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"line {number}", read_list(f"[{line}]")[0]
            except InvalidJson as error:
                raise InvalidField(field=f"line {number}", problem=str(error)) from None
