"""Bad messages by seed, pushed straight into a broker's list, and what must have become of each.

    pushed = push(client, make(seed, 20_000, organization="acme"))
    missing(pushed, engine, client)      # names of those that are recorded nowhere yet: wait until it is empty
    applied(engine)                      # keys of those that were posted: must be empty

`engine` reads the database as its owner, or with the read-only role. Every key begins with `rubbish-`, so that a
comparison with a witness can leave them out.
"""

import bz2
import gzip
import itertools
import json
import lzma
import pickle
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from redis import Redis
from sqlalchemy import Engine, text

from ledgermill.broker.unreadable import UNREADABLE_LIST, unreadable_id
from ledgermill.usecases.delivery import UNREADABLE_NAMESPACE
from tests.integration.unreadable_corpus import BAD, envelope, raw

KEY_PREFIX = "rubbish-"
TASK = "ledgermill.post_journals"
LARGE = 10_000_000
BOMB = 50_000_000  # what a bomb unpacks to
AT_ONCE = 200

# By what kombu calls them. zstandard and brotli are optional there, so anything may stand in their place.
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": lambda data: gzip.compress(data, compresslevel=1),
    "gzip": lambda data: gzip.compress(data, compresslevel=1),
    "zlib": zlib.compress,
    "application/x-bz2": bz2.compress,
    "bzip2": bz2.compress,
    "application/x-lzma": lambda data: lzma.compress(data, preset=0),
    "application/x-xz": lambda data: lzma.compress(data, preset=0),
    "application/zstd": zlib.compress,
    "application/x-brotli": zlib.compress,
    "none": bytes,
}
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, -(2**70), 10**40, float("nan"), float("inf"), -0.0),
    *("", "0", "-0", "-5", "1E+999999", "1e-400", "NaN", "Infinity", "0x10", "1_000", "12.50", "9" * 5_000),
    *("\ud800", "a\0b", "\u202eBANK", "TI\u200bLL", "\u0422ILL", "x" * 5_000, "\r\n", "'; DROP TABLE job; --"),
    *([], {}, [[]], ["TILL"], {"$ne": 1}, {"__type__": "decimal", "__value__": "NaN"}),
]
LITERALS = (
    "NaN",
    "Infinity",
    "1E+999999",
    "-0",
    "1e-400",
    "9" * 5_000,
    '100, "amount": -1',
    '"\\ud800"',
    "1.0",
    "[" * 900,
)
CONTENT_TYPES = (
    *(
        "application/x-python-serialize",
        "application/x-yaml",
        "application/x-msgpack",
        "text/plain",
        "application/data",
    ),
    *(7, None, ["application/json"]),
)
REQUIRED = (
    *("body", "headers", "properties", "content-type", "headers__id", "headers__task"),
    *("properties__delivery_tag", "properties__delivery_info"),
)


class Rubbish(NamedTuple):
    """A bad message, and what it may leave: ids in `quarantine`, ids and keys of rejected jobs. One of them must be there."""

    name: str
    raw: bytes
    traces: frozenset[UUID | str]


class Pushed(NamedTuple):
    """What was pushed, without the bytes, and how long that took."""

    rubbish: list[Rubbish]
    took_s: float


def make(seed: int, count: int, *, organization: str, large: int = 3) -> Iterator[Rubbish]:
    """`count` bad messages, no two alike, of which `large` have 10 MB; the same for the same seed.

    `organization` exists. Some of it would be for ledgers TILL and SALES, which need not be there.
    """
    chance = random.Random(seed)
    larges = set(chance.sample(range(count), min(large, count)))
    for n in range(count):
        message_id = f"{KEY_PREFIX}{seed}-{n}"
        name = "10 MB" if n in larges else chance.choice(list(_MAKERS))
        content = (
            message_id.encode() + chance.randbytes(LARGE)
            if n in larges
            else _MAKERS[name](_Bad(chance, message_id, organization))
        )
        keyless = uuid5(uuid5(UUID(int=0), message_id), "0")
        traces = {unreadable_id(content), uuid5(UNREADABLE_NAMESPACE, message_id), keyless, message_id}
        yield Rubbish(name, content, frozenset(traces))


def push(client: Redis, rubbish: Iterable[Rubbish], *, queue: str = "posting", most_per_s: float = 5_000) -> Pushed:
    """Push all of it, some hundreds at a time."""
    started = time.monotonic()
    pushed: list[Rubbish] = []
    given = iter(rubbish)
    while some := list(itertools.islice(given, AT_ONCE)):
        client.lpush(queue, *(one.raw for one in some))
        pushed += [one._replace(raw=b"") for one in some]
        time.sleep(max(0.0, len(pushed) / most_per_s - (time.monotonic() - started)))
    return Pushed(pushed, time.monotonic() - started)


def missing(pushed: Pushed, engine: Engine, client: Redis) -> list[str]:
    """The names of those that are in no quarantine (nor still on the broker's list for it) and not rejected as a job."""
    found: set[UUID | str] = {UUID(json.loads(item)["id"]) for item in client.lrange(UNREADABLE_LIST, 0, -1)}  # type: ignore[union-attr]
    with engine.connect() as tx:
        found |= set(tx.execute(text("SELECT quarantine_id FROM ledgermill.quarantine")).scalars())
        for job_id, key in tx.execute(
            text("SELECT job_id, idempotency_key FROM ledgermill.job WHERE state <> 'posted'")
        ):
            found |= {job_id, key}
    return [one.name for one in pushed.rubbish if not one.traces & found]


def applied(engine: Engine) -> list[str]:
    """The keys of rubbish that was posted."""
    asked = "SELECT idempotency_key FROM ledgermill.job WHERE state = 'posted' AND idempotency_key LIKE 'rubbish-%'"
    with engine.connect() as tx:
        return list(tx.execute(text(asked)).scalars())


class _Bad(NamedTuple):
    """What a maker works with: the message's id is also the key of its journal."""

    chance: random.Random
    message_id: str
    organization: object

    def journal(self) -> dict[str, Any]:
        return {
            "idempotency_key": self.message_id,
            "entries": [
                {"ledger_code": "TILL", "type": "debit", "amount": 100},
                {"ledger_code": "SALES", "type": "credit", "amount": 100},
            ],
        }

    def message(self, journals: object = None, **changes: Any) -> bytes:
        """One that would be posted, but for the changes."""
        arguments = {"organization": self.organization, "journals": [self.journal()] if journals is None else journals}
        return self.around([[], arguments, None], **changes)

    def around(self, body: object, **changes: Any) -> bytes:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"headers__id": self.message_id, "headers__task": TASK, **changes}
        if (without := named.get("without")) in named:
            del named[without]
        return raw(envelope(body=content, **named))

    def any_of(self, values: Sequence[Any]) -> Any:
        return self.chance.choice(values)


def _bytes(bad: _Bad) -> bytes:
    return bad.message_id.encode() + bad.chance.randbytes(bad.chance.randrange(200))


def _of_corpus(bad: _Bad) -> bytes:
    """What is known to be bad; its brackets and blanks may stand closer or further, so that no two are alike."""
    return bad.any_of(SMALL_CORPUS) + b" " * bad.chance.randrange(1, 50) + bad.message_id.encode()


def _no_envelope(bad: _Bad) -> bytes:
    return json.dumps(
        bad.any_of([[bad.message_id], bad.message_id, {"id": bad.message_id}, bad.chance.random()])
    ).encode()


def _truncated(bad: _Bad) -> bytes:
    whole = bad.message()
    return whole[: bad.chance.randrange(10, len(whole))]


def _without(bad: _Bad) -> bytes:
    return bad.message(without=bad.any_of(REQUIRED), properties__correlation_id=bad.message_id)


def _of_another_type(bad: _Bad) -> bytes:
    where = bad.any_of(["headers", "properties", "properties__delivery_info", "headers__task", "headers__id", "body"])
    value = bad.any_of([None, 1, True, [bad.message_id], [], 0.5])
    return (
        raw(envelope() | {"body": value, "was": bad.message_id}) if where == "body" else bad.message(**{where: value})
    )


def _of_another_content_type(bad: _Bad) -> bytes:
    return bad.around(pickle.dumps(bad.message_id), content_type=bad.any_of(CONTENT_TYPES))


def _compressed(bad: _Bad) -> bytes:
    name = bad.any_of(list(BOMBS))
    content = BOMBS[name] if bad.chance.random() < 0.02 else CODECS[name](bad.message_id.encode() * 100)
    return bad.around(content, headers__compression=name)


def _for_no_task(bad: _Bad) -> bytes:
    return bad.message(
        headers__task=bad.any_of(["celery.map", "celery.chord", "ledgermill.sweep", "os.system", TASK + " "])
    )


def _with_odd_body(bad: _Bad) -> bytes:
    body = bad.any_of(
        [bad.chance.randbytes(60), b"[]", b"{}", b"null", b"[[], {}]", b"[[], [], null]", b"[[1], {}, null]"]
    )
    return bad.around(body)


def _deep(bad: _Bad) -> bytes:
    levels = bad.any_of([70, 900, 5_000])
    text_ = b"[" * levels + b"]" * levels
    return bad.any_of(
        [
            text_ + bad.message_id.encode(),
            bad.around(b'[[], {"organization": "x", "journals": ' + text_ + b"}, null]"),
            bad.around(
                b'[[], {"organization": "x", "journals": ["' + bad.message_id.encode() + b'"]}, ' + text_ + b"]"
            ),
        ]
    )


def _for_nobody(bad: _Bad) -> bytes:
    return bad._replace(organization=bad.any_of([*VALUES, bad.message_id])).message()


def _no_items(bad: _Bad) -> bytes:
    return bad.message(bad.any_of([7, True, "x", "[", '{"a": 1}', {}, [], "[]", "null", "9" * 5_000, "\ud800", "a\0"]))


def _no_journal(bad: _Bad) -> bytes:
    return bad.message([bad.any_of([value for value in VALUES if value != {}])])


def _spoiled(bad: _Bad) -> bytes:
    """A journal with one field that cannot be."""
    found = bad.journal()
    value = bad.any_of(VALUES)
    match bad.chance.randrange(6):
        case 0:
            found["entries"][0]["amount"] = value
        case 1:
            found["entries"][1]["ledger_code"] = value
        case 2:
            found["entries"][0]["type"] = value
        case 3:
            found["entries"] = value
        case 4:
            found["entries"][0]["amount"] = 99
        case _:
            found["entries"] = found["entries"][:1]
    return bad.message([found])


def _spoiled_text(bad: _Bad) -> bytes:
    """The same as JSON text with what only text can say."""
    text_ = json.dumps([bad.journal()]).replace('"amount": 100', f'"amount": {bad.any_of(LITERALS)}', 1)
    if bad.chance.random() < 0.5:
        return bad.message(text_)
    arguments = json.dumps({"organization": bad.organization})[:-1] + f', "journals": {text_}}}'
    return bad.around(f"[[], {arguments}, null]".encode(errors="surrogatepass"))


SMALL_CORPUS = [content for content in BAD.values() if 0 < len(content) < LARGE // 100]
BOMBS = {name: pack(bytes(BOMB)) for name, pack in CODECS.items() if name != "none"}
_MAKERS: dict[str, Callable[[_Bad], bytes]] = {
    "bytes": _bytes,
    "corpus": _of_corpus,
    "no envelope": _no_envelope,
    "truncated": _truncated,
    "without a field": _without,
    "another type": _of_another_type,
    "another content type": _of_another_content_type,
    "compressed": _compressed,
    "no task of ours": _for_no_task,
    "odd body": _with_odd_body,
    "deep": _deep,
    "for nobody": _for_nobody,
    "no items": _no_items,
    "no journal": _no_journal,
    "spoiled journal": _spoiled,
    "spoiled text": _spoiled_text,
}
