"""Verify finds nothing in books that were posted, and finds every promise that somebody broke with SQL."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tampering import A_JOB, OF_ACME, deliver, failed, journal, report_of, tamper, two_organizations

from ledgermill.config import Settings
from ledgermill.embedded.postgres import PostgresServer
from ledgermill.errors import OrganizationNotFound
from ledgermill.runtime import Runtime, new_batch_id
from ledgermill.storage.checks import CHECKS
from ledgermill.usecases import delivery


@pytest.fixture
def worker(settings: Settings) -> Iterator[Runtime]:
    runtime = Runtime(settings, role="worker")
    yield runtime
    runtime.close()


@pytest.fixture
def books(settings: Settings, worker: Runtime) -> Settings:
    two_organizations(settings, worker)
    return settings


def test_an_empty_system_is_clean(settings: Settings) -> None:
    report = report_of(settings)

    assert report.is_clean, report.as_text()
    assert report.positions == {}


def test_posted_books_are_clean_and_the_report_says_how_much_was_looked_at(books: Settings) -> None:
    report = report_of(books)

    assert failed(report) == set(), report.as_text()
    assert report.positions == {"acme": 6, "other": 2}
    checked = {check.subject: check.checked for check in report.checks}
    # acme: 2 + 3 + 2 + 3 + 3 + 2 entries, other: 2 + 2; jobs: 6 posted and 2 rejected, 2 posted
    assert checked["entry"] == 19
    assert checked["job"] == 10
    assert checked["ledger"] == 20
    assert checked["replay"] == 1
    assert checked["inbox"] == 1
    assert 0 < report.took_s < 60


def test_one_organization_is_looked_at_alone(postgres_server: PostgresServer, books: Settings) -> None:
    tamper(
        postgres_server,
        books,
        "UPDATE balance SET debits = debits + 1 WHERE ledger_id = 2 AND organization_id = "
        "(SELECT organization_id FROM organization WHERE code = 'acme')",
    )

    assert report_of(books, "other").is_clean
    assert report_of(books, "other").positions == {"other": 2}
    assert failed(report_of(books, "acme")) == {"heads_are_the_sum_of_children"}
    assert failed(report_of(books)) == {"heads_are_the_sum_of_children"}


def test_an_unknown_organization_is_not_found(books: Settings) -> None:
    with pytest.raises(OrganizationNotFound):
        report_of(books, "nobody")


def test_a_report_names_the_organization_and_the_ledger_and_both_amounts(
    postgres_server: PostgresServer, books: Settings
) -> None:
    tamper(postgres_server, books, "UPDATE balance SET debits = 3 WHERE ledger_id = 4 AND debits = 2057")

    report = report_of(books)
    found = {check.name: check for check in report.checks}["heads_are_the_sum_of_children"]

    # cash = till 1000 + 7 and bank 700 + 50 + 300; current = cash + claims 300
    assert found.violations == 2
    examples = sorted(found.examples, key=lambda example: str(example["ledger"]))
    assert examples[0] == {
        "organization": "acme",
        "ledger": "cash",
        "ledger_id": 4,
        "debits": 3,
        "credits": 553,
        "expected_debits": 2057,
        "expected_credits": 553,
    }
    assert examples[1]["ledger"] == "current"
    assert examples[1]["expected_debits"] == 303
    as_json = json.loads(json.dumps(report.as_json()))
    assert as_json["is_clean"] is False
    assert as_json["positions"] == {"acme": 6, "other": 2}
    assert [check["name"] for check in as_json["checks"] if check["violations"]] == ["heads_are_the_sum_of_children"]
    printed = report.as_text()
    assert "acme: up to position 6" in printed
    assert "WRONG 2  heads_are_the_sum_of_children" in printed
    assert f"1 of {len(CHECKS)} checks failed" in printed


def test_no_more_than_ten_examples_are_shown_and_all_violations_are_counted(
    postgres_server: PostgresServer, books: Settings
) -> None:
    tamper(postgres_server, books, "UPDATE entry SET value_date = '2001-01-01'")

    found = {check.name: check for check in report_of(books).checks}["entries_belong_to_journals"]

    assert found.violations == 19
    assert len(found.examples) == 10


def test_a_journal_that_lifts_a_ledger_towards_its_floor_breaks_nothing(
    postgres_server: PostgresServer, books: Settings, worker: Runtime
) -> None:
    # The card was drawn to -500; with a limit of 100 that one journal is too low, and paying 50 back is none.
    deliver(worker, "acme", [journal("back", ("till", "credit", 50), ("card", "credit", 50), ("sales", "debit", 100))])
    tamper(postgres_server, books, "UPDATE ledger SET overdraft_limit = 100 WHERE code = 'card'")

    found = {check.name: check for check in report_of(books).checks}["floors_hold"]

    assert [(example["ledger"], example["position"], example["balance_after"]) for example in found.examples] == [
        ("card", 4, -500)
    ]


def test_a_message_that_came_back_and_waits_though_it_is_settled_breaks_nothing(
    books: Settings, worker: Runtime
) -> None:
    message_id = new_batch_id()
    items = [journal("again", ("till", "debit", 1), ("sales", "credit", 1))]
    deliver(worker, "acme", items, message_id=message_id)
    message = delivery.Message(str(message_id), "post_journal", "acme", items, "posting", None, True, datetime.now(UTC))
    delivery.take(worker, [message])  # its acknowledgement was lost

    assert failed(report_of(books)) == set()


BREAK = {
    "journals_have_two_entries": f"DELETE FROM entry WHERE {OF_ACME} AND position = 3 AND line = 2",
    "journals_balance": f"UPDATE entry SET amount = amount + 1 WHERE {OF_ACME} AND position = 3 AND line = 2",
    "entries_belong_to_journals": f"UPDATE entry SET position = 77 WHERE {OF_ACME} AND position = 3 AND line = 2",
    "journals_lead_to_their_entries": f"UPDATE job SET entry_numbers = ARRAY[2, 1] WHERE {A_JOB}",
    "entries_are_on_leaves": "UPDATE ledger SET is_head = true WHERE code = 'claims'",
    "numbers_are_gapless": f"UPDATE entry SET number = 8 WHERE {OF_ACME} AND ledger_id = 7 AND number = 2",
    "numbers_follow_positions": f"UPDATE entry SET position = 7 - position WHERE {OF_ACME} AND ledger_id = 7",
    "running_balances_follow": f"UPDATE entry SET balance_after = 9 WHERE {OF_ACME} AND ledger_id = 6 AND number = 2",
    "balances_are_the_sum_of_entries": f"UPDATE balance SET credits = credits + 1 WHERE {OF_ACME} AND ledger_id = 9",
    "balances_count_entries": f"UPDATE balance SET last_number = 99 WHERE {OF_ACME} AND ledger_id = 9",
    "heads_are_the_sum_of_children": f"UPDATE balance SET credits = 0 WHERE {OF_ACME} AND ledger_id = 8",
    "days_are_the_sum_of_entries": f"UPDATE day_balance SET debits = 1 WHERE {OF_ACME} AND ledger_id = 5",
    "days_of_heads_are_the_sum_of_children": f"DELETE FROM day_balance WHERE {OF_ACME} AND ledger_id = 2",
    "books_balance": f"UPDATE balance SET debits = debits + 1 WHERE {OF_ACME} AND ledger_id = 9",
    "floors_hold": "UPDATE ledger SET overdraft_enabled = false WHERE code = 'card'",
    "positions_are_gapless": f"UPDATE posting_lock SET next_position = 9 WHERE {OF_ACME}",
    "positions_are_in_time_order": f"UPDATE job SET ended_at = ended_at - interval '1 s' WHERE {A_JOB}",
    "jobs_are_whole": f"UPDATE job SET code = NULL WHERE {OF_ACME} AND idempotency_key = 'poor'",
    "rejections_are_gapless": f"UPDATE job SET rejection = 5 WHERE {OF_ACME} AND idempotency_key = 'lost'",
    "rejections_are_in_order": f"UPDATE job SET after_position = 50 WHERE {OF_ACME} AND idempotency_key = 'poor'",
    "keys_are_bound_once": f"""
        ALTER TABLE job DROP CONSTRAINT job_key_is_bound_once;
        UPDATE job SET idempotency_key = 'a' WHERE {A_JOB}""",
    "replays_lead_to_jobs": "UPDATE replay SET first_job_id = gen_random_uuid()",
    "no_job_waits_that_has_ended": f"""
        UPDATE job SET job_id = CAST(left(i.batch_id::text, 28) || '00010000' AS uuid)
        FROM inbox AS i WHERE job.{OF_ACME} AND job.idempotency_key = 'lost'""",
    "waiting_batches_are_whole": "UPDATE inbox SET next_item = jobs",
    "organizations_can_post": "DELETE FROM ledger WHERE code = 'SUSPENSE'",
    "ledgers_have_balances": f"DELETE FROM balance WHERE {OF_ACME} AND ledger_id = 1",
    "parents_are_heads": "UPDATE ledger SET parent_id = 7, depth = 3, type = 'asset' WHERE code = 'SUSPENSE'",
    "children_are_one_deeper": "UPDATE ledger SET depth = 2 WHERE code = 'bank'",
    "children_have_their_parents_type": "UPDATE ledger SET type = 'liability' WHERE code = 'bank'",
    "trees_have_roots": "UPDATE ledger SET parent_id = 4 WHERE code = 'assets'",
    "last_bookings_are_noted": f"UPDATE posting_lock SET last_booked_at = last_booked_at - interval '1 s' WHERE {OF_ACME}",
    "amounts_are_positive": f"""
        ALTER TABLE entry DROP CONSTRAINT entry_amount_is_positive;
        UPDATE entry SET amount = -amount, side = CASE side WHEN 'D' THEN 'C' ELSE 'D' END WHERE {OF_ACME} AND position = 3""",
    "entries_are_within_the_dates_of_their_ledger": "UPDATE ledger SET closing_date = '2020-01-01' WHERE code = 'bank'",
    "nothing_is_held": f"UPDATE balance SET held = 1 WHERE {OF_ACME} AND ledger_id = 5",
    "balances_know_their_last_booking": f"UPDATE balance SET last_booked_at = NULL WHERE {OF_ACME} AND ledger_id = 5",
    "days_balance": f"UPDATE day_balance SET value_date = value_date - 40 WHERE {OF_ACME} AND ledger_id = 9",
    "states_are_known": f"UPDATE job SET state = 'lost' WHERE {OF_ACME} AND idempotency_key = 'poor'",
    "jobs_have_principals": f"UPDATE job SET principal_id = 99 WHERE {A_JOB}",
    "waiting_batches_have_principals": "UPDATE inbox SET principal_id = 99",
    "currencies_are_bound": f"DELETE FROM currency WHERE {OF_ACME}",
    "chart_versions_are_counted": f"UPDATE posting_lock SET chart_version = 1 WHERE {OF_ACME}",
    "safeguards_are_in_place": "ALTER TABLE entry DISABLE TRIGGER entry_is_insert_only",
    "tables_do_what_they_say": "ALTER TABLE balance ENABLE ROW LEVEL SECURITY",
    "roles_may_do_their_work_and_no_more": "GRANT UPDATE ON job TO ledgermill_worker",
    "roles_are_nothing_else": "ALTER TABLE quarantine OWNER TO ledgermill_worker",
    "functions_are_fenced": "ALTER FUNCTION ledgermill_api.find_keys RESET search_path",
    "views_show_one_organization": "ALTER VIEW ledgermill_api.job RESET (security_barrier)",
}
MORE = {
    "a journal without any entry": (
        "journals_have_two_entries",
        f"DELETE FROM entry WHERE {OF_ACME} AND position = 3",
    ),
    "a total that is not the debits": ("journals_balance", f"UPDATE job SET total = 51 WHERE {A_JOB}"),
    "an entry of a job that was not posted": (
        "entries_belong_to_journals",
        f"UPDATE job SET state = 'rejected' WHERE {A_JOB}",
    ),
    "an entry that no journal knows": (
        "journals_lead_to_their_entries",
        f"""UPDATE job SET entry_numbers = entry_numbers[1:1], entry_ledgers = entry_ledgers[1:1] WHERE {A_JOB}""",
    ),
    "an entry on a ledger that is not there": (
        "entries_are_on_leaves",
        "DELETE FROM ledger WHERE code = 'claims'",
    ),
    "an entry in another currency": ("entries_are_on_leaves", "UPDATE ledger SET currency = 'USD' WHERE code = 'bank'"),
    "a first entry that is not number 1": (
        "numbers_are_gapless",
        f"UPDATE entry SET number = 0 WHERE {OF_ACME} AND ledger_id = 7 AND number = 1",
    ),
    "an entry on neither side": (
        "running_balances_follow",
        f"UPDATE entry SET side = 'X' WHERE {OF_ACME} AND ledger_id = 7 AND number = 1",
    ),
    "a head's version": (
        "balances_count_entries",
        f"UPDATE balance SET version = 0 WHERE {OF_ACME} AND ledger_id = 2",
    ),
    "a leaf's version": (
        "balances_count_entries",
        f"UPDATE balance SET version = 0 WHERE {OF_ACME} AND ledger_id = 5",
    ),
    "a day that no entry has": (
        "days_are_the_sum_of_entries",
        f"UPDATE day_balance SET booked_on = booked_on - 1 WHERE {OF_ACME} AND ledger_id = 9",
    ),
    "a day that is gone": (
        "days_are_the_sum_of_entries",
        f"DELETE FROM day_balance WHERE {OF_ACME} AND ledger_id = 9",
    ),
    "a head's day": (
        "days_of_heads_are_the_sum_of_children",
        f"UPDATE day_balance SET credits = credits + 1 WHERE {OF_ACME} AND ledger_id = 8",
    ),
    "a journal that is gone": ("positions_are_gapless", f"DELETE FROM job WHERE {A_JOB}"),
    "a posted job with a code": ("jobs_are_whole", f"UPDATE job SET code = 'X' WHERE {A_JOB}"),
    "a rejected job with a position": (
        "jobs_are_whole",
        f"UPDATE job SET position = 7 WHERE {OF_ACME} AND idempotency_key = 'poor'",
    ),
    "a rejection that is not counted": (
        "rejections_are_gapless",
        f"UPDATE posting_lock SET next_rejection = 4 WHERE {OF_ACME}",
    ),
    "a replay that is a job itself": ("replays_lead_to_jobs", "UPDATE replay SET job_id = first_job_id"),
    "a balance without a ledger": ("ledgers_have_balances", "DELETE FROM ledger WHERE code = 'card'"),
    "a balance of another depth": (
        "ledgers_have_balances",
        f"UPDATE balance SET depth = 1 WHERE {OF_ACME} AND ledger_id = 5",
    ),
    "a parent that is not there": ("parents_are_heads", "DELETE FROM ledger WHERE code = 'cash'"),
    "an organization without a lock": ("organizations_can_post", f"DELETE FROM posting_lock WHERE {OF_ACME}"),
    "a ledger id that would be given twice": (
        "organizations_can_post",
        f"UPDATE posting_lock SET next_ledger_id = 10 WHERE {OF_ACME}",
    ),
    "an amount that is no number": (
        "amounts_are_positive",
        f"UPDATE entry SET amount = 'NaN' WHERE {OF_ACME} AND position = 3 AND line = 2",
    ),
    "a kind that there is not": ("states_are_known", f"UPDATE job SET kind = 'x' WHERE {A_JOB}"),
    "an entry before its ledger was opened": (
        "entries_are_within_the_dates_of_their_ledger",
        "UPDATE ledger SET opening_date = '2100-01-01' WHERE code = 'bank'",
    ),
    "a base currency that is not bound": (
        "currencies_are_bound",
        "UPDATE organization SET base_currency = 'JPY' WHERE code = 'acme'",
    ),
    "a last booking that is not known": (
        "last_bookings_are_noted",
        f"UPDATE posting_lock SET last_booked_at = NULL WHERE {OF_ACME}",
    ),
    "a key's constraint that is gone": (
        "safeguards_are_in_place",
        "ALTER TABLE job DROP CONSTRAINT job_key_is_bound_once",
    ),
}


def test_there_is_a_way_to_break_every_check() -> None:
    assert BREAK.keys() == {check.name for check in CHECKS}
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("check", BREAK)
def test_what_breaks_a_promise_is_found_under_its_name(
    postgres_server: PostgresServer, books: Settings, check: str
) -> None:
    tamper(postgres_server, books, BREAK[check])

    report = report_of(books)

    assert check in failed(report), report.as_text()
    assert not report.is_clean
    assert all(found.examples for found in report.checks if found.violations)


@pytest.mark.parametrize("what", MORE)
def test_another_way_to_break_it_is_found_too(postgres_server: PostgresServer, books: Settings, what: str) -> None:
    check, sql = MORE[what]
    tamper(postgres_server, books, sql)

    report = report_of(books)

    assert check in failed(report), report.as_text()


# What breaks one promise and nothing else: the other checks keep still.
ALONE = (
    "running_balances_follow",
    "heads_are_the_sum_of_children",
    "floors_hold",
    "positions_are_gapless",
    "jobs_are_whole",
    "replays_lead_to_jobs",
    "children_have_their_parents_type",
    "safeguards_are_in_place",
    "waiting_batches_are_whole",
    "no_job_waits_that_has_ended",
    "days_of_heads_are_the_sum_of_children",
)


@pytest.mark.parametrize("check", ALONE)
def test_a_promise_that_is_broken_alone_is_reported_alone(
    postgres_server: PostgresServer, books: Settings, check: str
) -> None:
    tamper(postgres_server, books, BREAK[check])

    assert failed(report_of(books)) == {check}
