"""How a request is mended: JSON merge patches, indexes into lists, and what the command line makes of --set."""

import pytest

from ledgermill.cli.selection import read_changes, read_moment, read_request
from ledgermill.errors import InvalidField, InvalidJson, MissingField, UnknownField
from ledgermill.messages.rejected import REHEARSE_ASK, RESEND_MANY_ASK, mended, read_ask

ASKED = {
    "idempotency_key": "k",
    "transaction": {"value_date": "2026-01-01", "metadata": {"a": 1, "b": 2}},
    "entries": [
        {"ledger_code": "A", "type": "debit", "amount": 1},
        {"ledger_code": "B", "type": "credit", "amount": 1},
    ],
}


def test_without_a_mend_a_request_is_what_it_was() -> None:
    assert mended(ASKED, patch=None, replacement=None) == ASKED


def test_a_replacement_is_the_whole_request() -> None:
    assert mended(ASKED, patch=None, replacement={"entries": []}) == {"entries": []}


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A, where its target and patch are objects
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, None),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ("foo", {"a": 1}, {"a": 1}),
    ],
)
def test_a_patch_is_merged_as_the_rfc_says(target: object, patch: dict[str, object], result: object) -> None:
    if result is None:  # the RFC would put an object in place of a list; here its fields are indexes
        with pytest.raises(InvalidField):
            mended(target, patch=patch, replacement=None)
    else:
        assert mended(target, patch=patch, replacement=None) == result


def test_an_object_of_indexes_changes_items_of_a_list_and_leaves_what_was_asked_alone() -> None:
    patched = mended(ASKED, patch={"entries": {"1": {"ledger_code": "C"}}}, replacement=None)

    assert [entry["ledger_code"] for entry in patched["entries"]] == ["A", "C"]
    assert ASKED["entries"][1]["ledger_code"] == "B"  # type: ignore[index]


@pytest.mark.parametrize("index", ["2", "-1", "x", "", "9" * 5_000, "²"])
def test_an_index_that_a_list_does_not_have_is_named(index: str) -> None:
    with pytest.raises(InvalidField) as caught:
        mended(ASKED, patch={"entries": {index: {"amount": 2}}}, replacement=None)

    assert caught.value.details["field"] == f"patch: entries.{index}"


def test_a_patch_and_a_replacement_exclude_each_other() -> None:
    with pytest.raises(InvalidField, match="replacement"):
        mended(ASKED, patch={}, replacement={})


def test_changes_of_the_command_line_are_one_patch() -> None:
    changes = ["transaction.value_date=2026-06-02", "entries.0.amount=250", "due_at=null", "transaction.metadata.n=NaN"]

    assert read_changes(changes) == {
        "transaction": {"value_date": "2026-06-02", "metadata": {"n": "NaN"}},
        "entries": {"0": {"amount": 250}},
        "due_at": None,
    }
    assert read_changes(['a="7"', "b=[1]", "c=x=y"]) == {"a": "7", "b": [1], "c": "x=y"}
    assert read_changes([]) is None


@pytest.mark.parametrize("changes", [["a"], ["=1"], ["a..b=1"], ["a=1", "a.b=2"]])
def test_a_change_that_cannot_be_read_is_refused(changes: list[str]) -> None:
    with pytest.raises(InvalidField, match="--set"):
        read_changes(changes)


def test_a_moment_is_a_date_or_an_instant_with_its_offset() -> None:
    assert str(read_moment("2026-06-02", "--from")) == "2026-06-02 00:00:00+00:00"
    assert str(read_moment("2026-06-02T01:00:00+02:00", "--from")) == "2026-06-01 23:00:00+00:00"
    for text in ("2026-06-02T01:00:00", "yesterday!", "2026-13-01"):
        with pytest.raises(InvalidField, match="--from"):
            read_moment(text, "--from")


def test_a_request_from_a_file_is_an_object() -> None:
    assert read_request(b'{"a": 123456789012345678901234567890}') == {"a": 123456789012345678901234567890}
    with pytest.raises(InvalidField):
        read_request(b"[]")
    with pytest.raises(InvalidJson):
        read_request(b"{")


def test_what_is_asked_is_read_strictly() -> None:
    assert read_ask(REHEARSE_ASK, b"") == {}
    with pytest.raises(MissingField, match="filter"):
        read_ask(RESEND_MANY_ASK, b"{}")
    with pytest.raises(UnknownField, match="pathc"):
        read_ask(REHEARSE_ASK, b'{"pathc": {}}')
    with pytest.raises(InvalidField, match="limit"):
        read_ask(RESEND_MANY_ASK, b'{"filter": {}, "limit": "5"}')
    with pytest.raises(InvalidJson):
        read_ask(REHEARSE_ASK, b"{")
