"""Journals and balance updates are read strictly: each fault has its code, and no item spoils another."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgermill.domain.journals import (
    POST_JOURNAL,
    UPDATE_BALANCE,
    EntryRequest,
    JournalRequest,
    Request,
    UnusableRequest,
)
from ledgermill.domain.ledgers import CREDIT, DEBIT, LedgerReference
from ledgermill.errors import BatchSize, InvalidField, InvalidJson, LedgermillError
from ledgermill.messages.fields import read_date, read_instant, read_reference
from ledgermill.messages.posting import MOST_ITEMS, as_json, read, read_kept, read_list

PROPERTY = settings(deadline=None, database=None)
UUID_TEXT = "018cc251-f400-7000-8000-000000000000"


def debit(amount: object = 100, **more: object) -> dict[str, Any]:
    return {"ledger_code": "CASH", "type": "debit", "amount": amount, **more}


def credit(amount: object = 100, **more: object) -> dict[str, Any]:
    return {"ledger_code": "SALES", "type": "credit", "amount": amount, **more}


def journal(*entries: object, **more: object) -> dict[str, Any]:
    return {"idempotency_key": "k", "entries": list(entries) or [debit(), credit()], **more}


def update(**more: object) -> dict[str, Any]:
    return {"idempotency_key": "k", "ledger_code": "CASH", "type": "debit", "amount": 100, **more}


def read_one(item: object, *, kind: str = POST_JOURNAL) -> Request:
    (request,) = read(kind, [item], new_key=lambda place: f"new:{place}")
    return request


def usable(item: object, *, kind: str = POST_JOURNAL) -> JournalRequest:
    request = read_one(item, kind=kind)
    assert isinstance(request, JournalRequest), request
    return request


def problem(item: object, *, kind: str = POST_JOURNAL) -> LedgermillError:
    request = read_one(item, kind=kind)
    assert isinstance(request, UnusableRequest), request
    return request.error


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


def nested_lists(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth - 1):
        found = [found]
    return found


def test_a_journal_is_read_with_all_that_it_says() -> None:
    request = usable(
        {
            "idempotency_key": "order-1001",
            "transaction": {
                "type": "payment",
                "total_amount": 32_998,
                "currency_code": "USD",
                "value_date": "2026-06-02",
                "timestamp": "2026-06-02T12:30:00+02:00",
                "description": "Invoice\n2026-001",
                "reference_id": "INV-2026-001",
                "metadata": {"channel": "web"},
            },
            "entries": [
                {"ledger_code": "CASH-USD", "type": "debit", "amount": 32_998},
                {"ledger_num_id": 4_010_000_025, "type": "credit", "amount": "30000"},
                {"ledger_id": UUID_TEXT.upper(), "type": "credit", "amount": 2_998, "currency_code": "USD"},
            ],
            "due_at": "2026-07-01T00:00:00Z",
        }
    )

    assert request.entries == (
        EntryRequest(LedgerReference(code="CASH-USD"), DEBIT, 32_998),
        EntryRequest(LedgerReference(number=4_010_000_025), CREDIT, 30_000),
        EntryRequest(LedgerReference(uuid=UUID_TEXT), CREDIT, 2_998, "USD"),
    )
    assert (request.place, request.kind, request.idempotency_key) == (0, POST_JOURNAL, "order-1001")
    assert (request.type, request.total, request.currency) == ("payment", 32_998, "USD")
    assert (request.value_date, request.event_at) == (date(2026, 6, 2), "2026-06-02T10:30:00+00:00")
    assert (request.description, request.reference_id) == ("Invoice\n2026-001", "INV-2026-001")
    assert request.metadata == '{"channel":"web"}'
    assert request.due_at == datetime(2026, 7, 1, tzinfo=UTC)


def test_what_a_journal_does_not_say_has_its_default() -> None:
    request = usable({"entries": [debit(), credit()]})

    assert request.idempotency_key == "new:0"
    assert (request.type, request.total, request.currency) == ("journal", 100, None)
    assert (request.value_date, request.event_at, request.metadata, request.due_at) == (None, None, None, None)


def test_an_update_becomes_two_entries_against_its_contra_or_the_suspense_ledger() -> None:
    against_contra = usable(update(contra={"ledger_num_id": "7"}), kind=UPDATE_BALANCE)
    against_suspense = usable(update(type="credit"), kind=UPDATE_BALANCE)

    assert against_contra.entries == (
        EntryRequest(LedgerReference(code="CASH"), DEBIT, 100, None, "ledger"),
        EntryRequest(LedgerReference(number=7), CREDIT, 100, None, "contra"),
    )
    assert [(entry.side, entry.amount, entry.is_suspense) for entry in against_suspense.entries] == [
        (CREDIT, 100, False),
        (DEBIT, 100, True),
    ]
    assert (against_contra.type, against_contra.total) == ("balance_update", 100)


BAD_JOURNALS: list[tuple[str, object, str, str]] = [
    ("unbalanced", journal(debit(100), credit(99)), "UNBALANCED", "is 1 minor units of the base currency"),
    ("one entry", journal(debit()), "TOO_FEW_ENTRIES", "has 1"),
    ("no entry", {"entries": []}, "TOO_FEW_ENTRIES", "has 0"),
    ("only debits", journal(debit(), debit()), "UNBALANCED", "is 200 "),
    ("another total", journal(transaction={"total_amount": 99}), "TOTAL_MISMATCH", "99, but the debits sum to 100"),
    ("zero", journal(debit(0), credit(0)), "INVALID_AMOUNT", "entries[0].amount"),
    ("a zero text", journal(debit("0"), credit()), "INVALID_AMOUNT", "'0' is not"),
    ("negative", journal(debit(), credit(-100)), "INVALID_AMOUNT", "entries[1].amount"),
    ("a negative text", journal(debit("-100"), credit()), "INVALID_AMOUNT", "'-100'"),
    ("a decimal", journal(debit(12.5), credit()), "INVALID_AMOUNT", "2 decimals, send 1250."),
    ("a decimal text", journal(debit("329.98"), credit()), "INVALID_AMOUNT", "2 decimals, send 32998."),
    ("a whole float", journal(debit(100.0), credit()), "INVALID_AMOUNT", "100.0 is not"),
    ("three decimals", journal(debit("1.234"), credit()), "INVALID_AMOUNT", "'1.234' is not."),
    ("not a number", journal(debit(float("nan")), credit()), "INVALID_AMOUNT", "nan is not."),
    ("infinite", journal(debit(float("inf")), credit()), "INVALID_AMOUNT", "inf is not."),
    ("an exponent", journal(debit("1e3"), credit()), "INVALID_AMOUNT", "'1e3'"),
    ("a huge exponent", journal(debit("1e400"), credit()), "INVALID_AMOUNT", "'1e400' is not."),
    ("40 digits", journal(debit(10**39), credit()), "INVALID_AMOUNT", "38 digits"),
    ("39 digits in a text", journal(debit("1" + "0" * 38), credit()), "INVALID_AMOUNT", "38 digits"),
    ("true", journal(debit(amount=True), credit()), "INVALID_AMOUNT", "True is not."),
    ("null", journal(debit(None), credit()), "INVALID_AMOUNT", "None is not."),
    ("blanks", journal(debit(" 100"), credit()), "INVALID_AMOUNT", "' 100'"),
    ("an underscore", journal(debit("1_00"), credit()), "INVALID_AMOUNT", "'1_00'"),
    ("other digits", journal(debit("\u0661\u0660\u0660"), credit()), "INVALID_AMOUNT", "is not."),
    ("a newline", journal(debit("100\n"), credit()), "INVALID_AMOUNT", "is not."),
    ("no amount", journal({"ledger_code": "A", "type": "debit"}, credit()), "MISSING_FIELD", "entries[0].amount"),
    ("no side", journal({"ledger_code": "A", "amount": 1}, credit()), "MISSING_FIELD", "entries[0].type"),
    ("another side", journal(debit(type="left"), credit()), "INVALID_FIELD", "entries[0].type"),
    ("no entries", {"idempotency_key": "k"}, "MISSING_FIELD", "entries is missing"),
    ("entries that are no list", journal(entries={"a": 1}), "INVALID_FIELD", "entries"),
    ("an entry that is none", journal("CASH", credit()), "INVALID_FIELD", "entries[0]"),
    ("an unknown field", journal(amount=1), "UNKNOWN_FIELD", "amount is not a field"),
    ("an unknown field of an entry", journal(debit(curency="EUR"), credit()), "UNKNOWN_FIELD", "entries[0].curency"),
    ("an unknown field below", journal(transaction={"typ": "x"}), "UNKNOWN_FIELD", "transaction.typ"),
    ("no ledger", journal({"type": "debit", "amount": 100}, credit()), "LEDGER_REFERENCE_MISSING", "entries[0]"),
    ("no UUID", journal(debit(ledger_id="cash"), credit()), "INVALID_FIELD", "entries[0].ledger_id"),
    ("an empty code", journal(debit(ledger_code=""), credit()), "INVALID_FIELD", "entries[0].ledger_code"),
    ("11 digits", journal(debit(ledger_num_id=10**10), credit()), "INVALID_FIELD", "entries[0].ledger_num_id"),
    ("a small currency", journal(debit(currency_code="eur"), credit()), "INVALID_FIELD", "entries[0].currency_code"),
    ("NUL in a code", journal(debit(ledger_code="A\x00"), credit()), "INVALID_FIELD", "entries[0].ledger_code"),
    ("a line end in a code", journal(debit(ledger_code="A\n"), credit()), "INVALID_FIELD", "entries[0].ledger_code"),
    ("NUL in a text", journal(transaction={"description": "a\x00b"}), "INVALID_FIELD", "transaction.description"),
    ("NUL in metadata", journal(transaction={"metadata": {"a": "\x00"}}), "INVALID_FIELD", "transaction.metadata"),
    ("NUL in a name", journal(transaction={"metadata": {"\x00": 1}}), "INVALID_FIELD", "transaction.metadata"),
    ("a tab", journal(transaction={"reference_id": "a\tb"}), "INVALID_FIELD", "transaction.reference_id"),
    ("a long text", journal(transaction={"description": "a" * 2_001}), "INVALID_FIELD", "transaction.description"),
    ("much metadata", journal(transaction={"metadata": {"a": "b" * 16_384}}), "INVALID_FIELD", "16384 bytes"),
    (
        "deep metadata",
        journal(transaction={"metadata": nested(5_000)}),
        "INVALID_FIELD",
        "nested in more than 34 levels",
    ),
    ("metadata that is NaN", journal(transaction={"metadata": {"a": float("nan")}}), "INVALID_FIELD", "metadata"),
    ("a long number", journal(transaction={"metadata": {"a": 2**63}}), "INVALID_FIELD", "metadata"),
    ("no such day", journal(transaction={"value_date": "2026-02-30"}), "INVALID_FIELD", "transaction.value_date"),
    ("a day in words", journal(transaction={"value_date": "yesterday"}), "INVALID_FIELD", "transaction.value_date"),
    ("a day as number", journal(transaction={"value_date": 20260602}), "INVALID_FIELD", "transaction.value_date"),
    ("no offset", journal(transaction={"timestamp": "2026-06-02T10:30:00"}), "INVALID_FIELD", "with an offset"),
    ("no offset when due", journal(due_at="2026-06-02T10:30:00"), "INVALID_FIELD", "due_at"),
    ("before year 1", journal(due_at="0001-01-01T00:00:00+14:00"), "INVALID_FIELD", "due_at"),
    ("a key that is no text", journal(idempotency_key=7), "INVALID_IDEMPOTENCY_KEY", "1 to 255 characters"),
    ("an empty key", journal(idempotency_key=""), "INVALID_IDEMPOTENCY_KEY", "1 to 255 characters"),
    ("a long key", journal(idempotency_key="k" * 256), "INVALID_IDEMPOTENCY_KEY", "1 to 255 characters"),
    ("a key with NUL", journal(idempotency_key="k\x00"), "INVALID_IDEMPOTENCY_KEY", "control character"),
    ("a key with a line end", journal(idempotency_key="k\n"), "INVALID_IDEMPOTENCY_KEY", "control character"),
    ("text", "journal", "INVALID_FIELD", "the item"),
    ("null for an item", None, "INVALID_FIELD", "the item"),
    ("a list for an item", [], "INVALID_FIELD", "the item"),
]


@pytest.mark.parametrize(
    ("item", "code", "said"), [case[1:] for case in BAD_JOURNALS], ids=[c[0] for c in BAD_JOURNALS]
)
def test_a_bad_journal_has_a_code_and_a_sentence_that_leads_to_the_fault(item: object, code: str, said: str) -> None:
    error = problem(item)

    assert error.code == code, str(error)
    assert said in str(error)


BAD_UPDATES: list[tuple[str, object, str, str]] = [
    ("zero", update(amount=0), "INVALID_AMOUNT", "amount must be"),
    ("a decimal", update(amount="12.50"), "INVALID_AMOUNT", "send 1250."),
    ("entries", update(entries=[]), "UNKNOWN_FIELD", "entries is not"),
    ("no ledger", {"type": "debit", "amount": 1}, "LEDGER_REFERENCE_MISSING", "the update"),
    ("a contra without a ledger", update(contra={}), "LEDGER_REFERENCE_MISSING", "contra"),
    ("a contra that is text", update(contra="SALES"), "INVALID_FIELD", "contra"),
    ("no amount", {"ledger_code": "A", "type": "debit"}, "MISSING_FIELD", "amount is missing"),
    ("no date", update(value_date="2026-13-01"), "INVALID_FIELD", "value_date"),
]


@pytest.mark.parametrize(("item", "code", "said"), [case[1:] for case in BAD_UPDATES], ids=[c[0] for c in BAD_UPDATES])
def test_a_bad_update_has_a_code_and_a_sentence_that_leads_to_the_fault(item: object, code: str, said: str) -> None:
    error = problem(item, kind=UPDATE_BALANCE)

    assert error.code == code, str(error)
    assert said in str(error)


@pytest.mark.parametrize("form", [lambda items: items, json.dumps, lambda items: json.dumps(items).encode()])
def test_good_items_beside_bad_ones_are_kept_with_their_places(form: Callable[[object], object]) -> None:
    items = [
        journal(idempotency_key="a"),
        journal(debit(100), credit(1), idempotency_key="b"),
        "nonsense",
        journal(idempotency_key="d", more=1),
        {"entries": [debit(7), credit(7)]},
    ]

    requests = read(POST_JOURNAL, form(items), new_key=lambda place: f"new:{place}")

    assert [request.place for request in requests] == [0, 1, 2, 3, 4]
    assert [isinstance(request, JournalRequest) for request in requests] == [True, False, False, False, True]
    assert [request.idempotency_key for request in requests] == ["a", "b", None, "d", "new:4"]
    assert [r.error.code for r in requests if isinstance(r, UnusableRequest)] == [
        "UNBALANCED",
        "INVALID_FIELD",
        "UNKNOWN_FIELD",
    ]
    assert [request.asked for request in requests] == items


def test_places_are_those_of_the_batch_that_the_items_came_in() -> None:
    requests = read(POST_JOURNAL, [journal(), "bad"], new_key=str, places=[40, 7])

    assert [request.place for request in requests] == [40, 7]


def test_what_cannot_be_read_binds_its_key_to_its_content() -> None:
    one, same, other = (read_one(journal(more=more)) for more in (1, 1, 2))

    assert one.idempotency_key == "k"
    assert one.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize("key", [7, "", "k\x00", "k" * 256, None])
def test_without_a_usable_key_a_bad_item_binds_none(key: object) -> None:
    assert read_one(journal(idempotency_key=key, more=1)).idempotency_key is None


@pytest.mark.parametrize(
    ("items", "error"),
    [
        ([], BatchSize),
        ("[]", BatchSize),
        (["x"] * (MOST_ITEMS + 1), BatchSize),
        ({}, InvalidField),
        ("{}", InvalidField),
        (None, InvalidField),
        ("[", InvalidJson),
        (b"\xff\xfe", InvalidJson),
        ('[{"a": NaN}]', InvalidJson),
        ("[" * 5_000, InvalidJson),
        ('[{"a": "\ud800"}]', InvalidJson),
        (b'[{"a": "\\ud800"}]', InvalidJson),
    ],
    ids=[
        *("empty", "empty text", "too many", "object", "object text", "null", "cut off", "no UTF-8", "NaN", "deep"),
        *("a surrogate", "an escaped surrogate"),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(items: object, error: type[LedgermillError]) -> None:
    with pytest.raises(error):
        read(POST_JOURNAL, items, new_key=str)


def test_a_list_of_items_is_read_unchecked() -> None:
    assert read_list(b'[1, {"a": null}]') == [1, {"a": None}]


def test_amounts_of_38_digits_survive_exactly_as_numbers_and_as_text() -> None:
    largest = 10**38 - 1
    items = [journal(debit(largest), credit(str(largest)), transaction={"total_amount": largest})]

    for form in (items, json.dumps(items), as_json(items), read_list(as_json(items))):
        (request,) = read(POST_JOURNAL, form, new_key=str)
        assert isinstance(request, JournalRequest)
        assert [entry.amount for entry in request.entries] == [largest, largest]
        assert request.total == largest


@PROPERTY
@given(st.lists(st.integers(1, 10**36), min_size=1, max_size=20))
def test_the_total_of_a_journal_is_the_sum_of_its_debits(amounts: list[int]) -> None:
    request = usable(journal(*[debit(amount) for amount in amounts], credit(sum(amounts))))

    assert request.total == sum(amounts)


@pytest.mark.parametrize("shape", [nested, lambda depth: {"a": nested_lists(depth)}], ids=["objects", "lists"])
@pytest.mark.parametrize("depth", [1, 2, 30, 31, 32, 33, 34, 35, 196, 200, 250, 252, 254, 256, 900, 1_100])
def test_metadata_of_any_depth_is_taken_or_rejected_alone_and_what_is_kept_can_be_read_again(
    shape: Callable[[int], dict[str, Any]], depth: int
) -> None:
    deep, good = journal(transaction={"metadata": shape(depth)}), journal(idempotency_key="good")

    requests = read(POST_JOURNAL, [deep, good], new_key=str)
    again = read(POST_JOURNAL, read_kept(as_json([request.asked for request in requests])), new_key=str)

    assert isinstance(requests[1], JournalRequest)
    # `nested(n)` is n + 1 objects; a list in an object is one more than its lists
    assert isinstance(requests[0], JournalRequest) == (depth + 1 <= 32)
    assert [type(request) for request in again][1] is JournalRequest
    assert requests[0].idempotency_key == again[0].idempotency_key == "k"


@pytest.mark.parametrize("odd", [float("nan"), float("-inf"), "\ud800", 10**400, nested_lists(40)])
def test_what_the_inbox_keeps_of_odd_items_can_be_read_again_and_harms_no_neighbour(odd: object) -> None:
    items = [journal(transaction={"metadata": {"a": odd}}), journal(debit(odd), credit()), journal()]

    requests = read(POST_JOURNAL, items, new_key=str)
    again = read(POST_JOURNAL, read_kept(as_json([request.asked for request in requests])), new_key=str)

    for found in (requests, again):
        assert [type(request) for request in found] == [UnusableRequest, UnusableRequest, JournalRequest]
    assert [request.fingerprint for request in requests][2] == again[2].fingerprint


# The fingerprint: what counts as the same content


def print_of(item: dict[str, Any], *, kind: str = POST_JOURNAL) -> bytes:
    return usable(item, kind=kind).fingerprint


LARGEST = 10**38 - 1
EVERYTHING = {
    "type": "payment",
    "total_amount": 100,
    "currency_code": "USD",
    "value_date": "2026-06-02",
    "timestamp": "2026-06-02T12:30:00+02:00",
    "description": "Invoice\n1",
    "reference_id": "INV-1",
    "metadata": {"b": [1, None, 0, {}], "a": {"z": -1.5, "y": True}},
}
FINGERPRINTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("no transaction", POST_JOURNAL, journal(), "bfb595eb64b89d3ace8869aaee4f57d65cf7fd863f1b5ecc0238ec67700a2742"),
    (
        "a transaction",
        POST_JOURNAL,
        journal(transaction={"type": "payment", "description": "Zürich €"}),
        "1fbef3f5c32f551c942734fcc2f4fee6622f6ed115d0c487ff4c41b8c337db86",
    ),
    (
        "every field",
        POST_JOURNAL,
        journal(
            debit(currency_code="USD", ledger_id=UUID_TEXT, ledger_num_id=4_010_000_025),
            credit(),
            transaction=EVERYTHING,
            due_at="2026-07-01T00:00:00Z",
        ),
        "940e235b3d381367523ced4ab545a16bd2de67a013bfb5c60dca0d4676a2aa74",
    ),
    (
        "nulls",
        POST_JOURNAL,
        journal(
            debit(currency_code=None),
            credit(ledger_num_id=None),
            transaction={"type": None, "description": "d", "metadata": None},
            due_at=None,
        ),
        "d291f6a1fec080dbf2e2596317e0d297faa2a02871f93685b67337201e80bfbe",
    ),
    (
        "transaction null",
        POST_JOURNAL,
        journal(transaction=None),
        "bfb595eb64b89d3ace8869aaee4f57d65cf7fd863f1b5ecc0238ec67700a2742",
    ),
    (
        "the default type",
        POST_JOURNAL,
        journal(transaction={"type": "journal", "description": "d"}),
        "d291f6a1fec080dbf2e2596317e0d297faa2a02871f93685b67337201e80bfbe",
    ),
    (
        "defaults as texts",
        POST_JOURNAL,
        journal(transaction={"description": "journal", "reference_id": "null"}),
        "58acc40817007af17d5e7868b79d69e09f3ed3be5c8f29916daf5b554867630f",
    ),
    (
        "JSON in a text",
        POST_JOURNAL,
        journal(transaction={"type": "x", "description": 'a "journal" of {} and null, total:0'}),
        "1c5877abe64f86bb88c85515bd19250d7f72af734db81f04d7bb656fbb735f9c",
    ),
    (
        "a total of 0",
        POST_JOURNAL,
        journal(transaction={"total_amount": 0, "type": "payment"}),
        "e25863aad8ca751617d64737ebb1120fbb1ccf7564be7741090934e9c396d5be",
    ),
    (
        "empty metadata",
        POST_JOURNAL,
        journal(transaction={"metadata": {}, "type": "payment"}),
        "e25863aad8ca751617d64737ebb1120fbb1ccf7564be7741090934e9c396d5be",
    ),
    (
        "metadata like defaults",
        POST_JOURNAL,
        journal(transaction={"metadata": {"type": "journal", "a": None, "b": {}, "c": 0}}),
        "6125bf5d4b0d02318c9228d022448cb62039c2031b50c70d7666f2334dcd2801",
    ),
    (
        "amounts as texts",
        POST_JOURNAL,
        journal(debit("0100"), credit("100")),
        "bfb595eb64b89d3ace8869aaee4f57d65cf7fd863f1b5ecc0238ec67700a2742",
    ),
    (
        "amounts of 38 digits",
        POST_JOURNAL,
        journal(debit(LARGEST), credit(str(LARGEST)), transaction={"description": "Zürich €"}),
        "91ba3fe8bbe8e259e18b7bf82ae4d44a87184b78def016e23e21e47f99710726",
    ),
    (
        "amounts of 38 digits beside nulls",
        POST_JOURNAL,
        journal(
            debit(LARGEST, currency_code=None), credit(LARGEST), transaction={"type": "journal", "total_amount": 0}
        ),
        "7a8fb5b74d22ad177e1ef82061f2ad57fe7ed8d15841e7a75d3b072147a078b8",
    ),
    (
        "amounts of 64 bits",
        POST_JOURNAL,
        journal(debit(2**64 - 1), credit(2**64 - 1)),
        "37ac094bedc8207ce6f02b51006e69707e84ddc38073f441fe70b465e4e10b89",
    ),
    ("an update", UPDATE_BALANCE, update(), "93002646785168a648dce62e087f9e42e0e6b973a367db0dae6faa469ae5217d"),
    (
        "an update with every field",
        UPDATE_BALANCE,
        update(
            contra={"ledger_num_id": "7", "ledger_code": None},
            currency_code="EUR",
            value_date="2026-06-02",
            timestamp="2026-06-02T10:30:00Z",
            description="",
            reference_id="r",
            metadata={"a": 1},
            due_at="2026-07-01T00:00:00Z",
        ),
        "3b9596879688360f30996a41b68463b4a5181ce2e52417b844c56f534d59d786",
    ),
    (
        "an update with nulls",
        UPDATE_BALANCE,
        update(contra=None, metadata={}, ledger_id=None, description=None),
        "93002646785168a648dce62e087f9e42e0e6b973a367db0dae6faa469ae5217d",
    ),
]


@pytest.mark.parametrize(
    ("kind", "item", "expected"), [case[1:] for case in FINGERPRINTS], ids=[case[0] for case in FINGERPRINTS]
)
def test_a_fingerprint_never_changes_or_a_replay_would_become_a_conflict(
    kind: str, item: dict[str, Any], expected: str
) -> None:
    from_message, from_list = read(kind, json.dumps([item]), new_key=str), read(kind, [item], new_key=str)

    for (request,) in (from_message, from_list):
        assert isinstance(request, JournalRequest)
        assert request.fingerprint is not None
        assert request.fingerprint.hex() == expected


def test_a_fingerprint_is_a_sha_256() -> None:
    assert len(print_of(journal())) == 32


@pytest.mark.parametrize(
    "same",
    [
        journal(debit("100"), credit("100")),
        journal(idempotency_key="another key"),
        journal(idempotency_key=None),
        journal(transaction=None),
        journal(transaction={}),
        journal(transaction={"type": None, "metadata": None, "total_amount": None}),
        journal(transaction={"total_amount": 0}),
        journal(due_at=None),
        journal(debit(currency_code=None, ledger_id=None), credit()),
        {"entries": [dict(reversed(debit().items())), credit()]},
    ],
    ids=[
        "amounts as text",
        "another key",
        "no key",
        "transaction null",
        "transaction empty",
        "fields null",
        "no total",
        "not due",
        "entry's fields null",
        "another order of fields",
    ],
)
def test_the_same_content_has_the_same_fingerprint(same: dict[str, Any]) -> None:
    assert print_of(same) == print_of(journal())


@pytest.mark.parametrize(
    "other",
    [
        journal(debit(101), credit(101)),
        journal(credit(), debit()),
        journal(debit(ledger_code="BANK"), credit()),
        journal(debit(ledger_num_id=1), credit()),
        journal(debit(currency_code="EUR"), credit()),
        journal(transaction={"type": "payment"}),
        journal(transaction={"total_amount": 100}),
        journal(transaction={"value_date": "2026-06-02"}),
        journal(transaction={"description": ""}),
        journal(transaction={"metadata": {"a": None}}),
        journal(due_at="2026-06-02T10:30:00Z"),
    ],
)
def test_other_content_has_another_fingerprint(other: dict[str, Any]) -> None:
    assert print_of(other) != print_of(journal())


def test_a_null_inside_metadata_is_content() -> None:
    def with_metadata(metadata: object) -> dict[str, Any]:
        return journal(transaction={"metadata": metadata})

    prints = [print_of(with_metadata(metadata)) for metadata in ({"a": None, "b": 1}, {"b": 1}, {"a": 0, "b": 1})]

    assert len(set(prints)) == 3
    assert print_of(update(metadata={"a": None}), kind=UPDATE_BALANCE) != print_of(update(), kind=UPDATE_BALANCE)


def test_an_updates_amount_counts_as_its_digits() -> None:
    text, number, other = (
        request.fingerprint
        for amount in ("100", 100, 101)
        for request in read(UPDATE_BALANCE, [update(amount=amount)], new_key=str)
    )

    assert text == number != other


def test_the_fingerprint_of_a_release_stays() -> None:
    canonical = (
        '1:{"entries":[{"amount":100,"ledger_code":"CASH","type":"debit"},'
        '{"amount":100,"ledger_code":"SALES","type":"credit"}]}'
    )
    pinned = "bfb595eb64b89d3ace8869aaee4f57d65cf7fd863f1b5ecc0238ec67700a2742"

    assert hashlib.sha256(canonical.encode()).hexdigest() == pinned
    assert print_of(journal()).hex() == pinned


# Fields


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-06-02T10:30:00Z", datetime(2026, 6, 2, 10, 30, tzinfo=UTC)),
        ("2026-06-02T00:30:00+02:00", datetime(2026, 6, 1, 22, 30, tzinfo=UTC)),
        ("2026-06-02T10:30:00.123456-03:30", datetime(2026, 6, 2, 14, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_an_instant_is_read_as_utc(text: str, expected: datetime) -> None:
    assert read_instant(text, field="f") == expected
    assert read_instant(text, field="f").tzinfo is UTC


def test_a_date_is_read_and_an_instant_counts_with_its_date_in_utc() -> None:
    assert read_date("2026-06-02", field="f") == date(2026, 6, 2)
    assert read_date("2026-06-02T00:30:00+02:00", field="f") == date(2026, 6, 1)


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-06-0x", "2026-06-02T10:30:00", "02.06.2026", "9999-12-31T23:00:00-14:00"]
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(InvalidField):
        read_date(text, field="f")


def test_a_ledger_is_named_by_its_id_its_number_or_its_code() -> None:
    assert read_reference(UUID_TEXT.upper()) == LedgerReference(uuid=UUID_TEXT)
    assert read_reference("4010000025") == LedgerReference(number=4_010_000_025)
    assert read_reference("401000002") == LedgerReference(code="401000002")
    assert read_reference("CASH") == LedgerReference(code="CASH")
