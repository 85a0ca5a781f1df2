"""Messages that a posting queue may hold beside ours: those to set aside, and odd ones that reach the task."""

import gzip
import json
import random
from base64 import b64encode

from kombu import compression

QUEUE = "posting"
SECRET = "IBAN-DE02-1203"
DEEP = 100_000


def envelope(*, body: bytes = b'[[], {"number": 0}, null]', without: str = "", **changes: object) -> dict[str, object]:
    """What Celery's producers put on the list, with fields changed (`headers__id=...`) or left out."""
    message: dict[str, object] = {
        "body": b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": "an-id", "task": "test.arrive", "lang": "py", "retries": 0, "timelimit": [None, None]},
        "properties": {
            "body_encoding": "base64",
            "correlation_id": "an-id",
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "delivery_mode": 2,
            "delivery_tag": "a-tag",
            "priority": 0,
        },
    }
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = message
        for parent in parents:
            target = target[parent]  # type: ignore[assignment]
        target[name.replace("_type", "-type")] = value
    if without:
        *parents, name = without.split("__")
        target = message
        for parent in parents:
            target = target[parent]  # type: ignore[assignment]
        del target[name]
    return message


def raw(message: object) -> bytes:
    return json.dumps(message).encode()


def good(number: object) -> bytes:
    return raw(envelope(body=raw([[], {"number": number}, None])))


BAD: dict[str, bytes] = {
    "random bytes": random.Random(1).randbytes(1_000),
    "empty": b"",
    "a letter": b"x",
    "truncated JSON": good(1)[:-20],
    "null": b"null",
    "a number": b"1",
    "a text": b'"x"',
    "a list": b"[]",
    "an empty object": b"{}",
    "NUL": b"\0",
    "10 MB of rubbish": SECRET.encode() + random.Random(2).randbytes(10_000_000),
    "10 MB of JSON": raw({"body": "x" * 10_000_000}),
    "deep envelope": b"[" * DEEP + b"]" * DEEP,
    "deep headers": raw(envelope())[:-1] + b',"headers":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    "5,000-digit integer": raw(envelope())[:-1] + b',"a":' + b"9" * 5_000 + b"}x",
    "NaN in the envelope": raw(envelope(headers__retries=float("nan"))),
    "lone surrogate in the envelope": raw(envelope(headers__id="\ud800")),
    "unknown type in the envelope": raw(envelope(headers={"__type__": "bomb", "__value__": 1})),
    "no body": raw(envelope(without="body")),
    "no properties": raw(envelope(without="properties")),
    "no headers": raw(envelope(without="headers")),
    "no delivery_tag": raw(envelope(without="properties__delivery_tag")),
    "no delivery_info": raw(envelope(without="properties__delivery_info")),
    "properties a list": raw(envelope(properties=[])),
    "headers null": raw(envelope(headers=None)),
    "body a number": raw(envelope() | {"body": 1}),
    "body not base64": raw(envelope() | {"body": "!!! not base64"}),
    "body not UTF-8": raw(envelope(body=b"\xff\xfe")),
    "body encoding unknown": raw(envelope(properties__body_encoding="rot13")),
    "pickle": raw(envelope(content_type="application/x-python-serialize")),
    "yaml": raw(envelope(content_type="application/x-yaml")),
    "msgpack": raw(envelope(content_type="application/x-msgpack")),
    "unknown content type": raw(envelope(content_type="application/x-secret")),
    "plain text": raw(envelope(content_type="text/plain")),
    "trusted by kombu": raw(envelope(content_type="application/data")),
    "no content type": raw(envelope(without="content-type")),
    "unknown task": raw(envelope(headers__task="test.unknown")),
    "Celery's own task": raw(envelope(headers__task="celery.map")),
    "task a list": raw(envelope(headers__task=["test.arrive"])),
    "no task, protocol 1": raw(envelope(without="headers__task", body=raw({"task": "test.arrive", "id": "1"}))),
    "no task": raw(envelope(without="headers__task")),
    "no id": raw(envelope(without="headers__id")),
    "id a list": raw(envelope(headers__id=[])),
    "eta not a time": raw(envelope(headers__eta="soon")),
    "eta in 9999": raw(envelope(headers__eta="9999-12-31T23:59:59+00:00")),
    "expired": raw(envelope(headers__expires="2001-01-01T00:00:00+00:00")),
    "expires not a time": raw(envelope(headers__expires=[1])),
    "args not a list": raw(envelope(body=b'[{"a": 1}, {"number": 0}, null]')),
    "kwargs not an object": raw(envelope(body=b"[[], [1], null]")),
    "embed not an object": raw(envelope(body=b'[[], {"number": 0}, 3]')),
    "two parts": raw(envelope(body=b"[[], {}]")),
    "body 1": raw(envelope(body=b"1")),
    "body []": raw(envelope(body=b"[]")),
    "body null": raw(envelope(body=b"null")),
    "body with args, protocol 1": raw(envelope(body=b'{"args": [], "kwargs": {}}')),
    "empty body": raw(envelope() | {"body": ""}),
    "argument missing": raw(envelope(body=b"[[], {}, null]")),
    "argument too many": raw(envelope(body=b'[[1], {"number": 0}, null]')),
    "deep body": raw(envelope(body=b'[[], {"number": ' + b"[" * DEEP + b"]" * DEEP + b"}, null]")),
    "body as deep as JSON may": raw(envelope(body=b'[[], {"number": ' + b"[" * 900 + b"]" * 900 + b"}, null]")),
    "5,000-digit number in the body": raw(envelope(body=b'[[], {"number": ' + b"9" * 5_000 + b"}, null]")),
    "unknown type in the body": raw(envelope(body=b'[[], {"number": {"__type__": "x", "__value__": 1}}, null]')),
    "gzip bomb": raw(
        envelope(body=gzip.compress(bytes(200_000_000), compresslevel=1), headers__compression="application/x-gzip")
    ),
    "unknown compression": raw(envelope(headers__compression="none")),
    "binary body": raw(envelope(content_type="application/data", body=random.Random(3).randbytes(5_000))),
    "a pickle that calls exit": raw(
        envelope(content_type="application/x-python-serialize", body=b"cos\n_exit\n(I0\ntR.")
    ),
    "10 MB body of brackets": raw(
        envelope(body=b'[[], {"number": ' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}, null]")
    ),
}
for codec in sorted(set(compression._aliases.values())):  # whatever this kombu could unpack
    bomb, content_type = compression.compress(bytes(5_000_000), codec)
    BAD[f"{codec} bomb"] = raw(envelope(body=bomb, headers__compression=content_type))

# Readable: what the task sees, which has to judge it.
ARRIVES = {
    "NaN": (good(float("nan")), "nan"),
    "1e400": (raw(envelope(body=b'[[], {"number": 1e400}, null]')), "inf"),
    "a decimal NaN": (good({"__type__": "decimal", "__value__": "NaN"}), "Decimal('NaN')"),
    "a lone surrogate": (good("\ud800"), r"'\ud800'"),
    "NUL": (good("\0"), r"'\x00'"),
    "a newer field": (raw(envelope(body=b'[[], {"number": 2, "newer": 1}, {"chain": null}]')), "2"),
    "a body that is not base64": (
        raw(envelope(without="properties__body_encoding") | {"body": '[[], {"number": 3}, null]'}),
        "3",
    ),
    "a time limit that is none": (raw(envelope(body=b'[[], {"number": 4}, null]', headers__timelimit="soon")), "4"),
    "retries that are none": (raw(envelope(body=b'[[], {"number": 5}, null]', headers__retries="many")), "5"),
    "a route that is none": (raw(envelope(body=b'[[], {"number": 6}, null]', properties__priority="high")), "6"),
    "expires later": (
        raw(envelope(body=b'[[], {"number": 7}, null]', headers__expires="9999-01-01T00:00:00+00:00")),
        "7",
    ),
}
