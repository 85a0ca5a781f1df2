"""Requests that are answered together: each sees and does what its own key allows, and gets what it would get alone."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from psycopg import errors
from running import Organization, System, eventually, journal

from ledgermill.domain import ids
from ledgermill.runtime import new_batch_id, now
from ledgermill.storage import api_keys
from ledgermill.usecases.organizations import hash_key

Connection = psycopg.Connection[tuple[Any, ...]]

JOBS = "SELECT place, organization_code, job_id FROM ledgermill_api.find_ended_jobs(%b, %b) ORDER BY place"
KEYS = "SELECT place, organization_code, scopes FROM ledgermill_api.find_keys(%b) ORDER BY place"
ACCEPT = """
    SELECT place, organization_state
    FROM ledgermill_api.accept_jobs(%b, %b, %b, %b, %b, %b, %b, %b, %b) ORDER BY place
"""


@pytest.fixture
def connection(system: System) -> Iterator[Connection]:
    """The database as the API's role."""
    with psycopg.connect(system.settings.url_of("api"), autocommit=True) as opened:
        yield opened


def revoke(system: System, organization: Organization, key: str) -> None:
    (row,) = system.rows(
        "SELECT organization_id, key_uuid FROM ledgermill.api_key WHERE key_sha256 = :sha", sha=hash_key(key)
    )
    with system.owner.engine.begin() as tx:
        assert api_keys.revoke(tx, row.organization_id, row.key_uuid)


def accept(connection: Connection, keys: list[str]) -> list[tuple[Any, ...]]:
    """Each key accepts a job whose idempotency key is the key's place."""
    count, moment = len(keys), now()
    values = [
        [hash_key(key) for key in keys],
        [new_batch_id() for _ in keys],
        [0] * count,
        ["post_journal"] * count,
        [json.dumps([journal(str(place))]).encode() for place in range(count)],
        [str(place) for place in range(count)],
        [moment] * count,
        [moment + timedelta(days=1)] * count,
        [None] * count,
    ]
    return connection.execute(ACCEPT, values).fetchall()


def test_a_job_is_found_by_a_key_of_its_organization_that_may_read_and_by_no_other(
    acme: Organization, system: System, connection: Connection
) -> None:
    other = system.new_organization()
    posted = acme.post(journal("k1")).json()["id"]
    revoked, expired = system.new_key(acme.code), system.new_key(acme.code, expires_at=now() - timedelta(seconds=1))
    revoke(system, acme, revoked)
    keys = [acme.key, other.key, system.new_key(acme.code, scopes=["post"]), revoked, expired, "unknown"]

    found = connection.execute(JOBS, [[hash_key(key) for key in keys], [UUID(posted)] * len(keys)]).fetchall()

    assert found == [(1, acme.code, UUID(posted)), (2, other.code, None), (3, acme.code, None)]
    assert [row[:2] for row in connection.execute(KEYS, [[hash_key(key) for key in keys]]).fetchall()] == [
        (1, acme.code),
        (2, other.code),
        (3, acme.code),
    ]


def test_a_job_is_accepted_for_the_organization_of_a_key_that_may_post_and_for_no_other(
    acme: Organization, system: System, connection: Connection
) -> None:
    other, drained = system.new_organization(), system.new_organization()
    system.set_state(drained.code, "draining")
    revoked = system.new_key(acme.code)
    revoke(system, acme, revoked)
    reading = system.new_key(acme.code, scopes=["read", "ledgers"])

    states = accept(connection, [acme.key, other.key, reading, drained.key, revoked, "unknown"])

    assert states == [(1, "active"), (2, "active"), (4, "draining")]
    statement = """
        SELECT code, array_agg(job_keys) FROM ledgermill.inbox JOIN ledgermill.organization USING (organization_id)
        WHERE code = ANY(:codes) GROUP BY code
    """
    accepted = {row[0]: row[1] for row in system.rows(statement, codes=[acme.code, other.code, drained.code])}
    assert accepted == {acme.code: [["0"]], other.code: [["1"]]}


def test_all_that_is_accepted_together_is_accepted_or_nothing(acme: Organization, connection: Connection) -> None:
    moment = datetime.now(UTC)
    batch = new_batch_id()
    values = [[hash_key(acme.key)] * 2, [batch] * 2, [0] * 2, ["post_journal"] * 2, [b"[]"] * 2, ["a", "b"]]

    with pytest.raises(errors.UniqueViolation):
        connection.execute(ACCEPT, [*values, [moment] * 2, [moment] * 2, [None] * 2])

    assert acme.waiting() == 0


def test_jobs_are_found_by_index_also_by_a_plan_that_was_made_while_there_were_none(system: System) -> None:
    fresh = system.new_organization()
    asked = [[hash_key(fresh.key)] * 50, [uuid4() for _ in range(50)]]
    with psycopg.connect(system.settings.url_of("owner")) as owner:
        for _ in range(10):
            owner.execute(JOBS, asked)
        scans = owner.execute(
            "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE schemaname = 'ledgermill' AND relname = 'job'"
        ).fetchone()

    assert scans == (0, 500)


def test_a_revoked_key_is_refused_at_the_next_request(acme: Organization, system: System) -> None:
    path = f"/v1/jobs/{acme.post(journal('k1')).json()['id']}"
    key = system.new_key(acme.code)
    assert system.api.get(path, headers={"X-API-Key": key}).status_code == 200

    revoke(system, acme, key)

    assert system.api.get(path, headers={"X-API-Key": key}).status_code == 401
    body = json.dumps(journal("k2")).encode()
    posted = system.api.post("/v1/ledgers/journals", content=body, headers={"X-API-Key": key})
    assert (posted.status_code, posted.json()["code"]) == (401, "UNAUTHENTICATED")
    assert acme.send("/v1/jobs/lookup", {"idempotency_keys": ["k2"]}).json()["missing"] == ["k2"]


@pytest.mark.parametrize("job_id", ["none", "7", "%00", "0" * 33])
def test_an_id_that_is_none_is_told_so_only_to_who_may_ask(
    acme: Organization, api: httpx2.Client, system: System, job_id: str
) -> None:
    path = f"/v1/jobs/{job_id}"

    assert api.get(path).status_code == 401
    assert api.get(path, headers={"X-API-Key": "lm_unknown"}).status_code == 401
    posting = system.new_key(acme.code, scopes=["post"])
    assert api.get(path, headers={"X-API-Key": posting}).status_code == 403
    refused = acme.get(path)
    assert (refused.status_code, refused.json()["details"]["field"]) == (400, "job_id")


def test_a_job_is_shown_the_same_by_its_id_its_key_and_its_batch(acme: Organization) -> None:
    transaction = {"reference_id": "R1", "value_date": "2026-01-31", "description": "d", "metadata": {"a": 1}}
    acme.post(journal("good", 10**30, transaction=transaction), traceparent="00-trace")
    acme.post(journal("bad", 5, debit="NONE"))

    for key in ("good", "bad"):
        (by_key,) = acme.get("/v1/jobs", idempotency_key=key).json()["jobs"]
        (in_batch,) = acme.get("/v1/jobs", batch_id=by_key["batch_id"]).json()["jobs"]
        answer = acme.get(f"/v1/jobs/{by_key['id']}")
        assert answer.json() == by_key == in_batch
        assert "Retry-After" not in answer.headers
        assert acme.get(f"/v1/jobs/{by_key['id'].upper().replace('-', '')}").json() == by_key


def test_what_a_client_that_does_not_wait_is_told_is_what_it_can_read(acme: Organization, system: System) -> None:
    system.set_state(acme.code, "paused")
    later = (now() + timedelta(days=1)).isoformat()
    asked = [journal("now"), journal(None), journal("later", due_at=later)]

    for item in asked:
        told = acme.post(item, prefer="respond-async", traceparent="00-trace")
        read = acme.get(told.headers["Location"])
        assert told.status_code == 202
        assert told.json() == read.json()
        assert told.json()["state"] == ("scheduled" if "due_at" in item else "accepted")
        assert told.headers["Retry-After"] == read.headers["Retry-After"] == "1"
        assert told.headers["Idempotency-Key"] == told.json()["idempotency_key"]


def test_the_inbox_keeps_the_same_journal_whichever_way_it_came(acme: Organization, system: System) -> None:
    system.set_state(acme.code, "paused")
    item = {**journal("k1", "100"), "transaction": {"metadata": {"a": [1.5, "ü", None]}}}
    without_key = {name: value for name, value in item.items() if name != "idempotency_key"}

    acme.post(b" " + json.dumps(item, indent=2).encode() + b"\n", prefer="respond-async")
    acme.send("/v1/ledgers/journals", without_key, prefer="respond-async", idempotency_key="k1")
    acme.post([item], prefer="respond-async")

    payloads = system.rows(
        "SELECT payload FROM ledgermill.inbox JOIN ledgermill.organization USING (organization_id) WHERE code = :code",
        code=acme.code,
    )
    assert [json.loads(payload) for (payload,) in payloads] == [[item]] * 3


def test_many_clients_of_many_organizations_at_once_each_get_their_own(system: System) -> None:
    organizations = [system.new_organization() for _ in range(4)]
    stranger = organizations[0]
    keys = [f"k{number}" for number in range(25)]

    def send(asked: tuple[Organization, str, str]) -> tuple[int, str]:
        organization, key, what = asked
        match what:
            case "good":
                answer = organization.post(journal(key, 7), prefer="respond-async")
            case "unreadable":
                answer = organization.post(journal(f"{key}-x", -1), prefer="respond-async")
            case _:
                answer = system.api.post("/v1/ledgers/journals", content=b"{}", headers={"X-API-Key": f"lm_{key}"})
        return answer.status_code, answer.json().get("idempotency_key") or answer.json()["code"]

    asked = [(o, key, what) for key in keys for o in organizations for what in ("good", "unreadable", "unknown")]
    with ThreadPoolExecutor(16) as threads:
        answers = dict(zip(asked, threads.map(send, asked), strict=True))
    expected = {"unreadable": (400, "INVALID_AMOUNT"), "unknown": (401, "UNAUTHENTICATED")}
    assert answers == {one: expected.get(one[2], (202, one[1])) for one in asked}

    jobs = {organization: organization.ended(keys) for organization in organizations}

    def read(asked: tuple[Organization, Organization, str]) -> httpx2.Response:
        reader, owner, key = asked
        return reader.get(f"/v1/jobs/{jobs[owner][key]['id']}")

    pairs = [(reader, owner, key) for key in keys for owner in organizations for reader in (owner, stranger)]
    with ThreadPoolExecutor(16) as threads:
        for (reader, owner, key), answer in zip(pairs, threads.map(read, pairs), strict=True):
            if reader is owner:
                assert answer.json() == jobs[owner][key]
            else:
                assert (answer.status_code, answer.json()["code"]) == (404, "JOB_NOT_FOUND")
    for organization in organizations:
        assert organization.balance("TILL") == 7 * len(keys)
        assert organization.send("/v1/jobs/lookup", {"idempotency_keys": ["k0-x"]}).json()["missing"] == ["k0-x"]


def test_a_client_waits_for_a_job_that_another_request_is_accepted_with(acme: Organization) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: acme.post(journal(f"k{number}", number)), range(1, 41)))

    assert [answer.status_code for answer in answers] == [201] * 40
    assert [answer.json()["idempotency_key"] for answer in answers] == [f"k{number}" for number in range(1, 41)]
    assert acme.balance("TILL") == sum(range(1, 41))
    assert len({ids.batch_of(UUID(answer.json()["id"])) for answer in answers}) == 40
    assert eventually(lambda: acme.waiting() == 0)
