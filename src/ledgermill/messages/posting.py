"""Journals and balance updates read: each item as a request that the rules understand, or with its error."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator, from_json

from ledgermill.domain.journals import (
    POST_JOURNAL,
    UPDATE_BALANCE,
    JournalRequest,
    Request,
    UnusableRequest,
)
from ledgermill.errors import BatchSize, InvalidField, InvalidJson, LedgermillError, MissingIdempotencyKey
from ledgermill.messages.fields import (
    MOST_METADATA_LEVELS,
    IdempotencyKey,
    first_problem,
    is_too_deep,
)
from ledgermill.messages.fingerprints import fingerprint, unreadable_fingerprint
from ledgermill.messages.journals import BalanceUpdateV1, JournalV1
from ledgermill.messages.requests import journal_request, update_request

MOST_ITEMS: Final = 10_000
MOST_LEVELS: Final = MOST_METADATA_LEVELS + 2  # the item and its transaction
NewKey = Callable[[int], str]
_Shape = Callable[[int, Any, str, bytes], JournalRequest]


def read(kind: str, items: object, *, new_key: NewKey, places: Sequence[int] | None = None) -> list[Request]:
    """Read the items of one batch; one that cannot be used is in the result with its error.

    Args:
        kind: POST_JOURNAL or UPDATE_BALANCE.
        items: a list, or one JSON text that holds a list.
        new_key: makes the key of an item that has none, from its place.
        places: the items' places in their batch; 0, 1, 2 … by default.

    Raises: InvalidJson, InvalidField (no list), BatchSize.
    """
    many, one, shape = _READERS[kind]
    try:
        read_items: Sequence[Any] = (
            many.validate_json(items) if isinstance(items, (bytes, str)) else many.validate_python(items)
        )
        problems: dict[int, LedgermillError] = {}
    except (ValidationError, RecursionError):
        read_items, problems = _one_by_one(one, items)
    if not 1 <= len(read_items) <= MOST_ITEMS:
        raise BatchSize(most=MOST_ITEMS, count=len(read_items))
    requests: list[Request] = []
    for index, item in enumerate(read_items):
        place = index if places is None else places[index]
        if problems and index in problems:
            requests.append(_unusable(kind, place, item, problems[index]))
            continue
        try:
            key = item.get("idempotency_key") or new_key(place)
            requests.append(shape(place, item, key, fingerprint(item)))
        except LedgermillError as error:
            requests.append(UnusableRequest(place, kind, key, fingerprint(item), item, error))
    return requests


def read_list(items: bytes | str) -> list[object]:
    """The items of a JSON text, unchecked. Raises InvalidJson, InvalidField (no list)."""
    try:
        text = items.encode() if isinstance(items, str) else items  # a lone surrogate is a ValueError here
        found = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJson(problem=str(error)) from None
    if not isinstance(found, list):
        raise InvalidField(field="the batch", problem="must be a list of items")
    return found


def as_json(items: Sequence[object]) -> bytes:
    """Items as the inbox keeps them; numbers of any length stay whole, which orjson would refuse."""
    return json.dumps(items, default=str).encode()


def read_kept(payload: bytes) -> list[object]:
    """The items of an inbox payload, unchecked; NaN and lone surrogates too, which a broker's JSON may hold."""
    try:
        items: list[object] = from_json(payload, allow_inf_nan=True)
    except ValueError:
        items = json.loads(payload)
    return items


def require_readable(kind: str, items: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Any]]:
    """The keys, and the items as a worker will read them. Raises what is wrong with the first that it would not."""
    many, _, shape = _READERS[kind]
    plain = [dict(item) for item in items]
    try:
        read_items = many.validate_python(plain)
    except (ValidationError, RecursionError):
        for request in read(kind, plain, new_key=str):
            if isinstance(request, UnusableRequest):
                raise request.error from None
        raise
    keys = []
    for place, item in enumerate(read_items):
        key = item.get("idempotency_key")
        if key is None:
            raise MissingIdempotencyKey(field="idempotency_key")
        shape(place, item, key, b"")
        keys.append(key)
    return keys, read_items


def _one_by_one(one: SchemaValidator, items: object) -> tuple[list[Any], dict[int, LedgermillError]]:
    found = read_list(items) if isinstance(items, (bytes, str)) else items
    if not isinstance(found, list):
        raise InvalidField(field="the batch", problem="must be a list of items")
    problems: dict[int, LedgermillError] = {}
    read_items: list[Any] = []
    for index, item in enumerate(found):
        if is_too_deep(item, MOST_LEVELS):
            problems[index] = InvalidField(field="the item", problem=f"is nested in more than {MOST_LEVELS} levels")
            read_items.append(_without_depth(item))
            continue
        try:
            read_items.append(one.validate_python(item))
        except ValidationError as error:
            problems[index] = first_problem(error)
            read_items.append(item)
    return read_items, problems


def _without_depth(item: object) -> object:
    """An item that JSON readers take again, with an empty list, which is wrong everywhere, for each field too deep."""
    if not isinstance(item, dict):
        return None
    return {name: [] if is_too_deep(value, MOST_LEVELS - 1) else value for name, value in item.items()}


def _unusable(kind: str, place: int, item: object, error: LedgermillError) -> UnusableRequest:
    """What cannot be read still binds its key, where that much can be read."""
    try:
        key = _KEY.validate_python(item["idempotency_key"]) if isinstance(item, dict) else None
    except (KeyError, ValidationError):
        key = None
    return UnusableRequest(place, kind, key, unreadable_fingerprint(item), item, error)


_KEY: Final[TypeAdapter[str]] = TypeAdapter(IdempotencyKey, config=ConfigDict(strict=True))


def _validator(shape: Any) -> SchemaValidator:
    """What a TypeAdapter asks, without the adapter: for a message of one item that is a twentieth of the time."""
    return SchemaValidator(TypeAdapter(shape).core_schema)


_READERS: Final[dict[str, tuple[SchemaValidator, SchemaValidator, _Shape]]] = {
    POST_JOURNAL: (_validator(list[JournalV1]), _validator(JournalV1), journal_request),
    UPDATE_BALANCE: (_validator(list[BalanceUpdateV1]), _validator(BalanceUpdateV1), update_request),
}
