"""Whatever arrives beside good journals: each bad one is refused alone with its code, the good ones are posted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from kombu.utils.json import dumps as kombu_json
from redis import Redis
from running import Organization, System, eventually, journal

from ledgermill.api.problems import BY_CODE, status_of
from ledgermill.messages import routes


class Bad(NamedTuple):
    """A journal as JSON text, and the code of its refusal."""

    text: str
    code: str


def bad(code: str, amount: Any = 100, **changes: Any) -> Bad:
    return Bad(json.dumps({**journal("bad", amount), **changes}), code)


def with_amount(literal: str) -> Bad:
    """For numbers that Python would not write."""
    return Bad(json.dumps(journal("bad", "AMOUNT")).replace('"AMOUNT"', literal), "INVALID_AMOUNT")


def entry(code: str | None, side: str, amount: Any, **more: Any) -> dict[str, Any]:
    return {"ledger_code": code, "type": side, "amount": amount, **more}


BAD = {
    "unbalanced": bad("UNBALANCED", entries=[entry("TILL", "debit", 100), entry("SALES", "credit", 99)]),
    "one entry only": bad("TOO_FEW_ENTRIES", entries=[entry("TILL", "debit", 100)]),
    "no entry": bad("TOO_FEW_ENTRIES", entries=[]),
    "unknown ledger": bad("LEDGER_NOT_FOUND", entries=[entry("TILL", "debit", 1), entry("NONE", "credit", 1)]),
    "no ledger": bad("LEDGER_REFERENCE_MISSING", entries=[entry("TILL", "debit", 1), entry(None, "credit", 1)]),
    "two ledgers in one entry": bad(
        "LEDGER_REFERENCE_CONFLICT",
        entries=[entry("TILL", "debit", 1, ledger_num_id=1010000102), entry("SALES", "credit", 1)],
    ),
    "head ledger": bad("HEAD_LEDGER", entries=[entry("CASH", "debit", 1), entry("SALES", "credit", 1)]),
    "inactive ledger": bad("LEDGER_INACTIVE", entries=[entry("CLOSED", "debit", 1), entry("SALES", "credit", 1)]),
    "wrong currency of an entry": bad(
        "CURRENCY_MISMATCH", entries=[entry("TILL", "debit", 1, currency_code="EUR"), entry("SALES", "credit", 1)]
    ),
    "foreign currency": bad("CURRENCY_NOT_SUPPORTED", transaction={"currency_code": "EUR"}),
    "currency that is none": bad("INVALID_FIELD", transaction={"currency_code": "dollars"}),
    "zero": bad("INVALID_AMOUNT", 0),
    "negative": bad("INVALID_AMOUNT", -100),
    "decimal": bad("INVALID_AMOUNT", 12.5),
    "decimal as text": bad("INVALID_AMOUNT", "12.50"),
    "words": bad("INVALID_AMOUNT", "a lot"),
    "true": bad("INVALID_AMOUNT", True),
    "null": bad("INVALID_AMOUNT", None),
    "1e400": with_amount("1e400"),
    "1e5": with_amount("1e5"),
    "40 digits": with_amount("1" + "0" * 39),
    "4,000 digits": with_amount("7" * 4_000),
    "40 digits as text": bad("INVALID_AMOUNT", "1" + "0" * 39),
    "unknown field": bad("UNKNOWN_FIELD", colour="red"),
    "unknown field of an entry": bad(
        "UNKNOWN_FIELD", entries=[entry("TILL", "debit", 1, tax=1), entry("SALES", "credit", 1)]
    ),
    "entries missing": Bad('{"idempotency_key": "bad"}', "MISSING_FIELD"),
    "side that is none": bad("INVALID_FIELD", entries=[entry("TILL", "left", 1), entry("SALES", "right", 1)]),
    "total that is not the sum": bad("TOTAL_MISMATCH", transaction={"total_amount": 99}),
    "date that is none": bad("INVALID_FIELD", transaction={"value_date": "2026-02-30"}),
    "date in the future": bad("FUTURE_VALUE_DATE", transaction={"value_date": "2999-01-01"}),
    "due at no instant": bad("INVALID_FIELD", due_at="tomorrow"),
    "more than there is": bad(
        "INSUFFICIENT_BALANCE", entries=[entry("SALES", "debit", 10**9), entry("TILL", "credit", 10**9)]
    ),
    "NUL in a text": bad("INVALID_FIELD", transaction={"description": "a\x00b"}),
    "metadata with NUL": bad("INVALID_FIELD", transaction={"metadata": {"a": "\x00"}}),
    "metadata beyond its size": bad("INVALID_FIELD", transaction={"metadata": {"a": "x" * 20_000}}),
    "metadata that is deep": bad("INVALID_FIELD", transaction={"metadata": json.loads('{"a":' * 60 + "1" + "}" * 60)}),
}
# What has no key that could be used: found by its place in the batch.
KEYLESS = {
    "key too long": bad("INVALID_IDEMPOTENCY_KEY", idempotency_key="k" * 256),
    "empty key": bad("INVALID_IDEMPOTENCY_KEY", idempotency_key=""),
    "key with a control character": bad("INVALID_IDEMPOTENCY_KEY", idempotency_key="a\nb"),
    "key that is a number": bad("INVALID_IDEMPOTENCY_KEY", idempotency_key=7),
    "no object": Bad("17", "INVALID_FIELD"),
    "null item": Bad("null", "INVALID_FIELD"),
    "list": Bad("[[]]", "INVALID_FIELD"),
}
ALL = BAD | KEYLESS
GOOD = ("good1", "good2")


def around(text: str) -> str:
    """A list of journals in which this one stands between two good ones."""
    return f"[{json.dumps(journal('good1', 20))}, {text}, {json.dumps(journal('good2', 3))}]"


@pytest.fixture(scope="module", autouse=True)
def same_worker(system: System) -> Iterator[None]:
    """After all that: the worker and its pool are the processes that they were."""
    before = processes(system.worker_pid)
    yield
    assert processes(system.worker_pid) == before


def processes(worker_pid: int) -> set[str]:
    children = Path(f"/proc/{worker_pid}/task/{worker_pid}/children").read_text().split()
    assert children
    return {str(worker_pid), *children}


def require_good_ones_posted(acme: Organization) -> None:
    assert {job["state"] for job in acme.ended(GOOD).values()} == {"posted"}
    assert acme.balance("TILL") == 23


@pytest.mark.parametrize("name", ALL)
def test_alone_over_http_it_is_refused_with_its_code(acme: Organization, name: str) -> None:
    text, code = ALL[name]

    refused = acme.post(text.encode()) if name != "list" else acme.post(b"[[]]", prefer="wait=10")

    if name == "list":
        assert refused.json()["not_posted"][0]["error"]["code"] == code
        return
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert (refused.status_code, refused.json()["code"]) == (status_of(BY_CODE[code]), code), refused.text
    assert len(refused.text) < 2_000
    assert acme.balance("ASSETS") == 0


@pytest.mark.parametrize("name", ALL)
def test_in_an_array_over_http_it_alone_is_rejected(acme: Organization, name: str) -> None:
    text, code = ALL[name]

    batch = acme.post(around(text).encode(), prefer="wait=10").json()

    assert batch["counts"] == {"posted": 2, "rejected": 1}
    assert [job["error"]["code"] for job in batch["not_posted"]] == [code]
    require_good_ones_posted(acme)
    if name in BAD:
        assert acme.job("bad")["error"]["code"] == code


@pytest.mark.parametrize("form", ["list", "text"])
@pytest.mark.parametrize("name", ALL)
def test_in_a_message_it_alone_is_rejected(acme: Organization, name: str, form: str) -> None:
    text, code = ALL[name]

    acme.publish(json.loads(around(text)) if form == "list" else around(text))

    require_good_ones_posted(acme)
    rejected = acme.get("/v1/jobs", state="rejected").json()["jobs"]
    assert [job["error"]["code"] for job in rejected] == [code]
    assert rejected[0]["idempotency_key"] == ("bad" if name in BAD else None)


def test_nan_in_a_list_of_a_message_is_rejected_alone(acme: Organization) -> None:
    acme.publish([journal("good1", 20), journal("bad", float("nan")), journal("good2", 3)])

    require_good_ones_posted(acme)
    assert acme.job("bad")["error"]["code"] == "INVALID_AMOUNT"


def test_nan_is_no_json_and_so_the_whole_request_is_refused(acme: Organization) -> None:
    text = with_amount("NaN").text

    for body in (text, around(text)):
        refused = acme.post(body.encode())
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_JSON")

    assert acme.get("/v1/jobs").json()["jobs"] == []


def test_a_journal_without_a_key_is_posted_under_the_id_of_its_message(acme: Organization) -> None:
    task_id = str(uuid4())
    for _ in range(2):
        acme.publish([journal("good1", 20), journal(None, 3)], task_id=task_id)

    assert acme.job(f"{task_id}:1")["state"] == "posted"
    assert acme.job("good1")["state"] == "posted"
    assert acme.balance("TILL") == 23


def test_a_key_with_other_content_is_rejected_in_a_message_too_once(acme: Organization) -> None:
    task_id = str(uuid4())
    first = acme.post(journal("k1")).json()
    for _ in range(2):
        acme.publish([journal("good1", 20), journal("k1", 7), journal("good2", 3)], task_id=task_id)
    acme.publish([journal("last", 1)])
    acme.job("last")

    rejected = acme.get("/v1/jobs", state="rejected").json()["jobs"]
    assert [job["error"]["code"] for job in rejected] == ["KEY_REUSED"]
    assert rejected[0]["error"]["details"]["job"] == first["id"]
    assert acme.balance("TILL") == 124


def test_the_same_key_twice_in_one_message_is_posted_once(acme: Organization) -> None:
    acme.publish([journal("k1", 100), journal("k1", 100), journal("k1", 7), journal("good1", 20)])

    assert acme.job("good1")["state"] == "posted"
    assert acme.balance("TILL") == 120
    rejected = acme.get("/v1/jobs", state="rejected").json()["jobs"]
    assert [job["error"]["code"] for job in rejected] == ["KEY_REUSED"]


@pytest.mark.parametrize("name", ["ledger_id", "ledger_num_id", "ledger_code"])
def test_a_ledger_of_another_organization_is_not_found(acme: Organization, system: System, name: str) -> None:
    chart = [{"code": "THEIRS", "type": "asset", "ledger_num_id": 1020000001}]
    other = system.new_organization(chart=chart)
    theirs = other.get("/v1/ledgers/THEIRS").json()["ledger"]
    value = theirs["id"] if name == "ledger_id" else theirs["code" if name == "ledger_code" else name]
    entries = [{name: value, "type": "debit", "amount": 1}, entry("SALES", "credit", 1)]

    refused = acme.post({"entries": entries})
    acme.publish(json.loads(around(json.dumps({"idempotency_key": "bad", "entries": entries}))))

    assert (refused.status_code, refused.json()["code"]) == (404, "LEDGER_NOT_FOUND")
    assert acme.job("bad")["error"]["code"] == "LEDGER_NOT_FOUND"
    require_good_ones_posted(acme)
    assert other.balance("THEIRS") == 0


@pytest.mark.parametrize(
    ("update", "code"),
    [
        ({"ledger_code": "NONE", "type": "debit", "amount": 1}, "LEDGER_NOT_FOUND"),
        ({"ledger_code": "CASH", "type": "debit", "amount": 1}, "HEAD_LEDGER"),
        ({"ledger_code": "TILL", "type": "debit", "amount": 0}, "INVALID_AMOUNT"),
        ({"ledger_code": "TILL", "type": "up", "amount": 1}, "INVALID_FIELD"),
        ({"ledger_code": "TILL", "type": "credit", "amount": 1}, "INSUFFICIENT_BALANCE"),
        ({"type": "debit", "amount": 1}, "LEDGER_REFERENCE_MISSING"),
        ({"ledger_code": "TILL", "type": "debit", "amount": 1, "contra": {}}, "LEDGER_REFERENCE_MISSING"),
        ({"ledger_code": "TILL", "type": "debit", "amount": 1, "contra": {"ledger_code": "NONE"}}, "LEDGER_NOT_FOUND"),
        ({"ledger_code": "TILL", "type": "debit", "amount": 1, "entries": []}, "UNKNOWN_FIELD"),
    ],
)
def test_a_bad_balance_update_is_rejected_alone(
    acme: Organization, system: System, update: dict[str, Any], code: str
) -> None:
    good = [{"idempotency_key": key, "ledger_code": "BANK", "type": "debit", "amount": 9} for key in GOOD]
    updates = [good[0], {"idempotency_key": "bad", **update}, good[1]]
    system.publish("update_balances", organization=acme.code, updates=updates)

    assert acme.job("bad")["error"]["code"] == code
    assert acme.balance("BANK") == 18
    if "ledger_code" in update:
        refused = acme.send(f"/v1/ledgers/{update['ledger_code']}/balance-updates", update)
        assert refused.json()["code"] == code


@pytest.mark.parametrize("trace", ["a\x00b", "x" * 5_000])
def test_a_trace_that_cannot_be_kept_costs_the_job_nothing(acme: Organization, system: System, trace: str) -> None:
    system.celery.send_task(
        routes.POST_JOURNALS.task,
        kwargs={"organization": acme.code, "journals": json.loads(around("17"))},
        headers={"traceparent": trace},
        queue=routes.POSTING_QUEUE,
    )

    require_good_ones_posted(acme)
    assert acme.job("good1")["correlation_id"] is None


def quarantined(system: System, part: str) -> Any:
    """The one message in quarantine whose bytes hold this, once it is there; beat brings home what the broker keeps."""
    statement = "SELECT code, queue, body FROM ledgermill.quarantine WHERE position(:part IN body) > 0"
    rows = eventually(lambda: system.rows(statement, part=part.encode()))
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(
    ("journals", "code"),
    [
        ("this is no JSON", "INVALID_JSON"),
        (around(with_amount("NaN").text), "INVALID_JSON"),
        ("{}", "INVALID_FIELD"),
        ("[]", "BATCH_SIZE"),
        ([], "BATCH_SIZE"),
        ({"a": 1}, "INVALID_FIELD"),
        (17, "INVALID_FIELD"),
        (None, "INVALID_FIELD"),
        ("[" * 5_000, "INVALID_JSON"),
    ],
)
def test_journals_that_are_no_list_go_to_quarantine_with_their_bytes(
    acme: Organization, system: System, journals: object, code: str
) -> None:
    acme.publish(journals)
    acme.publish([journal("good1", 20), journal("good2", 3)])

    found = quarantined(system, acme.code)
    assert (found.code, found.queue) == (code, "posting")
    assert json.loads(bytes(found.body))["journals"] == journals
    require_good_ones_posted(acme)


@pytest.mark.parametrize("organization", ["missing", "unknown", "a number", "a text with NUL"])
def test_a_message_of_no_organization_of_ours_goes_to_quarantine_with_its_bytes(
    acme: Organization, system: System, organization: str
) -> None:
    mark = f"mark-{uuid4()}"
    named: dict[str, Any] = {
        "missing": {},
        "unknown": {"organization": "nobody"},
        "a number": {"organization": 7},
        "a text with NUL": {"organization": "a\x00b"},
    }[organization]
    system.publish("post_journals", journals=[journal(mark)], **named)
    acme.publish([journal("good1", 20), journal("good2", 3)])

    found = quarantined(system, mark)
    assert found.code == "ORGANIZATION_NOT_FOUND"
    assert json.loads(bytes(found.body)) == {"organization": None, **named, "journals": [journal(mark)]}
    require_good_ones_posted(acme)


@pytest.mark.parametrize(
    "kind", ["rubbish", "unknown task", "arguments by place", "a celery task", "no id", "odd id", "long id"]
)
def test_a_message_that_is_not_ours_goes_to_quarantine_as_it_came(
    acme: Organization, system: System, kind: str
) -> None:
    mark = f"mark-{uuid4()}"
    with Redis.from_url(system.settings.broker_url.get_secret_value()) as redis:
        raw = f"rubbish {mark}\xff".encode("latin-1") if kind == "rubbish" else message(kind, mark)
        redis.lpush(routes.POSTING_QUEUE, raw)
    acme.publish([journal("good1", 20), journal("good2", 3)])

    statement = "SELECT code, body FROM ledgermill.quarantine WHERE body = :raw"
    found = eventually(lambda: system.rows(statement, raw=raw))

    assert [row.code for row in found] == ["UNREADABLE_MESSAGE"]
    require_good_ones_posted(acme)


IDS = {"no id": {}, "odd id": {"id": "a\x00b"}, "long id": {"id": "x" * 1_000}}


def message(kind: str, mark: str) -> bytes:
    """A message as kombu writes it, but for one thing."""
    task = {"unknown task": "their.task", "a celery task": "celery.map"}.get(kind, routes.POST_JOURNALS.task)
    arguments = [mark] if kind == "arguments by place" else []
    headers = {"task": task, "lang": "py"} | IDS.get(kind, {"id": mark})
    tag = {"delivery_tag": mark, "delivery_info": {"exchange": "", "routing_key": "posting"}, "delivery_mode": 2}
    body = kombu_json([arguments, {}, {"callbacks": None}])
    envelope = {"body": body, "content-encoding": "utf-8", "content-type": "application/json", "headers": headers}
    return json.dumps({**envelope, "properties": tag}).encode()
