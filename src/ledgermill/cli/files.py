"""Files of journals and balance updates: JSON lines, a JSON list, or CSV in major units."""

import csv
import hashlib
import re
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Any, Final, NamedTuple

from ledgermill.errors import (
    InvalidField,
    InvalidFile,
    InvalidJson,
    LedgermillError,
    MissingField,
    UnknownField,
)
from ledgermill.messages.currencies import exponent_of
from ledgermill.messages.fields import read_reference
from ledgermill.messages.posting import read_list

COLUMNS: Final = frozenset(
    {
        "idempotency_key",
        "type",
        "value_date",
        "description",
        "reference_id",
        "currency_code",
        "debit",
        "credit",
        "amount",
    }
)
MOST_PROBLEMS_SHOWN: Final = 1_000
AMOUNT: Final = re.compile(r"[0-9]{1,38}(?:\.([0-9]{1,20}))?", re.ASCII)


class Line(NamedTuple):
    """An item to be posted, and the line that it is on; in a JSON list, its place, counted from 1."""

    number: int
    item: object


def read_items(content: bytes, *, is_csv: bool, base_currency: str) -> list[Line]:
    """The items of a file, each with a key: an item without one gets SHA-256-OF-THE-FILE:LINE.

    CSV rows become journals of two entries; their amounts are in major units of the row's currency. Raises InvalidFile,
    whose details name the line of each problem, InvalidField, InvalidJson.
    """
    text = read_text(content)
    lines: list[Line] = []
    problems: list[dict[str, object]] = []
    for number, item in _csv_rows(text) if is_csv else _json_items(text):
        try:
            if isinstance(item, LedgermillError):
                raise item
            lines.append(Line(number, _journal(item, base_currency) if is_csv else item))
        except LedgermillError as error:
            problems.append({"at": f"line {number}", "code": error.code, "message": str(error)})
    if problems:
        first = f"{problems[0]['at']}: {problems[0]['message']}"
        raise InvalidFile(count=len(problems), first=first, problems=problems[:MOST_PROBLEMS_SHOWN])
    if not lines:
        raise InvalidField(field="the file", problem="holds nothing to post")
    sha256 = hashlib.sha256(content).hexdigest()
    return [Line(number, _with_key(item, f"{sha256}:{number}")) for number, item in lines]


def read_text(content: bytes) -> str:
    """A file's text. Raises InvalidField."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidField(field="the file", problem=f"is not UTF-8 at byte {error.start}") from None


def minor_units(text: str, *, currency: str) -> int:
    """An exact amount in major units, as whole minor units. Raises InvalidField."""
    exponent = exponent_of(currency)
    found = AMOUNT.fullmatch(text)
    if not found:
        raise InvalidField(field="amount", problem=f"{text[:50]} is no amount, as 12.50 is")
    if len(found[1] or "") > exponent:
        raise InvalidField(field="amount", problem=f"{text} has more decimals than the {exponent} that {currency} has")
    whole, _, decimals = text.partition(".")
    return int(whole + decimals.ljust(exponent, "0"))  # digits only, so nothing is ever rounded


def _json_items(text: str) -> Iterator[tuple[int, Any]]:
    if text.lstrip().startswith("["):
        yield from enumerate(read_list(text), 1)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                items = read_list(f"[{line}]")
                yield number, items[0] if len(items) == 1 else InvalidJson(problem="one object a line is expected")
            except InvalidJson as error:
                yield number, error


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        if unknown := set(reader.fieldnames or ()) - COLUMNS:
            raise UnknownField(field=f"line 1: the column {min(unknown)}")
        if missing := {"debit", "credit", "amount"} - set(reader.fieldnames or ()):
            raise MissingField(field=f"line 1: the column {min(missing)}")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InvalidField(field=f"line {reader.line_num}", problem=f"is not CSV: {error}") from None


def _journal(row: Mapping[Any, Any], base_currency: str) -> dict[str, object]:
    if None in row:
        raise InvalidField(field="the row", problem="has more cells than the header has columns")
    cells = {name: text.strip() for name, text in row.items() if text and text.strip()}
    for name in ("debit", "credit", "amount"):
        if name not in cells:
            raise MissingField(field=name)
    amount = minor_units(cells["amount"], currency=cells.get("currency_code", base_currency))
    described = ("type", "value_date", "description", "reference_id", "currency_code")
    journal: dict[str, object] = {
        "transaction": {name: cells[name] for name in described if name in cells},
        "entries": [{**_ledger(cells[side]), "type": side, "amount": amount} for side in ("debit", "credit")],
    }
    return journal | ({"idempotency_key": cells["idempotency_key"]} if "idempotency_key" in cells else {})


def _ledger(text: str) -> dict[str, object]:
    named = read_reference(text)
    names = {"ledger_id": named.uuid, "ledger_code": named.code, "ledger_num_id": named.number}
    return {name: value for name, value in names.items() if value is not None}


def _with_key(item: object, key: str) -> object:
    if isinstance(item, dict) and item.get("idempotency_key") is None:
        return {**item, "idempotency_key": key}
    return item
