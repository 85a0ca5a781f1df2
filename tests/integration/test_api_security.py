"""Who may ask for what: every route, found in the OpenAPI document, so that a new one cannot be forgotten here."""

import json
import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from running import ALL_SCOPES, Organization, System, journal

from ledgermill.api import openapi
from ledgermill.runtime import now
from ledgermill.usecases import organizations

ROUTES = [
    (method.upper(), path)
    for path, operations in openapi.document()["paths"].items()
    for method in operations
    if path.startswith("/v1/")
]
SCOPE_OF_WRITES = {
    "/v1/ledgers": "ledgers",
    "/v1/ledgers/import": "ledgers",
    "/v1/ledgers/{ref}": "ledgers",
    "/v1/ledgers/journals": "post",
    "/v1/ledgers/{ref}/balance-updates": "post",
    "/v1/jobs/lookup": "read",
    "/v1/rejected/{job_id}/dry-run": "read",
    "/v1/rejected/{job_id}/resend": "post",
    "/v1/rejected/resend": "post",
}
SECRET = "s3cr3t-l3dg3r"

pytestmark = pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])


def ask(system: System, method: str, path: str, *, body: bytes = b"{}", **headers: str) -> httpx2.Response:
    """A request with all parts of the path named, as somebody would who guesses."""
    named = re.sub(r"\{ref\}", "TILL", path)
    named = re.sub(r"\{\w+_id\}", str(uuid4()), named)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return system.api.request(method, named, content=None if method == "GET" else body, headers=sent)


def scope_of(method: str, path: str) -> str:
    return "read" if method == "GET" else SCOPE_OF_WRITES[path]


def test_without_a_valid_key_the_answer_is_always_the_same(
    acme: Organization, system: System, method: str, path: str
) -> None:
    revoked, expired = (system.new_key(acme.code) for _ in range(2))
    sha = organizations.hash_key(revoked)
    with system.owner.engine.begin() as tx:
        [(key_uuid,)] = system.rows("SELECT key_uuid FROM ledgermill.api_key WHERE key_sha256 = :sha", sha=sha)
        organizations.revoke_key(tx, acme.code, key_uuid)
    expired = system.new_key(acme.code, expires_at=now() - timedelta(seconds=1))

    answers = [
        ask(system, method, path),
        ask(system, method, path, authorization="Bearer lm_wrong"),
        ask(system, method, path, authorization=f"Bearer {acme.key}x"),
        ask(system, method, path, authorization=f"Basic {acme.key}"),
        ask(system, method, path, x_api_key=""),
        ask(system, method, path, x_api_key="k" * 5_000),
        ask(system, method, path, authorization=f"Bearer {revoked}"),
        ask(system, method, path, x_api_key=expired),
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["code"] == "UNAUTHENTICATED"


def test_a_key_without_the_scope_is_refused_and_one_with_it_is_not(
    acme: Organization, system: System, method: str, path: str
) -> None:
    scope = scope_of(method, path)
    others = system.new_key(acme.code, scopes=[one for one in ALL_SCOPES if one != scope])
    just_it = system.new_key(acme.code, scopes=[scope])

    refused = ask(system, method, path, authorization=f"Bearer {others}")
    allowed = ask(system, method, path, x_api_key=just_it)

    assert (refused.status_code, refused.json()["code"]) == (403, "SCOPE_MISSING")
    assert refused.json()["details"] == {"scope": scope}
    assert allowed.status_code not in {401, 403, 500}


def test_another_organization_is_as_if_it_were_not_there(
    acme: Organization, system: System, method: str, path: str
) -> None:
    theirs = system.new_organization(
        chart=[
            {"code": f"HEAD-{SECRET}", "type": "asset", "is_head": True, "ledger_num_id": 1990000001},
            {"code": f"LEAF-{SECRET}", "parent_ledger_num_id": 1990000001, "name": SECRET, "ledger_num_id": 1990000002},
            {"code": "THEIR-INCOME", "type": "income"},
        ]
    )
    entries = {"debit": f"LEAF-{SECRET}", "credit": "THEIR-INCOME"}
    texts: dict[str, Any] = {"transaction": {"description": SECRET, "reference_id": SECRET}}
    posted = theirs.post(journal(f"key-{SECRET}", 77_777, **entries, **texts)).json()
    theirs.post(journal(f"bad-{SECRET}", 77_777, debit=f"NONE-{SECRET}", credit="THEIR-INCOME", **texts))
    refused = theirs.job(f"bad-{SECRET}")
    ledger = theirs.get(f"/v1/ledgers/LEAF-{SECRET}").json()["ledger"]
    batch_id = UUID(int=UUID(posted["id"]).int & ~0xFFFF_FFFF)
    hidden = [SECRET, "77777", theirs.code, theirs.key, ledger["id"], posted["id"], ledger["created_by"]]
    hidden.append(refused["id"])

    for reference in (ledger["id"], ledger["code"], str(ledger["ledger_num_id"])):
        job_id = refused["id"] if path.startswith("/v1/rejected/") else posted["id"]
        names = {"ref": reference, "job_id": job_id, "journal_id": posted["id"], "batch_id": str(batch_id)}
        bodies: dict[str, Any] = {
            "/v1/ledgers/{ref}/balance-updates": {"type": "debit", "amount": 1},
            "/v1/ledgers/{ref}": {"active": False},
            "/v1/ledgers/journals": {
                "entries": [
                    {"ledger_id": ledger["id"], "type": "debit", "amount": 1},
                    {"ledger_code": "SALES", "type": "credit", "amount": 1},
                ]
            },
            "/v1/ledgers": {"code": f"NEW-{uuid4()}", "parent_ledger_id": ledger["parent_ledger_id"]},
            "/v1/ledgers/import": [{"code": f"NEW-{uuid4()}", "parent_ledger_id": ledger["parent_ledger_id"]}],
            "/v1/jobs/lookup": {"idempotency_keys": [posted["idempotency_key"]]},
            "/v1/rejected/resend": {"filter": {}},
            "/v1/rejected/{job_id}/dry-run": {"patch": {"entries": {"0": {"ledger_id": ledger["id"]}}}},
            "/v1/rejected/{job_id}/resend": {"replacement": journal("mine"), "again": True},
        }
        body = json.dumps(bodies.get(path)).encode()
        answer = system.api.request(
            method,
            path.format(**names),
            params={"reference_id": SECRET, "batch_id": str(batch_id)} if path == "/v1/jobs" else None,
            content=None if method == "GET" else body,
            headers={"X-API-Key": acme.key},
        )

        if "{" in path or (path in {"/v1/ledgers/journals", "/v1/ledgers"} and method == "POST"):
            assert answer.status_code == 404, answer.text
        elif path == "/v1/ledgers/import":
            assert [problem["code"] for problem in answer.json()["details"]["problems"]] == ["LEDGER_NOT_FOUND"]
        else:
            assert answer.status_code == 200, answer.text
        asked = {
            *names.values(),
            ledger["id"],
            posted["idempotency_key"],
            ledger["parent_ledger_id"],
        }  # may be said back
        said = answer.text
        for name in sorted(asked, key=len, reverse=True):
            said = said.replace(name, "")
        assert [part for part in hidden if part in said] == []

    assert theirs.balance(f"LEAF-{SECRET}") == 77_777
    assert [job["is_open"] for job in theirs.get("/v1/rejected").json()["jobs"]] == [True]
    assert theirs.get(f"/v1/rejected/{refused['id']}").json()["resent"] == []
    assert theirs.get(f"/v1/ledgers/LEAF-{SECRET}").json()["ledger"]["active"] is True
