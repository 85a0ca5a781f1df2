"""Errors are a contract: codes stay, each class has its own, and they travel from process to process."""

import pickle
import string

import pytest

from ledgermill.errors import (
    Conflict,
    Invalid,
    InvalidField,
    KeyReused,
    LedgermillError,
    NotFound,
    Refused,
    Unavailable,
    Unbalanced,
    by_code,
)

# Released codes. Add to this list what is added; what is here keeps its name and kind for ever.
CODES = {
    "BACKLOGGED": "unavailable",
    "BALANCE_OUT_OF_RANGE": "refused",
    "BATCH_NOT_FOUND": "refused",
    "BATCH_SIZE": "invalid",
    "BROKER_FULL": "unavailable",
    "BROKER_UNAVAILABLE": "unavailable",
    "CODE_TAKEN": "refused",
    "CURRENCY_MISMATCH": "refused",
    "CURRENCY_NOT_SUPPORTED": "refused",
    "DATABASE_REFUSED": "invalid",
    "DATABASE_UNAVAILABLE": "unavailable",
    "FUTURE_VALUE_DATE": "refused",
    "HEAD_LEDGER": "refused",
    "INSUFFICIENT_BALANCE": "refused",
    "INVALID_AMOUNT": "invalid",
    "INVALID_CHART": "invalid",
    "INVALID_CURSOR": "invalid",
    "INVALID_FIELD": "invalid",
    "INVALID_FILE": "invalid",
    "INVALID_IDEMPOTENCY_KEY": "invalid",
    "INVALID_JSON": "invalid",
    "JOB_NOT_FOUND": "refused",
    "JOB_NOT_REJECTED": "refused",
    "JOB_SENT_AGAIN": "refused",
    "JOURNAL_NOT_FOUND": "refused",
    "KEY_NOT_FOUND": "refused",
    "KEY_REUSED": "refused",
    "LEDGER_INACTIVE": "refused",
    "LEDGER_NOT_FOUND": "refused",
    "LEDGER_NOT_OPEN": "refused",
    "LEDGER_REFERENCE_CONFLICT": "invalid",
    "LEDGER_REFERENCE_MISSING": "invalid",
    "LOOKUP_UNAVAILABLE": "unavailable",
    "MISSING_FIELD": "invalid",
    "MISSING_IDEMPOTENCY_KEY": "invalid",
    "NOT_FOUND": "refused",
    "NOT_MIGRATED": "unavailable",
    "NUMBER_TAKEN": "refused",
    "ORGANIZATION_DRAINING": "unavailable",
    "ORGANIZATION_EXISTS": "refused",
    "ORGANIZATION_NOT_FOUND": "refused",
    "PARENT_IS_LEAF": "refused",
    "QUARANTINED": "unavailable",
    "QUARANTINE_NOT_FOUND": "refused",
    "SCOPE_MISSING": "invalid",
    "SERVER_DID_NOT_START": "unavailable",
    "TOO_FEW_ENTRIES": "invalid",
    "TOTAL_MISMATCH": "invalid",
    "TYPE_MISMATCH": "refused",
    "UNAUTHENTICATED": "invalid",
    "UNBALANCED": "invalid",
    "UNKNOWN_FIELD": "invalid",
}


def classes_below(error: type[LedgermillError]) -> list[type[LedgermillError]]:
    return [found for child in error.__subclasses__() for found in (child, *classes_below(child))]


def with_details(error: type[LedgermillError]) -> LedgermillError:
    fields = [name for _, name, _, _ in string.Formatter().parse(error.sentence) if name]
    return error(**{name: f"<{name}>" for name in fields})


def through_pickle(error: LedgermillError) -> LedgermillError:
    copy: LedgermillError = pickle.loads(pickle.dumps(error))  # noqa: S301 - what we pickled ourselves
    return copy


def test_no_released_code_is_gone_or_of_another_kind() -> None:
    assert {code: error.kind for code, error in by_code().items() if code in CODES} == CODES


def test_every_code_is_on_the_list_of_released_codes() -> None:
    assert by_code().keys() - CODES.keys() == set()


def test_no_two_classes_share_a_code() -> None:
    with_a_code = [error for error in classes_below(LedgermillError) if "code" in error.__dict__]

    assert len(with_a_code) == len({error.code for error in with_a_code})
    assert by_code() == {error.code: error for error in with_a_code}


def test_every_class_without_a_code_is_a_kind() -> None:
    without = {error for error in classes_below(LedgermillError) if "code" not in error.__dict__}

    assert without == {Invalid, Refused, Unavailable, NotFound, Conflict}


@pytest.mark.parametrize("code", CODES)
def test_an_error_survives_the_way_to_another_process(code: str) -> None:
    error = with_details(by_code()[code])

    copy = through_pickle(error)

    assert type(copy) is type(error)
    assert copy.details == error.details
    assert str(copy) == str(error)
    assert (copy.code, copy.kind) == (error.code, error.kind)


@pytest.mark.parametrize("code", CODES)
def test_a_sentence_has_all_its_facts_filled_in(code: str) -> None:
    error = with_details(by_code()[code])

    assert "{" not in str(error)
    assert all(str(fact) in str(error) for fact in error.details.values())


def test_a_sentence_names_the_facts_and_the_details_keep_them() -> None:
    error = Unbalanced(currency="EUR", difference=-100)

    assert str(error) == "Debits minus credits is -100 minor units of EUR; it must be 0."
    assert error.details == {"currency": "EUR", "difference": -100}
    assert isinstance(error, Invalid)


def test_braces_in_what_a_client_sent_are_no_placeholders() -> None:
    error = InvalidField(field="a{b}", problem="{0!r} {missing}")

    assert str(error) == "a{b}: {0!r} {missing}"
    assert str(through_pickle(error)) == str(error)


def test_details_that_the_sentence_does_not_show_are_kept() -> None:
    error = KeyReused(idempotency_key="k", job="j", more=[1, 2])

    assert through_pickle(error).details == {"idempotency_key": "k", "job": "j", "more": [1, 2]}
