"""Fingerprints: the content that an idempotency key is bound to, as 32 bytes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import orjson

FINGERPRINT_VERSION: Final = b"1:"  # a release that reads content differently counts up, and keeps reading the old way
DEFAULT_TYPE: Final = "journal"


def fingerprint(item: Mapping[str, Any]) -> bytes:
    """SHA-256 of the content: canonical JSON of the fields as sent, without the key and without defaults.

    Takes items that were read, whose amounts are integers: so 100 and "100" are the same content.
    """
    content: dict[str, Any] = {}
    for name, value in item.items():
        if name == "entries":
            content[name] = [entry if None not in entry.values() else _given(entry) for entry in value]
        elif name == "idempotency_key":
            continue
        elif name in {"transaction", "contra"}:
            if value and (given := _given(value)):
                content[name] = given
        elif value is not None and value != {}:
            content[name] = value
    return hashlib.sha256(FINGERPRINT_VERSION + _canonical_json(content)).digest()


def unreadable_fingerprint(item: object) -> bytes:
    """The same for an item that could not be read, as it came."""
    text = json.dumps(item, sort_keys=True, default=str)
    return hashlib.sha256(b"unreadable:" + text.encode()).digest()


def _given(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields that say something: no nulls, no empty metadata, no total of 0, no type that is the default."""
    if all(fields.values()) and fields.get("type") != DEFAULT_TYPE:
        return fields  # as most are: nothing is null, empty or 0
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value not in ({}, 0) and (name, value) != ("type", DEFAULT_TYPE)
    }


def _canonical_json(content: object) -> bytes:
    try:
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an amount beyond 64 bits
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
