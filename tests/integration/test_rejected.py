"""The workbench for what failed: found, understood, mended and sent again, and never posted twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors
from running import Organization, System, eventually, journal
from test_cli import Cli

from ledgermill.runtime import now

UNKNOWN = "NOT-OPENED"


@pytest.fixture
def cli(system: System) -> Cli:
    return Cli(system.settings)


def refuse(acme: Organization, *keys: str, amount: int = 100, **more: Any) -> list[dict[str, Any]]:
    """Jobs that are refused, for an unknown ledger, in this order."""
    for key in keys:
        acme.post(journal(key, amount, **{"debit": UNKNOWN, **more}))
    return [acme.job(key) for key in keys]


def open_ledger(acme: Organization, code: str = UNKNOWN) -> None:
    assert acme.send("/v1/ledgers", {"code": code, "parent_ledger_code": "CASH"}).status_code == 201


def resend(acme: Organization, job_id: str, body: object = None) -> Any:
    return acme.send(f"/v1/rejected/{job_id}/resend", {} if body is None else body)


def ended(acme: Organization, job_id: str) -> Any:
    found = acme.get(f"/v1/jobs/{job_id}", prefer="wait=20").json()
    assert found["ended_at"], found
    return found


def listed(acme: Organization, **filters: Any) -> list[str]:
    return [job["idempotency_key"] for job in acme.get("/v1/rejected", **filters).json()["jobs"]]


# Listed and counted


def test_refused_jobs_are_listed_newest_first_and_by_every_filter(acme: Organization) -> None:
    acme.post(journal("posted"))
    refuse(acme, "u1", "u2")
    middle = now()
    acme.post(journal("poor", 10**9, debit="SALES", credit="TILL", transaction={"reference_id": 'INV-"7"'}))
    acme.send("/v1/ledgers/CASH/balance-updates", {"idempotency_key": "head", "type": "debit", "amount": 5})
    acme.job("head")

    assert listed(acme) == ["head", "poor", "u2", "u1"]
    assert listed(acme, code="LEDGER_NOT_FOUND") == ["u2", "u1"]
    assert listed(acme, kind="update_balance") == ["head"]
    assert listed(acme, state="quarantined") == []
    assert listed(acme, reference_id='INV-"7"') == ["poor"]
    assert listed(acme, reference_id="INV") == []
    assert listed(acme, text="NOT-opened") == ["u2", "u1"]
    assert listed(acme, rejected_from=middle.isoformat()) == ["head", "poor"]
    assert listed(acme, rejected_to=middle.isoformat()) == ["u2", "u1"]
    assert listed(acme, rejected_from=(now() + timedelta(hours=1)).isoformat()) == []
    assert listed(acme, rejected_to="1970-01-02T00:00:00Z") == []
    pages, before = [], None
    while True:
        page = acme.get("/v1/rejected", limit=1, **({"before": before} if before else {})).json()
        pages += [job["idempotency_key"] for job in page["jobs"]]
        if (before := page["next_before"]) is None:
            break
    assert pages == ["head", "poor", "u2", "u1"]


def test_refused_jobs_are_counted_by_code_and_kind(acme: Organization) -> None:
    acme.post(journal("posted"))
    first, _, last = refuse(acme, "u1", "u2", "u3")
    acme.send("/v1/ledgers/CASH/balance-updates", {"idempotency_key": "head", "type": "debit", "amount": 5})
    acme.job("head")
    resent = resend(acme, first["id"], {"patch": {"entries": {"0": {"ledger_code": "TILL"}}}}).json()
    ended(acme, resent["id"])

    summary = acme.get("/v1/rejected/summary").json()

    assert summary["is_complete"]
    assert [(c["code"], c["kind"], c["state"], c["jobs"], c["open_jobs"]) for c in summary["counts"]] == [
        ("LEDGER_NOT_FOUND", "post_journal", "rejected", 3, 2),
        ("HEAD_LEDGER", "update_balance", "rejected", 1, 1),
    ]
    assert (summary["counts"][0]["oldest"], summary["counts"][0]["newest"]) == (first["ended_at"], last["ended_at"])


# Shown


def test_a_refused_job_shows_what_was_asked_by_whom_and_what_became_of_it(acme: Organization) -> None:
    acme.post(journal("u", 7, debit=UNKNOWN), traceparent="trace-1")
    job = acme.job("u")

    shown = acme.get(f"/v1/rejected/{job['id']}").json()

    assert (shown["code"], shown["is_open"], shown["mended"], shown["resent"]) == ("LEDGER_NOT_FOUND", True, None, [])
    assert shown["details"] == {"field": "entries[0]", "ledger": UNKNOWN}
    assert shown["request"] == journal("u", 7, debit=UNKNOWN)
    assert shown["sent_by"]["kind"] == "key"
    assert shown["sent_by"]["name"].startswith("test ")  # the key's name and id
    assert shown["correlation_id"] == "trace-1"


def test_only_refused_jobs_are_in_the_workbench(acme: Organization, system: System) -> None:
    posted = acme.post(journal("p")).json()["id"]
    later = acme.post(journal("l", due_at=(now() + timedelta(hours=1)).isoformat())).json()["id"]

    for job_id, state in ((posted, "posted"), (later, "scheduled")):
        for answer in (acme.get(f"/v1/rejected/{job_id}"), resend(acme, job_id)):
            assert (answer.status_code, answer.json()["code"]) == (409, "JOB_NOT_REJECTED")
            assert answer.json()["details"]["state"] == state
    unknown = acme.get("/v1/rejected/01900000-0000-7000-8000-000000000000")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "JOB_NOT_FOUND")


# Rehearsed


def test_a_dry_run_tells_the_error_of_today_then_the_journal_and_writes_nothing(
    acme: Organization, system: System
) -> None:
    acme.post(journal("first", 40))
    (job,) = refuse(acme, "u", amount=7, transaction={"description": "Rent"})
    path = f"/v1/rejected/{job['id']}/dry-run"
    refused = acme.send(path, {}).json()
    mended = acme.send(path, {"patch": {"entries": {"0": {"ledger_code": "TILL"}}}}).json()
    open_ledger(acme)
    before = system.rows("SELECT count(*) FROM ledgermill.job"), acme.waiting()

    found = acme.send(path, b"").json()

    assert (refused["would_post"], refused["error"]["code"]) == (False, "LEDGER_NOT_FOUND")
    assert mended["journal"]["entries"][0]["balance_after"] == 47
    assert (found["would_post"], found["error"]) == (True, None)
    assert (found["journal"]["total_amount"], found["journal"]["description"]) == (7, "Rent")
    assert [(e["ledger_code"], e["type"], e["amount"], e["balance_after"]) for e in found["journal"]["entries"]] == [
        (UNKNOWN, "debit", 7, 7),
        ("SALES", "credit", 7, 47),
    ]
    balances = {b["ledger_code"]: (b["is_head"], b["before"], b["after"]) for b in found["journal"]["balances"]}
    assert balances == {
        UNKNOWN: (False, 0, 7),
        "SALES": (False, 40, 47),
        "CASH": (True, 40, 47),
        "CURRENT": (True, 40, 47),
        "ASSETS": (True, 40, 47),
        "INCOME": (True, 40, 47),
    }
    assert (system.rows("SELECT count(*) FROM ledgermill.job"), acme.waiting()) == before
    sent = resend(acme, job["id"]).json()
    assert ended(acme, sent["id"])["state"] == "posted"
    assert {code: acme.balance(code) for code in balances} == {code: after for code, (_, _, after) in balances.items()}


# Sent again


def test_a_job_that_is_sent_again_is_a_new_one_linked_to_the_first(acme: Organization) -> None:
    (job,) = refuse(acme, "u", amount=7)
    open_ledger(acme)

    answer = resend(acme, job["id"])

    sent = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/jobs/{sent['id']}")
    assert sent["id"] != job["id"]
    assert sent["idempotency_key"] == f"resend-1:{job['id']}"
    assert ended(acme, sent["id"])["state"] == "posted"
    assert acme.balance(UNKNOWN) == 7
    assert acme.job("u")["state"] == "rejected"  # the old key stays bound to what it was
    shown = acme.get(f"/v1/rejected/{job['id']}").json()
    (resent,) = shown["resent"]
    assert (shown["is_open"], resent["number"], resent["job"]["id"]) == (False, 1, sent["id"])
    assert (resent["mended_from"], resent["mended_by"]) == (job["id"], shown["sent_by"])
    assert resent["job"]["state"] == "posted"
    assert listed(acme, only_open=True) == []


def test_a_second_resend_is_refused_while_the_first_waits_and_once_it_is_posted(
    acme: Organization, system: System
) -> None:
    (job,) = refuse(acme, "u", amount=7)
    open_ledger(acme)
    system.set_state(acme.code, "paused")
    sent = resend(acme, job["id"]).json()
    while_waiting = resend(acme, job["id"])
    system.set_state(acme.code, "active")
    ended(acme, sent["id"])
    once_posted = resend(acme, job["id"])

    for answer, state in ((while_waiting, "accepted"), (once_posted, "posted")):
        assert (answer.status_code, answer.json()["code"]) == (409, "JOB_SENT_AGAIN")
        assert answer.json()["details"] == {"job": job["id"], "sent_as": sent["id"], "state": state}
    assert acme.balance(UNKNOWN) == 7
    again = resend(acme, job["id"], {"again": True}).json()
    assert (again["idempotency_key"], ended(acme, again["id"])["state"]) == (f"resend-2:{job['id']}", "posted")
    assert acme.balance(UNKNOWN) == 14


def test_of_many_who_send_the_same_at_one_moment_one_does(acme: Organization) -> None:
    (job,) = refuse(acme, "u", amount=7)
    open_ledger(acme)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: resend(acme, job["id"]), range(24)))

    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 23
    (sent,) = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    ended(acme, sent)
    assert acme.balance(UNKNOWN) == 7


def test_a_resend_that_is_refused_too_opens_the_family_again_and_one_of_it_is_posted(acme: Organization) -> None:
    (job,) = refuse(acme, "u", amount=7)
    second = ended(acme, resend(acme, job["id"], {"patch": {"entries": {"0": {"ledger_code": "CLOSED"}}}}).json()["id"])
    assert second["error"]["code"] == "LEDGER_INACTIVE"
    assert listed(acme, only_open=True) == [f"resend-1:{job['id']}"]  # the newest stands for all

    third = ended(acme, resend(acme, job["id"], {"patch": {"entries": {"0": {"ledger_code": "TILL"}}}}).json()["id"])

    assert third["state"] == "posted"
    refused = resend(acme, second["id"])
    assert (refused.status_code, refused.json()["details"]["sent_as"]) == (409, third["id"])
    assert listed(acme, only_open=True) == []
    shown = acme.get(f"/v1/rejected/{second['id']}").json()
    assert shown["mended"]["mended_from"] == job["id"]
    assert [(one["number"], one["job"]["id"]) for one in shown["resent"]] == [(2, third["id"])]


def test_a_mend_that_is_wrong_by_itself_makes_no_job(acme: Organization) -> None:
    (job,) = refuse(acme, "u", amount=7)

    for body, code in (
        ({"patch": {"entries": {"0": {"amount": 1.5}}}}, "INVALID_AMOUNT"),
        ({"patch": {"entries": {"0": {"amount": 8}}}}, "UNBALANCED"),
        ({"patch": {"entries": {"2": {"amount": 8}}}}, "INVALID_FIELD"),
        ({"patch": {"colour": "red"}}, "UNKNOWN_FIELD"),
        ({"replacement": {}}, "MISSING_FIELD"),
        ({"replacement": journal(None), "patch": {}}, "INVALID_FIELD"),
        ({"idempotency_key": ""}, "INVALID_IDEMPOTENCY_KEY"),
        ({"agian": True}, "UNKNOWN_FIELD"),
    ):
        answer = resend(acme, job["id"], body)
        assert (answer.status_code, answer.json()["code"]) == (400, code), body
    bound = resend(acme, job["id"], {"idempotency_key": "u"})
    assert (bound.status_code, bound.json()["code"]) == (409, "KEY_REUSED")
    assert listed(acme, only_open=True) == ["u"]

    replaced = resend(acme, job["id"], {"replacement": journal("mine", 9)}).json()
    assert (replaced["idempotency_key"], ended(acme, replaced["id"])["state"]) == ("mine", "posted")


def test_what_could_not_even_be_read_is_shown_and_replaced(acme: Organization) -> None:
    acme.publish([journal("good"), 17, journal("bad\n")], task_id="foreign-1")
    acme.job("good")
    page = acme.get("/v1/rejected").json()["jobs"]

    shown = [acme.get(f"/v1/rejected/{job['id']}").json()["request"] for job in page]

    assert shown == [journal("bad\n"), 17]
    as_it_was = resend(acme, page[1]["id"])
    assert (as_it_was.status_code, as_it_was.json()["code"]) == (400, "INVALID_FIELD")
    sent = resend(acme, page[0]["id"]).json()  # all that was wrong is the key, and it gets a new one
    assert ended(acme, sent["id"])["state"] == "posted"
    replaced = resend(acme, page[1]["id"], {"replacement": journal(None, 3)}).json()
    assert ended(acme, replaced["id"])["state"] == "posted"
    assert acme.balance("TILL") == 203


def test_a_link_is_the_callers_own_and_stays_as_it_is(acme: Organization, system: System) -> None:
    (job,) = refuse(acme, "u")
    resend(acme, job["id"])
    settings = system.settings
    values = "gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 1, now()"
    for role, table in (("owner", "ledgermill"), ("worker", "ledgermill"), ("api", "ledgermill_api")):
        with psycopg.connect(settings.url_of(role), autocommit=True) as connection:
            for change in ("UPDATE {}.mending SET number = 9", "DELETE FROM {}.mending"):
                with pytest.raises((errors.InsufficientPrivilege, errors.RestrictViolation)):
                    connection.execute(change.format(table))
            if role != "owner":
                with pytest.raises((errors.InsufficientPrivilege, errors.WithCheckOptionViolation)):
                    connection.execute(f"INSERT INTO {table}.mending VALUES (1, {values})")


# In bulk


def test_many_are_sent_in_steps_in_their_order_and_a_repeated_step_sends_nothing(acme: Organization) -> None:
    jobs = refuse(acme, *(f"u{number}" for number in range(7)))
    acme.post(journal("head", debit="CASH"))
    acme.job("head")
    ask: dict[str, Any] = {"filter": {"code": "LEDGER_NOT_FOUND"}, "limit": 3}
    planned = acme.send("/v1/rejected/resend", {**ask, "dry_run": True}).json()
    open_ledger(acme)
    planned_again = acme.send("/v1/rejected/resend", {**ask, "dry_run": True}).json()

    first = acme.send("/v1/rejected/resend", ask).json()
    steps, step = [first], first
    while step["next_after"] is not None:
        on = {"after": step["next_after"], "until": step["until"]}
        step = acme.send("/v1/rejected/resend", {**ask, **on}).json()
        steps.append(step)
    repeated = acme.send("/v1/rejected/resend", ask).json()

    assert (planned["sent"], [one["code"] for one in planned["not_sent"]]) == ([], ["LEDGER_NOT_FOUND"] * 3)
    assert (planned_again["sent"], planned_again["not_sent"]) == ([job["id"] for job in jobs[:3]], [])
    assert [(len(each["sent"]), each["remaining"]) for each in steps[:3]] == [(3, 4), (3, 1), (1, 0)]
    assert (repeated["sent"], repeated["remaining"]) == ([], 0)
    sent = [job_id for each in steps for job_id in each["sent"]]
    assert [ended(acme, job_id)["idempotency_key"] for job_id in sent] == [f"resend-1:{job['id']}" for job in jobs]
    assert acme.balance(UNKNOWN) == 700
    assert listed(acme, only_open=True) == ["head"]


def test_steps_that_run_side_by_side_send_each_job_once(acme: Organization) -> None:
    acme.publish([journal(f"u{number}", 1, debit=UNKNOWN) for number in range(200)])
    acme.job("u199")
    open_ledger(acme)

    with ThreadPoolExecutor(4) as threads:
        steps = list(
            threads.map(
                lambda _: acme.send("/v1/rejected/resend", {"filter": {}, "limit": 200}).json()["sent"], range(4)
            )
        )

    sent = [job_id for step in steps for job_id in step]
    assert len(set(sent)) == len(sent) == 200
    eventually(lambda: acme.waiting() == 0)
    assert acme.balance(UNKNOWN) == 200


def test_what_is_wrong_by_itself_is_left_out_of_a_run_and_stays_open(acme: Organization) -> None:
    acme.publish([journal("good", debit=UNKNOWN), {"idempotency_key": "bad", "entries": []}, 17])
    acme.job("good")
    acme.job("bad")
    patch = {"entries": {"0": {"ledger_code": "TILL"}}}

    done = acme.send("/v1/rejected/resend", {"filter": {}, "patch": patch}).json()

    assert len(done["sent"]) == 1
    assert [one["code"] for one in done["not_sent"]] == ["INVALID_FIELD"] * 2
    assert (done["next_after"], done["remaining"]) == (None, 0)
    assert ended(acme, done["sent"][0])["state"] == "posted"
    assert sum(count["open_jobs"] for count in acme.get("/v1/rejected/summary").json()["counts"]) == 2


def test_what_may_be_posted_under_its_key_is_sent_only_where_that_is_asked_for(acme: Organization) -> None:
    acme.post(journal("k", 100))
    acme.publish([journal("k", 7), journal("after", 1)])
    acme.job("after")

    by_all = acme.send("/v1/rejected/resend", {"filter": {}}).json()
    by_code = acme.send("/v1/rejected/resend", {"filter": {"code": "KEY_REUSED"}}).json()

    assert (by_all["sent"], [one["code"] for one in by_all["not_sent"]]) == ([], ["KEY_REUSED"])
    assert ended(acme, by_code["sent"][0])["state"] == "posted"
    assert acme.balance("TILL") == 108


# From the command line


def test_the_command_line_counts_lists_and_shows_what_was_refused(acme: Organization, cli: Cli) -> None:
    first, last = refuse(acme, "u0", "u1")
    refuse(acme, "head", debit="CASH")
    of = ("-o", acme.code)

    summary = cli("rejected", "summary", *of).stdout
    table = cli("rejected", "list", *of, "--code", "LEDGER_NOT_FOUND", "--limit", "1")
    as_json = json.loads(cli("rejected", "list", *of, "--kind", "post_journal", "--open", "--json").stdout)
    shown = cli("rejected", "show", first["id"], *of).stdout

    assert [line.split()[:5] for line in summary.splitlines()[1:]] == [
        ["LEDGER_NOT_FOUND", "post_journal", "rejected", "2", "2"],
        ["HEAD_LEDGER", "post_journal", "rejected", "1", "1"],
    ]
    assert last["id"] in table.stdout
    assert "--before 2" in table.stderr
    assert len(as_json["jobs"]) == 3
    assert all(part in shown for part in (first["id"], "LEDGER_NOT_FOUND", '"idempotency_key": "u0"', "key test "))


def test_the_command_line_rehearses_and_sends_one(acme: Organization, cli: Cli, tmp_path: Path) -> None:
    (job,) = refuse(acme, "u", amount=7)
    of = ("-o", acme.code)
    mend = ("--set", "entries.0.ledger_code=TILL")
    file = tmp_path / "mended.json"
    file.write_text(json.dumps(journal("mine", 5)))

    assert "Would be refused: LEDGER_NOT_FOUND" in cli("rejected", "dry-run", job["id"], *of, exits_with=1).stdout
    assert "Would post" in cli("rejected", "resend", job["id"], *of, *mend, "--dry-run").stdout
    assert f"resend-1:{job['id']}" in cli("rejected", "resend", job["id"], *of, *mend).stdout
    ended(acme, acme.job(f"resend-1:{job['id']}")["id"])
    assert "JOB_SENT_AGAIN" in cli("rejected", "resend", job["id"], *of, *mend, exits_with=1).stderr
    cli("rejected", "resend", job["id"], *of, "--file", file, "--again")
    assert acme.job("mine")["state"] == "posted"

    assert acme.balance("TILL") == 12
    shown = cli("rejected", "show", job["id"], *of).stdout
    assert [line.split()[2] for line in shown.splitlines() if " by cli " in line] == ["posted", "posted"]


def test_the_command_line_sends_what_a_filter_finds_and_a_second_run_sends_nothing(
    acme: Organization, cli: Cli
) -> None:
    refuse(acme, "u0", "u1", "u2", debit="TILL", transaction={"value_date": "2999-01-01"})
    refuse(acme, "head", debit="CASH")
    mend = ("--set", "transaction.value_date=2026-06-02")
    run = ("rejected", "resend", "-o", acme.code, "--code", "FUTURE_VALUE_DATE", "--from", "2026-01-01", *mend)

    assert "Would post: 3" in cli(*run, "--dry-run").stdout
    assert "Aborted" in cli(*run, exits_with=1).stderr  # nobody there to say yes
    assert "Sent: 3" in cli(*run, "--yes").stdout
    assert "Sent" not in cli(*run, "--yes").stdout
    eventually(lambda: acme.waiting() == 0)

    assert acme.balance("TILL") == 300
    assert listed(acme, only_open=True) == ["head"]


def test_a_request_is_mended_in_the_editor(acme: Organization, system: System, tmp_path: Path) -> None:
    (job,) = refuse(acme, "u", amount=7)
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\nsed -i 's/{UNKNOWN}/TILL/' \"$1\"\n")
    editor.chmod(0o755)
    cli = Cli(system.settings, EDITOR=str(editor), VISUAL="")

    cli("rejected", "resend", job["id"], "-o", acme.code, "--edit")

    eventually(lambda: acme.balance("TILL") == 7)
    nothing = Cli(system.settings, EDITOR="true", VISUAL="")
    assert "Aborted" in nothing("rejected", "resend", job["id"], "-o", acme.code, "--edit", exits_with=1).stderr


def test_a_run_without_a_filter_or_with_too_much_is_refused(acme: Organization, cli: Cli) -> None:
    job_id = "01900000-0000-7000-8000-000000000000"
    for arguments in ((), (job_id, "--all"), ("--all", "--again")):
        assert "INVALID_FIELD" in cli("rejected", "resend", "-o", acme.code, *arguments, exits_with=1).stderr


# Whole messages in quarantine


def test_a_message_of_an_organization_that_is_created_later_is_given_back_and_settled_once(
    system: System, cli: Cli
) -> None:
    code = f"late-{now().timestamp():.0f}"
    task_id = system.publish("post_journals", organization=code, journals=[journal(None, 5), journal("k", 2)])
    kept = eventually(lambda: system.rows("SELECT quarantine_id FROM ledgermill.quarantine"))[0][0]
    cli("organization", "create", code, "--name", "Late", "--base-currency", "USD", "--time-zone", "UTC")
    late = Organization(system, code, system.new_key(code))
    chart = [{"code": "TILL", "type": "asset"}, {"code": "SALES", "type": "income"}]
    assert late.send("/v1/ledgers/import", chart).status_code == 201

    assert "posting again" in cli("quarantine", "requeue", str(kept)).stdout
    eventually(lambda: late.balance("TILL") == 7)
    cli("quarantine", "requeue", str(kept))  # by mistake
    nothing_left = cli("quarantine", "requeue", "--code", "ORGANIZATION_NOT_FOUND").stdout

    assert task_id
    assert nothing_left == "Given back: 0\n"
    (row,) = json.loads(cli("quarantine", "list", "--json").stdout)
    assert row["requeued_at"]
    late.publish([journal("after", 1)])
    late.job("after")
    assert late.balance("TILL") == 8


def test_a_broker_that_is_away_drops_nothing_of_the_quarantine(system: System) -> None:
    system.publish("post_journals", organization="nobody-at-all", journals=[journal(None, 5)])
    eventually(lambda: system.rows("SELECT 1 FROM ledgermill.quarantine WHERE reason LIKE '%nobody-at-all%'"))
    away = Cli(system.settings, BROKER_URL="redis://127.0.0.1:1/0")

    failed = away("quarantine", "requeue", "--code", "ORGANIZATION_NOT_FOUND", exits_with=2)

    assert "BROKER_UNAVAILABLE" in failed.stderr
    statement = "SELECT 1 FROM ledgermill.requeue JOIN ledgermill.quarantine USING (quarantine_id) WHERE reason LIKE :r"
    assert system.rows(statement, r="%nobody-at-all%") == []
    assert system.rows("SELECT 1 FROM ledgermill.quarantine WHERE reason LIKE '%nobody-at-all%'")
