"""What Flower shows of a message: how much it holds, and for whom."""

import json

import pytest

from workers.consumer import readable

JOURNAL = {"entries": [{"ledger_code": "CASH", "type": "debit", "amount": 32998}]}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"organization": "acme", "journals": [JOURNAL] * 500}, "500 journals, acme"),
        ({"organization": "acme", "journals": json.dumps([JOURNAL] * 500)}, "500 journals, acme"),
        ({"organization": "acme", "updates": json.dumps([{"amount": 1}])}, "1 updates, acme"),
        ({"lane": 3}, "3"),
        ({}, ""),
        ({"organization": {"secret": 1}, "journals": None}, ""),
    ],
)
def test_arguments_are_shown_as_a_person_reads_them_and_never_as_they_are(
    arguments: dict[str, object], shown: str
) -> None:
    assert readable(arguments) == shown
