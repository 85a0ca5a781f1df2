"""Journals and balance updates read: each item as a request that the rules understand, or with its error."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from ledgermill.domain.journals import (
    MOST_ENTRIES,
    POST_JOURNAL,
    UPDATE_BALANCE,
    EntryRequest,
    JournalRequest,
    Request,
    UnusableRequest,
    balanced_total,
    opposite,
)
from ledgermill.domain.ledgers import CREDIT, DEBIT, LedgerReference, Side
from ledgermill.errors import BatchSize, InvalidField, InvalidJson, LedgermillError, MissingIdempotencyKey
from ledgermill.messages.fields import (
    MOST_METADATA_LEVELS,
    IdempotencyKey,
    first_problem,
    is_too_deep,
    read_date,
    read_instant,
    reference_of,
)
from ledgermill.messages.fingerprints import DEFAULT_TYPE, fingerprint, unreadable_fingerprint
from ledgermill.messages.journals import BalanceUpdateV1, JournalV1

MOST_ITEMS: Final = 10_000
MOST_METADATA_BYTES: Final = 16_384
MOST_LEVELS: Final = MOST_METADATA_LEVELS + 2  # the item and its transaction
SIDES: Final[dict[str, Side]] = {"debit": DEBIT, "credit": CREDIT}

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
        if index in problems:
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
        found = from_json(items, allow_inf_nan=False)
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


def require_readable(kind: str, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of items that a worker will be able to read. Raises what is wrong with the first that it would not."""
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
        keys.append(shape(place, item, key, b"").idempotency_key)
    return keys


def _one_by_one(one: TypeAdapter[Any], items: object) -> tuple[list[Any], dict[int, LedgermillError]]:
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


def _journal(place: int, item: JournalV1, key: str, content: bytes) -> JournalRequest:
    transaction: Mapping[str, Any] = item.get("transaction") or {}
    raw_entries = item["entries"]
    if len(raw_entries) > MOST_ENTRIES:
        raise InvalidField(field="entries", problem=f"must be at most {MOST_ENTRIES}")
    entries = tuple(
        EntryRequest(
            reference_of(entry, field=f"entries[{index}]"),
            SIDES[entry["type"]],
            entry["amount"],
            entry.get("currency_code"),
        )
        for index, entry in enumerate(raw_entries)
    )
    currency = transaction.get("currency_code")
    total = balanced_total(
        entries, currency=currency or "the base currency", total_amount=transaction.get("total_amount")
    )
    return _request(
        POST_JOURNAL,
        place,
        key,
        content,
        item,
        transaction,
        entries,
        total,
        transaction.get("type") or DEFAULT_TYPE,
        "transaction.",
    )


def _balance_update(place: int, item: BalanceUpdateV1, key: str, content: bytes) -> JournalRequest:
    side, amount, contra = SIDES[item["type"]], item["amount"], item.get("contra")
    contra_entry = (
        EntryRequest(LedgerReference(), opposite(side), amount, field="the suspense ledger", is_suspense=True)
        if contra is None
        else EntryRequest(reference_of(contra, field="contra"), opposite(side), amount, field="contra")
    )
    entries = (EntryRequest(reference_of(item, field="the update"), side, amount, field="ledger"), contra_entry)
    return _request(UPDATE_BALANCE, place, key, content, item, item, entries, amount, "balance_update", "")


def _request(
    kind: str,
    place: int,
    key: str,
    content: bytes,
    item: Mapping[str, Any],
    transaction: Mapping[str, Any],
    entries: tuple[EntryRequest, ...],
    total: int,
    journal_type: str,
    within: str,
) -> JournalRequest:
    value_date, timestamp = transaction.get("value_date"), transaction.get("timestamp")
    metadata, due_at = transaction.get("metadata"), item.get("due_at")
    return JournalRequest(
        place,
        kind,
        key,
        content,
        item,
        transaction.get("currency_code"),
        entries,
        total,
        journal_type,
        None if value_date is None else read_date(value_date, field=within + "value_date"),
        None if timestamp is None else read_instant(timestamp, field=within + "timestamp").isoformat(),
        transaction.get("description"),
        transaction.get("reference_id"),
        None if not metadata else _metadata(metadata, field=within + "metadata"),
        None if due_at is None else read_instant(due_at, field="due_at"),
    )


def _metadata(metadata: dict[str, Any], *, field: str) -> str:
    text = orjson.dumps(metadata)
    if len(text) > MOST_METADATA_BYTES:
        raise InvalidField(field=field, problem=f"must be at most {MOST_METADATA_BYTES} bytes of JSON")
    return text.decode()


_KEY: Final[TypeAdapter[str]] = TypeAdapter(IdempotencyKey, config=ConfigDict(strict=True))
_READERS: Final[dict[str, tuple[TypeAdapter[Any], TypeAdapter[Any], _Shape]]] = {
    POST_JOURNAL: (TypeAdapter(list[JournalV1]), TypeAdapter(JournalV1), _journal),
    UPDATE_BALANCE: (TypeAdapter(list[BalanceUpdateV1]), TypeAdapter(BalanceUpdateV1), _balance_update),
}
