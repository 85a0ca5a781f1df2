"""Posting over HTTP, from the request to the balance, and all ways to learn what became of it."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from conftest import environment
from running import Organization, System, api_process, eventually, journal

# What document 004 shows of a journal.
FIELDS_OF_004 = {
    *("id", "type", "status", "total_amount", "currency_id", "currency_code", "description", "reference_id"),
    *("timestamp", "value_date", "completed_at", "reconciled_at", "metadata", "created_at", "modified_at"),
    *("created_by", "modified_by", "total_debit_lcy", "total_credit_lcy", "active", "id_client"),
}
Postings = Callable[[], list[str]]  # ends them, and gives their keys
UPDATES = "/v1/ledgers/TILL/balance-updates"


def in_future(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_one_journal_is_posted_while_the_client_waits_and_shown_as_document_004_shows_it(acme: Organization) -> None:
    texts = {"type": "payment", "description": "Invoice 1", "reference_id": "INV-1", "metadata": {"channel": "web"}}
    dates = {"value_date": "2026-06-02", "timestamp": "2026-06-02T10:30:00+02:00"}

    answer = acme.post(journal("k1", 32_998, transaction={**texts, **dates, "total_amount": 32_998}))

    assert answer.status_code == 201, answer.text
    shown = answer.json()
    assert shown.keys() >= FIELDS_OF_004
    money = {"amount": "32998", "currency": "USD", "precision": 2}
    assert shown["total_amount"] == shown["total_debit_lcy"] == shown["total_credit_lcy"] == money
    assert {name: shown[name] for name in texts} == texts
    assert (shown["status"], shown["active"], shown["id_client"]) == ("posted", True, acme.code)
    assert shown["value_date"] == "2026-06-02T00:00:00Z"
    assert shown["timestamp"] == "2026-06-02T08:30:00Z"
    assert shown["reconciled_at"] is None
    assert shown["completed_at"] >= shown["created_at"]
    assert UUID(shown["created_by"]) == UUID(shown["modified_by"])
    assert UUID(shown["currency_id"])
    lines = [(e["ledger_code"], e["type"], e["amount"], e["line"], e["number"]) for e in shown["entries"]]
    assert lines == [("TILL", "debit", 32_998, 1, 1), ("SALES", "credit", 32_998, 2, 1)]
    assert [entry["balance_after"] for entry in shown["entries"]] == [32_998, 32_998]
    assert answer.headers["Location"] == f"/v1/jobs/{shown['id']}"
    assert answer.headers["Idempotency-Key"] == "k1"
    assert acme.get(f"/v1/ledgers/journals/{shown['id']}").json() == shown
    assert [acme.balance(head) for head in ("TILL", "CASH", "CURRENT", "ASSETS", "INCOME")] == [32_998] * 5


def test_the_same_request_again_answers_with_the_same_journal_and_moves_nothing(acme: Organization) -> None:
    first = acme.post(journal("k1"))
    again = acme.post(journal("k1", "100"))  # digits as text are the same content

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert acme.balance("TILL") == 100
    job = acme.get(again.headers["Location"]).json()
    assert job["id"] == first.json()["id"]


def test_a_key_with_other_content_is_refused_and_names_the_first_job(acme: Organization) -> None:
    first = acme.post(journal("k1", 100)).json()

    refused = acme.post(journal("k1", 101))

    assert (refused.status_code, refused.json()["code"]) == (409, "KEY_REUSED")
    assert refused.json()["details"]["job"] == first["id"]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert acme.get(f"/v1/jobs/{refused.json()['job_id']}").json()["error"]["code"] == "KEY_REUSED"
    assert acme.balance("TILL") == 100


def test_a_rejected_journal_stays_rejected_under_its_key(acme: Organization) -> None:
    poor = journal("k1", 5, debit="SALES", credit="TILL")
    first = acme.post(poor)
    acme.post(journal("k2", 100))

    again = acme.post(poor)

    assert [answer.status_code for answer in (first, again)] == [422, 422]
    assert again.json()["job_id"] == first.json()["job_id"]
    assert first.json()["code"] == "INSUFFICIENT_BALANCE"
    assert first.json()["details"] == {"field": "entries[1]", "ledger": "TILL", "available": 0, "taken": 5}


def test_a_client_that_does_not_wait_gets_the_job_and_may_wait_for_it_later(acme: Organization) -> None:
    accepted = acme.post(journal("k1"), prefer="respond-async")

    assert accepted.status_code == 202
    assert int(accepted.headers["Retry-After"]) >= 1
    ended = acme.get(accepted.headers["Location"], prefer="wait=10")
    assert ended.status_code == 200
    assert ended.json()["state"] == "posted"
    assert ended.json()["id"] == accepted.json()["id"]
    assert "Retry-After" not in ended.headers


@pytest.mark.parametrize("form", ["array", "NDJSON"])
def test_many_journals_are_accepted_at_once_and_their_batch_tells_what_became_of_each(
    acme: Organization, form: str
) -> None:
    items = [journal(f"k{n}", 10) for n in range(50)]
    items[7] = journal("k7", 10, debit="NOWHERE")
    items[9] = journal("k9", 0)
    lines = b"\n\n".join(json.dumps(item).encode() for item in items) + b"\r\n"

    accepted = acme.post(items) if form == "array" else acme.post(lines, content_type="application/x-ndjson")

    assert accepted.status_code == 202, accepted.text
    body = accepted.json()
    assert [job["idempotency_key"] for job in body["jobs"]] == [f"k{n}" for n in range(50)]
    assert accepted.headers["Location"] == f"/v1/batches/{body['batch_id']}"
    batch = acme.get(accepted.headers["Location"], prefer="wait=10").json()
    assert batch["is_settled"]
    assert batch["counts"] == {"posted": 48, "rejected": 2}
    reasons = [(job["id"], job["error"]["code"]) for job in batch["not_posted"]]
    assert reasons == [(body["jobs"][7]["id"], "LEDGER_NOT_FOUND"), (body["jobs"][9]["id"], "INVALID_AMOUNT")]
    assert acme.balance("ASSETS") == 480


def test_a_client_may_wait_for_a_whole_array_and_a_repeated_one_counts_as_replayed(acme: Organization) -> None:
    items = [journal("k1"), journal("k2")]

    first, again = (acme.post(items, prefer="wait=10") for _ in range(2))

    assert [answer.status_code for answer in (first, again)] == [200, 200]
    assert first.json()["counts"] == {"posted": 2}
    assert again.json()["counts"] == {"replayed": 2}
    assert acme.balance("TILL") == 200


def test_the_same_key_twice_in_one_request_has_one_effect(acme: Organization) -> None:
    items = [journal("k1", 100), journal("k1", 100), journal("k1", 7)]

    batch = acme.post(items, prefer="wait=10").json()

    assert batch["counts"] == {"posted": 1, "rejected": 1, "replayed": 1}
    assert [job["error"]["code"] for job in batch["not_posted"]] == ["KEY_REUSED"]
    assert acme.balance("TILL") == 100


def test_a_balance_update_moves_a_ledger_against_its_contra_or_the_suspense_ledger(acme: Organization) -> None:
    update = {"type": "debit", "amount": 900, "description": "opening"}

    against_suspense = acme.send(UPDATES, update, idempotency_key="u1")
    against_bank = acme.send(UPDATES, {"type": "credit", "amount": 250, "contra": {"ledger_code": "BANK"}})
    replay = acme.send(UPDATES, update, idempotency_key="u1")

    assert [a.status_code for a in (against_suspense, against_bank, replay)] == [201] * 3, against_bank.text
    assert against_suspense.json()["message"] == "ledger balance debited successfully"
    assert against_suspense.json()["balance"]["balance_current"] == 900
    assert [e["ledger_code"] for e in against_suspense.json()["journal"]["entries"]] == ["TILL", "SUSPENSE"]
    assert against_bank.json()["message"] == "ledger balance credited successfully"
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert [acme.balance(ledger) for ledger in ("TILL", "BANK", "ASSETS", "SUSPENSE")] == [650, 250, 900, 900]
    assert acme.send("/v1/ledgers/1010000101/balance-updates", update).json()["balance"]["balance_current"] == 1_550


def test_a_balance_update_whose_body_names_another_ledger_than_its_path_is_refused(acme: Organization) -> None:
    refused = acme.send(UPDATES, {"ledger_code": "BANK", "type": "debit", "amount": 5})
    agreed = acme.send(UPDATES, {"ledger_code": "TILL", "ledger_num_id": 1010000101, "type": "debit", "amount": 5})

    assert (refused.status_code, refused.json()["code"]) == (400, "LEDGER_REFERENCE_CONFLICT")
    assert agreed.status_code == 201
    assert (acme.balance("TILL"), acme.balance("BANK")) == (5, 0)


def test_without_a_key_one_is_minted_and_returned_so_that_the_request_can_be_repeated(acme: Organization) -> None:
    first = acme.post(journal(None))
    key = first.headers["Idempotency-Key"]
    again = acme.post(journal(None), idempotency_key=key)

    assert first.status_code == 201
    assert first.json()["idempotency_key"] == key
    assert again.json()["id"] == first.json()["id"]


def test_the_key_may_come_as_a_header_and_must_agree_with_the_body(acme: Organization) -> None:
    by_header = acme.post(journal(None), idempotency_key="k1")
    by_both = acme.post(journal("k1"), idempotency_key="k1")
    contradicting = acme.post(journal("k2"), idempotency_key="k1")
    no_key_at_all = acme.post({**journal(None), "idempotency_key": ["k1"]}, idempotency_key="k1")

    assert by_header.json()["id"] == by_both.json()["id"]
    for refused in (contradicting, no_key_at_all):
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_FIELD")
    assert acme.balance("TILL") == 100


def test_a_service_that_requires_keys_refuses_requests_without(
    acme: Organization, system: System, tmp_path: Path
) -> None:
    variables = environment(system.settings) | {"REQUIRE_IDEMPOTENCY_KEY": "true"}
    headers = {"X-API-Key": acme.key, "Content-Type": "application/json"}
    with api_process(variables, tmp_path / "api.log") as url, httpx2.Client(base_url=url, headers=headers) as strict:
        single = strict.post("/v1/ledgers/journals", json=journal(None))
        many = strict.post("/v1/ledgers/journals", json=[journal("k1"), journal(None)])
        with_key = strict.post("/v1/ledgers/journals", json=journal("k2"))

    assert [a.status_code for a in (single, many, with_key)] == [400, 400, 201]
    assert single.json()["code"] == many.json()["code"] == "MISSING_IDEMPOTENCY_KEY"
    assert acme.balance("TILL") == 100


def test_the_trace_of_a_request_or_message_is_kept_with_its_job(acme: Organization, system: System) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    job_id = acme.post(journal("k1"), traceparent=trace).json()["id"]
    system.celery.send_task(
        "ledgermill.post_journals",
        kwargs={"organization": acme.code, "journals": [journal("k2")]},
        headers={"traceparent": trace},
        queue="posting",
    )

    assert acme.get(f"/v1/jobs/{job_id}").json()["correlation_id"] == trace
    assert acme.job("k2")["correlation_id"] == trace


def test_a_journal_that_is_due_later_is_scheduled_and_posted_when_its_time_comes(acme: Organization) -> None:
    due_at = in_future(2)
    started = time.monotonic()
    single = acme.post(journal("k1", 1, due_at=due_at))
    acme.post([journal("k2", 10, due_at=due_at), journal("k3", 100), journal("k4", 1_000, due_at=in_future(3_600))])
    acme.publish([journal("k5", 10_000, due_at=due_at), journal("k6", 100_000)])

    assert single.status_code == 202
    assert single.json()["state"] == "scheduled"
    assert time.monotonic() - started < 2, "nobody waits for what is due later than they would wait"
    assert acme.job("k3")["state"] == acme.job("k6")["state"] == "posted"
    assert acme.balance("TILL") == 100_100
    ended = acme.ended(["k1", "k2", "k5"])
    assert {job["state"] for job in ended.values()} == {"posted"}
    assert all(datetime.fromisoformat(job["ended_at"]) >= datetime.fromisoformat(due_at) for job in ended.values())
    assert acme.balance("TILL") == 110_111
    scheduled = acme.get("/v1/jobs", state="scheduled").json()["jobs"]
    assert [job["idempotency_key"] for job in scheduled] == ["k4"]


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/jobs/{uuid4()}",
        f"/v1/batches/{uuid4()}",
        "/v1/jobs?idempotency_key=unheard-of",
        f"/v1/ledgers/journals/{uuid4()}",
        "/v1/batches/ffffffff-ffff-ffff-ffff-ffffffffffff",
        "/v1/jobs/ffffffff-ffff-ffff-ffff-ffffffffffff",
    ],
)
def test_what_nobody_asked_for_is_not_found(acme: Organization, path: str) -> None:
    answer = acme.get(path)

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"].endswith("_NOT_FOUND")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/jobs?batch_id=ffffffff-ffff-ffff-ffff-ffffffffffff", 200),
        ("/v1/jobs?before=ffffffff-ffff-ffff-ffff-ffffffffffff", 200),
        ("/v1/jobs?reference_id=a%00b", 400),
        ("/v1/jobs?idempotency_key=a%00b", 400),
        ("/v1/ledgers/a%00b", 400),
        ("/v1/ledgers?after=%00", 400),
        ("/v1/ledgers/%ff", 404),
        ("/v1/jobs?limit=0", 400),
        ("/v1/jobs?state=lost", 400),
        ("/v1/jobs?accepted_from=2026-01-01T00:00:00", 400),
        ("/v1/jobs?accepted_from=0001-01-01T00:00:00Z", 400),
        ("/v1/outcomes?after=x", 400),
        ("/v1/outcomes?after=1-", 200),
        ("/v1/outcomes?after=99999999999999999999", 400),
        ("/v1/jobs/none", 400),
        ("/v1/ledgers/TILL/entries?below=99999999999999999999", 400),
        ("/nowhere", 404),
    ],
)
def test_odd_questions_get_an_answer_and_never_a_failure(acme: Organization, path: str, status: int) -> None:
    answer = acme.get(path)

    assert answer.status_code == status, answer.text
    if status >= 400:
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_thousand_keys_are_looked_up_at_once_and_more_are_refused(acme: Organization) -> None:
    acme.post([journal(f"k{n}", 1) for n in range(600)], prefer="wait=20")
    asked = [f"k{n}" for n in range(1_000)]

    answer = acme.send("/v1/jobs/lookup", {"idempotency_keys": asked})
    too_many = acme.send("/v1/jobs/lookup", {"idempotency_keys": [*asked, "one more"]})

    assert answer.status_code == 200
    assert [job["idempotency_key"] for job in answer.json()["jobs"]] == asked[:600]
    assert {job["state"] for job in answer.json()["jobs"]} == {"posted"}
    assert answer.json()["missing"] == asked[600:]
    assert too_many.status_code == 400


def test_jobs_are_listed_by_state_kind_batch_reference_and_time(acme: Organization) -> None:
    def keys(**filters: Any) -> list[str]:
        answer = acme.get("/v1/jobs", **filters)
        assert answer.status_code == 200, answer.text
        return [job["idempotency_key"] for job in answer.json()["jobs"]]

    batch = acme.post([journal("k1"), journal("k2", debit="NOWHERE")], prefer="wait=10").json()["id"]
    time.sleep(0.002)
    moment = datetime.now(UTC).isoformat()
    acme.post(journal("k3", transaction={"reference_id": "R 1"}))
    acme.send(UPDATES, {"type": "debit", "amount": 1, "reference_id": "R 1"}, idempotency_key="k4")
    acme.post(journal("k5", due_at=in_future(3_600)), prefer="respond-async")

    assert keys() == ["k5", "k4", "k3", "k2", "k1"]
    assert keys(state="rejected") == ["k2"]
    assert keys(state=["rejected", "scheduled"]) == ["k5", "k2"]
    assert keys(state="posted") == ["k4", "k3", "k1"]
    assert keys(state="accepted") == []
    assert keys(kind="update_balance") == ["k4"]
    assert keys(kind="post_journal", state="posted") == ["k3", "k1"]
    assert keys(batch_id=batch) == ["k2", "k1"]
    assert keys(reference_id="R 1") == ["k4", "k3"]
    assert keys(reference_id="none") == []
    assert keys(accepted_from=moment) == ["k5", "k4", "k3"]
    assert keys(accepted_to=moment) == ["k2", "k1"]
    assert keys(idempotency_key="k5") == ["k5"]


@pytest.fixture
def postings(acme: Organization) -> Iterator[Postings]:
    """Somebody who posts, one way and another, until the test ends or stops it."""
    keys: list[str] = []
    stop = threading.Event()

    def post() -> None:
        chance = random.Random(1)
        while not stop.is_set():
            some = [f"p{len(keys) + n}" for n in range(chance.randint(1, 20))]
            items = [journal(key, 1, debit=chance.choice(["TILL", "BANK", "NOWHERE"])) for key in some]
            if chance.random() < 0.5:
                acme.publish(items)
            else:
                acme.post(items)
            keys.extend(some)
            time.sleep(0.01)

    thread = threading.Thread(target=post)
    thread.start()

    def end() -> list[str]:
        stop.set()
        thread.join()
        return keys

    yield end
    end()


def test_pages_of_jobs_have_no_gap_and_no_repeat_while_posting_goes_on(acme: Organization, postings: Postings) -> None:
    old = [f"old{n}" for n in range(100)]
    acme.post([journal(key, 1) for key in old], prefer="wait=20")
    for _ in range(5):
        seen: list[str] = []
        parameters: dict[str, Any] = {"limit": 23}
        while True:
            page = acme.get("/v1/jobs", **parameters).json()
            seen += [job["id"] for job in page["jobs"]]
            found = {job["idempotency_key"] for job in page["jobs"]}
            old = [key for key in old if key not in found]
            if page["next_before"] is None:
                break
            parameters["before"] = page["next_before"]
        assert len(seen) == len(set(seen))
        assert seen == sorted(seen, reverse=True)
        assert old == []


def test_the_feed_of_outcomes_is_complete_and_in_order_while_posting_goes_on(
    acme: Organization, system: System, postings: Postings
) -> None:
    outcomes: list[dict[str, Any]] = []
    cursor = "0"

    def follow() -> None:
        nonlocal cursor
        page = acme.get("/v1/outcomes", after=cursor, limit=17).json()
        outcomes.extend(page["outcomes"])
        cursor = page["next_after"]

    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        follow()
    known = postings()
    for start in range(0, len(known), 1_000):
        acme.ended(known[start : start + 1_000])
    eventually(lambda: follow() or not acme.get("/v1/outcomes", after=cursor).json()["outcomes"])

    shown = [outcome["job"]["id"] for outcome in outcomes]
    in_order = system.rows(
        """SELECT job_id FROM ledgermill.job j JOIN ledgermill.organization o USING (organization_id)
           WHERE o.code = :code ORDER BY coalesce(position, after_position), rejection NULLS FIRST""",
        code=acme.code,
    )
    assert len(shown) == len(set(shown))
    assert shown == [str(row.job_id) for row in in_order]
    assert {outcome["job"]["idempotency_key"] for outcome in outcomes} == set(known)
    assert {outcome["job"]["state"] for outcome in outcomes} == {"posted", "rejected"}
    assert acme.get("/v1/outcomes", after=outcomes[4]["after"], limit=1).json()["outcomes"] == [outcomes[5]]


def test_a_paused_organization_accepts_and_posts_nothing_until_it_is_resumed(
    acme: Organization, system: System
) -> None:
    system.set_state(acme.code, "paused")
    answer = acme.post(journal("k1"), prefer="wait=1")
    acme.publish([journal("k2", 10), journal("k3", float("inf")), journal("k4", "\ud800")])
    eventually(lambda: acme.waiting() == 2)
    paused = acme.send("/v1/jobs/lookup", {"idempotency_keys": ["k1", "k2", "k3", "k4"]}).json()

    assert answer.status_code == 202
    assert [job["state"] for job in paused["jobs"]] == ["accepted"] * 4
    assert acme.balance("TILL") == 0

    system.set_state(acme.code, "active")

    ended = acme.ended(["k1", "k2", "k3", "k4"])
    assert [ended[key]["state"] for key in ("k1", "k2", "k3", "k4")] == ["posted", "posted", "rejected", "rejected"]
    assert acme.balance("TILL") == 110


def test_a_draining_organization_takes_no_new_jobs_and_keeps_what_the_broker_brings(
    acme: Organization, system: System
) -> None:
    system.set_state(acme.code, "paused")
    acme.post(journal("k1", 1), prefer="respond-async")
    system.set_state(acme.code, "draining")
    refused = acme.post(journal("k2", 10))
    acme.publish([journal("k3", 100)])

    assert (refused.status_code, refused.json()["code"]) == (503, "ORGANIZATION_DRAINING")
    assert int(refused.headers["Retry-After"]) >= 1
    assert acme.job("k1")["state"] == "posted"  # accepted before
    eventually(lambda: acme.waiting() == 1)
    kept = acme.send("/v1/jobs/lookup", {"idempotency_keys": ["k2", "k3"]}).json()
    assert [job["state"] for job in kept["jobs"]] == ["accepted"]
    assert kept["missing"] == ["k2"]
    assert acme.balance("TILL") == 1

    system.set_state(acme.code, "active")

    assert acme.job("k3")["state"] == "posted"
    assert acme.balance("TILL") == 101
