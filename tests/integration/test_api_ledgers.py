"""Ledgers over HTTP: opened one by one and as whole charts, found by any name, shown with exact balances."""

import csv
import io
import random
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from running import CHART, Organization, System, journal

# The request of document 002, with its examples, and all fields of its answer.
REQUEST_OF_002 = {
    "code": "MAIN-USD-001",
    "description": "Main USD Operating Account",
    "type": "asset",
    "currency_id": "550e8400-e29b-41d4-a716-446655440000",
    "currency_code": "USD",
}
FIELDS_OF_002 = {
    *("id", "code", "description", "type", "currency_id", "currency_code", "balance_current", "balance_available"),
    *("overdraft_enabled", "overdraft_limit", "last_activity_date", "opening_date", "closing_date"),
    *("parent_ledger_id", "child_ledger_ids", "created_at", "created_by", "modified_at", "modified_by", "active"),
    "metadata",
}
LARGEST = 10**38 - 1


@pytest.fixture
def blank(system: System) -> Organization:
    """An organization that has no chart yet."""
    return system.new_organization(chart=[])


def ledger_of(organization: Organization, name: object) -> dict[str, Any]:
    answer = organization.get(f"/v1/ledgers/{name}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["ledger"])


def test_a_ledger_is_opened_with_the_request_of_document_002_and_shown_with_all_its_fields(
    blank: Organization,
) -> None:
    parent = blank.send("/v1/ledgers", {"code": "MAIN", "type": "asset", "is_head": True}).json()["ledger"]
    optional = {
        "balance_available": 100_000,
        "overdraft_enabled": True,
        "overdraft_limit": 5_000,
        "opening_date": "2023-11-07T05:31:56Z",
        "parent_ledger_id": parent["id"],
        "metadata": {"branch": "north"},
    }

    plain = blank.send("/v1/ledgers", {**REQUEST_OF_002, "code": "MAIN-USD-000"})
    answer = blank.send("/v1/ledgers", {**REQUEST_OF_002, **optional})

    assert (plain.status_code, answer.status_code) == (201, 201), answer.text
    assert answer.json().keys() == {"ledger"}
    shown = answer.json()["ledger"]
    assert shown.keys() >= FIELDS_OF_002
    assert {name: shown[name] for name in REQUEST_OF_002} == REQUEST_OF_002
    assert (shown["balance_current"], shown["balance_available"]) == (0, 5_000)
    assert (shown["overdraft_enabled"], shown["overdraft_limit"], shown["active"]) == (True, 5_000, True)
    assert shown["opening_date"] == "2023-11-07"
    assert (shown["last_activity_date"], shown["closing_date"]) == (None, None)
    assert shown["parent_ledger_id"] == parent["id"]
    assert shown["child_ledger_ids"] == []
    assert shown["metadata"] == {"branch": "north"}
    assert UUID(shown["created_by"]) == UUID(shown["modified_by"])
    assert answer.headers["Location"] == f"/v1/ledgers/{shown['id']}"
    assert ledger_of(blank, shown["id"]) == shown
    assert ledger_of(blank, "MAIN")["child_ledger_ids"] == [shown["id"]]


def test_an_opening_balance_is_refused_and_not_left_out_silently(blank: Organization) -> None:
    refused = blank.send("/v1/ledgers", {**REQUEST_OF_002, "balance_current": 100_000})

    assert refused.status_code == 400
    assert refused.json()["details"]["field"] == "balance_current"
    assert blank.send("/v1/ledgers", {**REQUEST_OF_002, "balance_current": 0}).status_code == 201


def test_the_currency_code_decides_and_its_id_is_bound_on_first_use(blank: Organization) -> None:
    base_id = ledger_of(blank, "SUSPENSE")["currency_id"]

    without_id = blank.send("/v1/ledgers", {"code": "A", "type": "asset"})
    with_known_id = blank.send("/v1/ledgers", {"code": "B", "type": "asset", "currency_id": base_id})

    assert without_id.json()["ledger"]["currency_id"] == base_id
    assert with_known_id.json()["ledger"]["currency_id"] == base_id


def test_an_id_that_stands_for_another_currency_is_refused(blank: Organization) -> None:
    blank.send("/v1/ledgers", REQUEST_OF_002)

    refused = blank.send("/v1/ledgers", {**REQUEST_OF_002, "code": "NEXT", "currency_id": str(uuid4())})

    assert (refused.status_code, refused.json()["code"]) == (422, "CURRENCY_MISMATCH")
    assert blank.get("/v1/ledgers/NEXT").status_code == 404


ERRORS: list[tuple[dict[str, Any], int, str]] = [
    ({"code": "TILL", "type": "asset"}, 409, "CODE_TAKEN"),
    ({"code": "NEW", "type": "asset", "ledger_num_id": 1010000101}, 409, "NUMBER_TAKEN"),
    ({"code": "NEW", "parent_ledger_code": "TILL"}, 422, "PARENT_IS_LEAF"),
    ({"code": "NEW", "parent_ledger_code": "NONE"}, 404, "LEDGER_NOT_FOUND"),
    ({"code": "NEW", "parent_ledger_id": str(uuid4())}, 404, "LEDGER_NOT_FOUND"),
    ({"code": "NEW", "parent_ledger_code": "ASSETS", "type": "income"}, 422, "TYPE_MISMATCH"),
    (
        {"code": "NEW", "parent_ledger_code": "ASSETS", "parent_ledger_num_id": 1010000101},
        400,
        "LEDGER_REFERENCE_CONFLICT",
    ),
    ({"code": "NEW", "type": "asset", "currency_code": "EUR"}, 422, "CURRENCY_NOT_SUPPORTED"),
    ({"code": "NEW", "type": "asset", "currency_code": "XYZ"}, 400, "INVALID_FIELD"),
    ({"code": "NEW"}, 400, "INVALID_FIELD"),
    ({"code": "NEW", "type": "assets"}, 400, "INVALID_FIELD"),
    ({"code": "NEW", "type": "asset", "type_code": 401}, 400, "INVALID_FIELD"),
    ({"code": "NEW", "type": "asset", "overdraft_limit": -1}, 400, "INVALID_FIELD"),
    ({"code": "NEW", "type": "asset", "overdraft_limit": 10**38}, 400, "INVALID_FIELD"),
    ({"code": "NEW", "type": "asset", "opening_date": "soon"}, 400, "INVALID_FIELD"),
    ({"code": "NEW", "type": "asset", "colour": "red"}, 400, "UNKNOWN_FIELD"),
    ({"code": "journals", "type": "asset"}, 400, "INVALID_FIELD"),
    ({"code": "1010000101", "type": "asset"}, 400, "INVALID_FIELD"),
    ({"code": "1010000999", "type": "asset", "ledger_num_id": 1010000998}, 400, "INVALID_FIELD"),
    ({"code": "3c90c3cc-0d44-4b50-8888-8dd25736052a", "type": "asset"}, 400, "INVALID_FIELD"),
    ({"type": "asset"}, 400, "MISSING_FIELD"),
]


@pytest.mark.parametrize(("item", "status", "code"), ERRORS)
def test_a_ledger_that_cannot_be_opened_is_refused_with_its_code(
    acme: Organization, item: dict[str, Any], status: int, code: str
) -> None:
    refused = acme.send("/v1/ledgers", item)

    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text


@pytest.mark.parametrize("body", [b"", b"[]", b"{} {}", b"{", b"7", b"{},{}", b"\xff"])
def test_a_body_that_is_no_ledger_is_refused(acme: Organization, body: bytes) -> None:
    for path in ("/v1/ledgers", "/v1/ledgers/import"):
        assert acme.send(path, body).status_code == 400


def test_an_import_is_all_or_nothing_and_names_the_place_of_every_error(blank: Organization) -> None:
    items = [{"code": "GOOD", "type": "asset"}, *(item for item, _, _ in ERRORS)]
    items = [item for item in items if item.get("code") != "TILL" and item.get("ledger_num_id") is None]
    loop = [{"code": f"L{n}", "parent_ledger_code": f"L{(n + 1) % 3}"} for n in range(3)]
    twice = [{"code": "GOOD", "type": "income"}]

    refused = blank.send("/v1/ledgers/import", [*items, *loop, *twice])

    assert refused.status_code == 400
    problems = {problem["at"]: problem["code"] for problem in refused.json()["details"]["problems"]}
    count = len(items) + len(loop) + 1
    assert refused.json()["details"]["count"] == len(problems)
    assert problems[f"item {count}"] == "CODE_TAKEN"
    assert set(problems) >= {f"item {place}" for place in range(2, len(items) + 1)}
    assert {f"item {place}" for place in range(len(items) + 1, len(items) + 4)} & set(problems)
    assert "item 1" not in problems
    assert [ledger["code"] for ledger in blank.get("/v1/ledgers").json()["ledgers"]] == ["SUSPENSE"]


def test_a_currency_id_that_an_import_cannot_bind_is_named_with_its_place(blank: Organization) -> None:
    ledgers = [{**REQUEST_OF_002, "code": "A"}, {**REQUEST_OF_002, "code": "B", "currency_id": str(uuid4())}]

    refused = blank.send("/v1/ledgers/import", ledgers)

    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_CHART")
    problems = [(problem["at"], problem["code"]) for problem in refused.json()["details"]["problems"]]
    assert problems == [("item 2", "CURRENCY_MISMATCH")]


def test_the_errors_of_a_csv_file_are_named_by_line(blank: Organization) -> None:
    text = 'code,description,type,is_head\nA,"two\nlines",asset,yes\nB,,nothing,\nC,,asset,perhaps\n'

    refused = blank.send("/v1/ledgers/import", text.encode(), content_type="text/csv")

    assert [problem["at"] for problem in refused.json()["details"]["problems"]] == ["line 4", "line 5"]


@pytest.mark.parametrize("form", ["JSON", "CSV"])
def test_five_thousand_ledgers_in_any_order_are_opened_in_one_go(system: System, form: str) -> None:
    blank = system.new_organization(chart=[])
    tops = [{"code": f"T{n}", "type": ("asset", "income")[n % 2]} for n in range(10)]
    middles = [{"code": f"M{n}", "parent_ledger_code": f"T{n % 10}"} for n in range(90)]
    leaves = [
        {"code": f"X{n}", "parent_ledger_code": f"M{n % 90}", "name": f'Leaf "{n}"', "ledger_num_id": 1_500_000_000 + n}
        for n in range(4_900)
    ]
    items: list[dict[str, Any]] = [*tops, *middles, *leaves]
    random.Random(5).shuffle(items)
    body: object = items
    if form == "CSV":
        file = io.StringIO()
        writer = csv.DictWriter(file, ["code", "type", "parent_ledger_code", "name", "ledger_num_id"])
        writer.writeheader()
        writer.writerows(items)
        body = file.getvalue().encode()

    started = time.monotonic()
    answer = blank.send("/v1/ledgers/import", body)
    took_s = time.monotonic() - started

    assert answer.status_code == 201, answer.text
    assert answer.json()["opened"] == len(answer.json()["ledger_ids"]) == 5_000
    assert took_s < 10
    for place in (0, 2_500, 4_999):
        assert ledger_of(blank, items[place]["code"])["id"] == answer.json()["ledger_ids"][place]
    leaf = ledger_of(blank, 1_500_000_007)
    assert (leaf["code"], leaf["name"], leaf["type"], leaf["is_head"]) == ("X7", 'Leaf "7"', "income", False)
    middle = ledger_of(blank, "M7")
    assert middle["is_head"]
    assert len(middle["child_ledger_ids"]) == len(range(7, 4_900, 90))
    assert len(str(middle["ledger_num_id"])) == 10
    assert blank.post(journal("k1", 5, debit="X0", credit="X1")).status_code == 201
    assert blank.get("/v1/ledgers/T0/tree").json()["ledgers"][0]["balance_current"] == 5
    assert len(blank.get("/v1/ledgers/tree").json()["ledgers"]) == 11  # SUSPENSE too


def test_a_ledger_is_found_by_id_code_and_number_wherever_one_is_named(acme: Organization) -> None:
    till, bank = ledger_of(acme, "TILL"), ledger_of(acme, "BANK")
    names = [till["id"], till["id"].upper(), "TILL", "1010000101"]
    for count, name in enumerate(names, 1):
        update = {"type": "debit", "amount": 1, "contra": {"ledger_id": bank["id"]}}
        if count == 1:
            acme.post(journal("k0", 10, debit="BANK"))
        assert acme.send(f"/v1/ledgers/{name}/balance-updates", update).status_code == 201
        assert ledger_of(acme, name)["id"] == till["id"]
        assert acme.balance(name) == count
        assert len(acme.get(f"/v1/ledgers/{name}/entries").json()["entries"]) == count
        assert acme.get(f"/v1/ledgers/{name}/children").json()["ledgers"] == []
        assert acme.get(f"/v1/ledgers/{name}/tree").json()["ledgers"][0]["id"] == till["id"]
        changed = acme.send(f"/v1/ledgers/{name}", {"active": True}, method="PATCH").json()
        assert changed["ledger"]["id"] == till["id"]
    three_names = {"ledger_id": till["id"].upper(), "ledger_code": "TILL", "ledger_num_id": "1010000101"}
    entries = [{**three_names, "type": "debit", "amount": 5}, {"ledger_code": "SALES", "type": "credit", "amount": 5}]
    assert acme.post({"entries": entries}).status_code == 201
    child = acme.send(
        "/v1/ledgers", {"code": "UNDER", "parent_ledger_num_id": ledger_of(acme, "CASH")["ledger_num_id"]}
    )
    assert child.json()["ledger"]["parent_ledger_id"] == till["parent_ledger_id"]


def test_heads_show_the_sums_of_what_is_below_them(acme: Organization) -> None:
    acme.post(journal("k1", 700))
    acme.post(journal("k2", 50, debit="BANK"))
    acme.post(journal("k3", 8, debit="CLAIMS"))
    acme.post(journal("k4", 30, debit="BANK", credit="TILL"))

    balance = acme.get("/v1/ledgers/CASH/balance").json()
    sums = (balance["balance_current"], balance["total_debits"], balance["total_credits"], balance["version"])
    assert sums == (750, 780, 30, 4)
    assert (balance["is_head"], balance["entry_count"], balance["held"]) == (True, 0, 0)
    assert balance["last_activity_date"] is not None
    till = acme.get("/v1/ledgers/TILL/balance").json()
    assert (till["balance_current"], till["balance_available"], till["entry_count"], till["version"]) == (
        670,
        670,
        2,
        2,
    )

    children = acme.get("/v1/ledgers/CURRENT/children").json()["ledgers"]
    assert [(child["code"], child["balance_current"]) for child in children] == [
        ("CASH", 750),
        ("CLAIMS", 8),
        ("CLOSED", 0),
    ]
    first = acme.get("/v1/ledgers/CURRENT/children", limit=2).json()
    rest = acme.get("/v1/ledgers/CURRENT/children", limit=2, after=first["next_after"]).json()
    assert [child["code"] for page in (first, rest) for child in page["ledgers"]] == ["CASH", "CLAIMS", "CLOSED"]
    assert rest["next_after"] is None

    def total(node: dict[str, Any]) -> int:
        if node["is_head"]:
            assert node["balance_current"] == sum(total(child) for child in node["children"])
        return int(node["balance_current"])

    trees = acme.get("/v1/ledgers/tree").json()["ledgers"]
    assert {node["code"]: total(node) for node in trees} == {"ASSETS": 758, "INCOME": 758, "CARD": 0, "SUSPENSE": 0}


def test_all_ledgers_are_listed_page_by_page(acme: Organization) -> None:
    seen: list[str] = []
    after = ""
    while True:
        page = acme.get("/v1/ledgers", limit=3, after=after).json()
        seen += [ledger["code"] for ledger in page["ledgers"]]
        if page["next_after"] is None:
            break
        after = page["next_after"]

    assert seen == sorted([*(item["code"] for item in CHART), "SUSPENSE"])


def test_entries_come_newest_first_with_running_balances_page_by_page(acme: Organization) -> None:
    amounts = list(range(1, 51))
    acme.post([journal(f"k{n}", n, transaction={"description": f"no {n}"}) for n in amounts], prefer="wait=10")
    seen: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"limit": 12}
    while True:
        page = acme.get("/v1/ledgers/SALES/entries", **parameters).json()
        seen += page["entries"]
        if page["next_below"] is None:
            break
        parameters["below"] = page["next_below"]

    assert [entry["number"] for entry in seen] == amounts[::-1]
    assert [entry["amount"] for entry in seen] == amounts[::-1]
    assert [entry["balance_after"] for entry in seen] == [n * (n + 1) // 2 for n in amounts[::-1]]  # credits count up
    assert seen[0]["description"] == "no 50"
    entry = seen[0]
    shown = acme.get(f"/v1/ledgers/journals/{entry['journal_id']}").json()
    assert [line["id"] for line in shown["entries"]][1] == entry["id"]
    assert acme.get("/v1/ledgers/INCOME/entries").json()["entries"] == []


def test_a_ledger_that_is_not_active_takes_no_entries_until_it_is_again(acme: Organization) -> None:
    off = acme.send("/v1/ledgers/TILL", {"active": False}, method="PATCH")
    refused = acme.post(journal("k1"))
    on = acme.send("/v1/ledgers/TILL", {"active": True}, method="PATCH")
    posted = acme.post(journal("k2"))

    assert (off.json()["ledger"]["active"], on.json()["ledger"]["active"]) == (False, True)
    assert (refused.status_code, refused.json()["code"]) == (422, "LEDGER_INACTIVE")
    assert posted.status_code == 201
    for body in ({"active": "no"}, {}, {"active": True, "name": "x"}, []):
        assert acme.send("/v1/ledgers/TILL", body, method="PATCH").status_code == 400


def test_a_ledger_takes_entries_within_its_dates_only(acme: Organization) -> None:
    dates = {"opening_date": "2026-01-01", "closing_date": "2026-06-30"}
    acme.send("/v1/ledgers", {"code": "YEAR", "type": "asset", **dates})
    codes = {
        day: acme.post(journal(None, 1, debit="YEAR", transaction={"value_date": day})).json().get("code")
        for day in ("2025-12-31", "2026-01-01", "2026-06-30", "2026-07-01")
    }

    assert codes == {
        "2025-12-31": "LEDGER_NOT_OPEN",
        "2026-01-01": None,
        "2026-06-30": None,
        "2026-07-01": "LEDGER_NOT_OPEN",
    }


def test_an_overdraft_is_available_to_its_limit_and_no_further(acme: Organization) -> None:
    overdraft = {"overdraft_enabled": True, "overdraft_limit": 500}
    acme.send("/v1/ledgers", {"code": "CREDIT-LINE", "parent_ledger_code": "CASH", **overdraft})

    assert acme.post(journal("k1", 500, debit="TILL", credit="CREDIT-LINE")).status_code == 201
    refused = acme.post(journal("k2", 1, debit="TILL", credit="CREDIT-LINE"))

    assert refused.json()["code"] == "INSUFFICIENT_BALANCE"
    shown = ledger_of(acme, "CREDIT-LINE")
    assert (shown["balance_current"], shown["balance_available"]) == (-500, 0)


def test_amounts_of_38_digits_survive_exactly_in_every_answer(acme: Organization) -> None:
    limit = {"overdraft_enabled": True, "overdraft_limit": LARGEST}
    assert (
        acme.send("/v1/ledgers", {"code": "DEEP", "type": "liability", **limit}).json()["ledger"]["overdraft_limit"]
        == LARGEST
    )
    refused = acme.post(journal("k0", LARGEST, debit="SALES", credit="TILL"))
    posted = acme.post(journal("k1", LARGEST))
    too_much = acme.post(journal("k2", 1))

    assert posted.status_code == 201, posted.text
    journal_id = posted.json()["id"]
    assert posted.json()["total_amount"]["amount"] == str(LARGEST)
    assert [entry["amount"] for entry in posted.json()["entries"]] == [LARGEST] * 2
    assert [entry["balance_after"] for entry in posted.json()["entries"]] == [LARGEST] * 2
    assert acme.get(f"/v1/jobs/{journal_id}").json()["total_amount"] == LARGEST
    assert acme.balance("TILL") == acme.balance("ASSETS") == LARGEST
    assert acme.get("/v1/ledgers/TILL/balance").json()["total_debits"] == LARGEST
    assert ledger_of(acme, "TILL")["balance_available"] == LARGEST
    assert acme.get("/v1/ledgers/ASSETS/tree").json()["ledgers"][0]["balance_current"] == LARGEST
    assert acme.get("/v1/ledgers/TILL/entries").json()["entries"][0]["balance_after"] == LARGEST
    assert acme.get("/v1/outcomes").json()["outcomes"][1]["job"]["total_amount"] == LARGEST
    assert refused.json()["details"]["taken"] == LARGEST
    assert too_much.status_code == 422
    assert too_much.json()["code"] == "BALANCE_OUT_OF_RANGE"


def test_a_head_whose_sum_would_not_fit_refuses_the_journal_alone(acme: Organization) -> None:
    assert acme.post(journal("k1", LARGEST)).status_code == 201

    items = [journal("k2", 1, debit="SUSPENSE", credit="CARD"), journal("k3", 9, debit="BANK", credit="SUSPENSE")]
    batch = acme.post(items, prefer="wait=10").json()

    assert batch["counts"] == {"posted": 1, "rejected": 1}
    assert acme.job("k3")["error"]["code"] == "DATABASE_REFUSED"
    assert (acme.balance("CARD"), acme.balance("BANK"), acme.balance("CASH")) == (1, 0, LARGEST)
