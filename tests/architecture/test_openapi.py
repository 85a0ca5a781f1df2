"""What clients can rely on: each route says what it takes and answers, and nothing drifts from what is kept in git."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ledgermill.api import openapi
from ledgermill.messages import schemas

ROOT = Path(__file__).parents[2]
DOCUMENT = openapi.document()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
OF_CALLERS = [name for name in OPERATIONS if " /v1/" in name]
OPERATIONAL = ["GET /healthz", "GET /metrics", "GET /readyz"]


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for part in node.values():
            yield from references(part)
    elif isinstance(node, list):
        for part in node:
            yield from references(part)


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_every_component_is_a_valid_schema_of_its_name() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("title", name) == name
        assert name in set(re.findall(r"/schemas/(\w+)", json.dumps(DOCUMENT))), f"nothing refers to {name}"


def test_what_is_taken_and_what_is_answered_are_different_shapes() -> None:
    shapes = DOCUMENT["components"]["schemas"]

    taken = shapes["JournalV1"]["properties"]["entries"]["items"]["$ref"].rpartition("/")[2]
    answered = shapes["JournalOutV1"]["properties"]["entries"]["items"]["$ref"].rpartition("/")[2]

    assert "balance_after" in shapes[answered]["properties"]
    assert "balance_after" not in shapes[taken]["properties"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_route_says_what_it_does_and_answers(name: str) -> None:
    operation = OPERATIONS[name]

    assert operation["description"]
    good = {status: answer for status, answer in operation["responses"].items() if status < "300"}
    assert good
    for status, answer in good.items():
        for media, content in answer["content"].items():
            assert media == "text/plain" or content["schema"], (name, status)


@pytest.mark.parametrize("name", OF_CALLERS)
def test_every_route_for_callers_documents_its_problems_its_body_and_how_to_authenticate(name: str) -> None:
    operation = OPERATIONS[name]

    problems = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert problems.keys() >= {"400", "401", "403", "503"}
    for status, answer in problems.items():
        assert answer["content"].keys() == {"application/problem+json"}, status
        assert answer["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/ProblemV1"}
    assert operation["security"] == [{"bearer": []}, {"key": []}]
    if name.startswith(("POST ", "PATCH ")):
        assert operation["requestBody"]["content"]["application/json"]["schema"]


def test_only_operators_have_routes_without_a_key() -> None:
    assert sorted(OPERATIONS.keys() - set(OF_CALLERS)) == OPERATIONAL


def test_what_is_kept_in_git_is_what_the_code_has() -> None:
    command = [sys.executable, "-m", "ledgermill.api.openapi", "--check"]

    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_drift_is_shown_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    assert schemas.write_or_check({path: {"a": 1}}, []) == 0
    assert schemas.write_or_check({path: {"a": 1}}, ["--check"]) == 0

    assert schemas.write_or_check({path: {"a": 2}, tmp_path / "b.json": {}}, ["--check"]) == 1

    shown = capsys.readouterr().out
    assert '-  "a": 1' in shown
    assert '+  "a": 2' in shown
    assert "b.json" in shown


@pytest.mark.parametrize("name", schemas.MESSAGES)
def test_the_schemas_in_git_are_valid_and_refuse_what_is_empty(name: str) -> None:
    schema = json.loads((schemas.FOLDER / f"{name}.json").read_text())

    jsonschema.Draft202012Validator.check_schema(schema)
    assert not jsonschema.Draft202012Validator(schema).is_valid({})


def test_the_schema_of_a_message_takes_the_readmes_journal_and_refuses_a_decimal() -> None:
    schema = json.loads((schemas.FOLDER / "post_journals.json").read_text())
    entries = [
        {"ledger_code": "A", "type": "debit", "amount": 1},
        {"ledger_num_id": 7, "type": "credit", "amount": "1"},
    ]
    message = {"organization": "acme", "journals": [{"idempotency_key": "k", "entries": entries}], "newer": 1}
    validator = jsonschema.Draft202012Validator(schema)

    assert validator.is_valid(message)
    entries[0]["amount"] = 1.5  # type: ignore[assignment]
    assert not validator.is_valid(message)
