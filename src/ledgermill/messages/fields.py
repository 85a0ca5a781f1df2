"""Field types that messages share, and what is said when a field is wrong."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetPydanticSchema,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import TypeAliasType

from ledgermill.domain.journals import LARGEST_MINOR_UNITS
from ledgermill.domain.ledgers import LedgerReference
from ledgermill.errors import (
    Invalid,
    InvalidAmount,
    InvalidField,
    InvalidIdempotencyKey,
    LedgerReferenceMissing,
    MissingField,
    MissingIdempotencyKey,
    UnknownField,
)

_AMOUNT_SCHEMA: Final = core_schema.union_schema(
    [
        core_schema.int_schema(strict=True, gt=0, le=LARGEST_MINOR_UNITS),
        core_schema.chain_schema(
            [
                core_schema.str_schema(strict=True, pattern="^[0-9]{1,38}$"),
                core_schema.int_schema(strict=False, gt=0),  # or the strict model around it refuses all texts
            ]
        ),
    ],
    mode="left_to_right",
    custom_error_type="amount",
    custom_error_message="is no amount",
)
_AMOUNT_JSON: Final = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]{1,38}$"}],
    "description": "Whole minor units above 0: 32998 is 329.98 USD.",
}
_NUMBER_SCHEMA: Final = core_schema.union_schema(
    [
        core_schema.int_schema(strict=True, gt=0, le=9_999_999_999),
        core_schema.chain_schema(
            [core_schema.str_schema(strict=True, pattern="^[0-9]{1,10}$"), core_schema.int_schema(strict=False, gt=0)]
        ),
    ],
    mode="left_to_right",
    custom_error_type="ledger_number",
    custom_error_message="must be a ledger number of up to 10 digits",
)
_NUMBER_JSON: Final = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]{1,10}$"}]}

MOST_METADATA_LEVELS: Final = 32

NO_CONTROL: Final = r"^[^\x00-\x1f\x7f]*$"
NO_NUL: Final = r"^[^\x00]*$"
NAMED_UUID: Final = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"

Amount = Annotated[int, GetPydanticSchema(lambda _source, _handler: _AMOUNT_SCHEMA), WithJsonSchema(_AMOUNT_JSON)]
LedgerNumber = Annotated[int, GetPydanticSchema(lambda _source, _handler: _NUMBER_SCHEMA), WithJsonSchema(_NUMBER_JSON)]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=NO_CONTROL)]
Code = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_CONTROL)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=NO_CONTROL)]
Description = Annotated[str, StringConstraints(max_length=2000, pattern=NO_NUL)]
CurrencyCode = Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]
UuidText = Annotated[str, StringConstraints(pattern=NAMED_UUID)]
DateText = Annotated[str, StringConstraints(max_length=40), WithJsonSchema({"type": "string", "format": "date"})]
InstantText = Annotated[
    str, StringConstraints(max_length=40), WithJsonSchema({"type": "string", "format": "date-time"})
]

_Text = Annotated[str, StringConstraints(pattern=NO_NUL)]
_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what every JSON reader keeps exactly


def _no_integer(value: Any) -> Any:
    """Keep integers beyond 64 bits from being rounded to a float."""
    if isinstance(value, int):
        raise PydanticCustomError("integer_range", "must be an integer of 64 bits")
    return value


_Finite = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_integer, json_schema_input_type=float)]
JsonValue = TypeAliasType(
    "JsonValue",
    "bool | _Int64 | _Text | _Finite | list[JsonValue] | dict[_Text, JsonValue] | None",
)


def is_too_deep(value: object, most_levels: int) -> bool:
    """Whether lists and objects are nested in more levels than that; beyond some 200, JSON readers give up."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return most_levels == 0 or any(is_too_deep(part, most_levels - 1) for part in value)


def _not_too_deep(metadata: dict[str, Any]) -> dict[str, Any]:
    if is_too_deep(metadata, MOST_METADATA_LEVELS):
        raise PydanticCustomError("depth", "must be nested in at most {most} levels", {"most": MOST_METADATA_LEVELS})
    return metadata


Metadata = Annotated[dict[_Text, JsonValue], Field(max_length=100), AfterValidator(_not_too_deep)]


def reference_of(item: Any, *, field: str) -> LedgerReference:
    """The ledger that `ledger_id`, `ledger_code` or `ledger_num_id` name. Raises LedgerReferenceMissing."""
    uuid, code, number = item.get("ledger_id"), item.get("ledger_code"), item.get("ledger_num_id")
    if uuid is None and code is None and number is None:
        raise LedgerReferenceMissing(field=field)
    return LedgerReference(None if uuid is None else uuid.lower(), code, number)


def read_reference(text: str) -> LedgerReference:
    """A ledger as named in a path or on a command line: by its id, its 10-digit number or its code."""
    if re.fullmatch(NAMED_UUID, text):
        return LedgerReference(uuid=text.lower())
    if re.fullmatch("[0-9]{10}", text):
        return LedgerReference(number=int(text))
    return LedgerReference(code=text)


def read_instant(text: str, *, field: str) -> datetime:
    """An instant with its offset, as an aware UTC time. Raises InvalidField."""
    wrong = InvalidField(field=field, problem="must be an instant with an offset, as 2026-06-02T10:30:00Z")
    try:
        moment = datetime.fromisoformat(text)
        in_utc = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong from None
    if moment.tzinfo is None:
        raise wrong
    return in_utc


def read_date(text: str, *, field: str) -> date:
    """A date, or an instant whose date in UTC counts. Raises InvalidField."""
    try:
        return date.fromisoformat(text) if len(text) == 10 else read_instant(text, field=field).date()  # noqa: PLR2004
    except (ValueError, InvalidField):
        raise InvalidField(field=field, problem="must be a date, as 2026-06-02") from None


def first_problem(error: ValidationError, *, within: str = "") -> Invalid:
    """The first thing that is wrong, as one of our errors, with the path of its field."""
    problem = error.errors(include_url=False, include_context=False)[0]
    path = _path(problem["loc"], within)
    if path == "idempotency_key":
        return MissingIdempotencyKey(field=path) if problem["type"] == "missing" else InvalidIdempotencyKey(field=path)
    match problem["type"]:
        case "missing":
            return MissingField(field=path)
        case "extra_forbidden":
            return UnknownField(field=path)
        case "amount":
            return InvalidAmount(field=path, given=_shortened(problem["input"]), hint=_meant(problem["input"]))
        case _:
            return InvalidField(field=path or "the item", problem=problem["msg"])


def _path(loc: Sequence[int | str], within: str) -> str:
    path = within
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part and (part[0].islower() or not path) and "[" not in part:  # the rest names alternatives of a union
            path += f".{part}" if path else part
    return path


def _shortened(given: object) -> str:
    text = repr(given) if isinstance(given, str) else str(given)
    return text if len(text) <= 50 else text[:47] + "..."  # noqa: PLR2004 - enough to recognise it


def _meant(given: object) -> str:
    """For a decimal in major units: the minor units that were probably meant, where there are 2 decimals."""
    if isinstance(given, bool) or not isinstance(given, (float, str, Decimal)):
        return ""
    try:
        minor_units = Decimal(str(given)) * 100
        if minor_units.is_finite() and 0 < minor_units == minor_units.to_integral_value() <= LARGEST_MINOR_UNITS:
            return f" If that is in major units of a currency with 2 decimals, send {int(minor_units)}."
    except (InvalidOperation, ArithmeticError):
        return ""
    return ""
