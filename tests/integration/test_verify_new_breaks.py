"""Each check that looks at what is new finds what is broken there, under its name."""

import pytest
from tampering import OF_ACME, TILL, failed, post_more, report_after, two_organizations

from ledgermill.config import Settings
from ledgermill.embedded.postgres import PostgresServer
from ledgermill.runtime import Runtime
from ledgermill.storage import verified
from ledgermill.storage.scopes import Scope
from ledgermill.usecases import verification

NEW = f"{OF_ACME} AND position > 6"


@pytest.fixture(scope="module")
def new(shared_settings: Settings) -> Scope:
    """Books that were clean up to position 6 in acme, and two journals and a rejection after."""
    worker = Runtime(shared_settings, role="worker")
    two_organizations(shared_settings, worker)
    assert all(report.is_clean for report in verification.verify_new(worker).values())
    post_more(worker)
    with worker.engine.connect() as tx:
        places = [place for place in verified.checkpoints(tx, None) if place.code == "acme"]
    worker.close()
    return Scope(places[0].organization_id, places, from_checkpoint=True)


BREAK_WHAT_IS_NEW = [
    ("journals_have_two_entries", f"DELETE FROM entry WHERE {NEW} AND position = 8 AND line = 2"),
    ("journals_balance", f"UPDATE entry SET amount = amount + 1 WHERE {OF_ACME} AND position = 8 AND line = 2"),
    ("journals_balance", f"UPDATE job SET total = total + 1 WHERE {NEW}"),
    ("entries_belong_to_journals", f"UPDATE entry SET position = 77 WHERE {OF_ACME} AND position = 8 AND line = 2"),
    ("entries_belong_to_journals", f"UPDATE entry SET position = 3 WHERE {OF_ACME} AND position = 8 AND line = 2"),
    (
        "journals_lead_to_their_entries",
        f"UPDATE job SET entry_numbers = ARRAY[entry_numbers[2], entry_numbers[1]] WHERE {NEW}",
    ),
    (
        "journals_lead_to_their_entries",
        f"""INSERT INTO entry (organization_id, ledger_id, number, position, line, side, amount, currency, balance_after,
                value_date)
            SELECT organization_id, ledger_id, number + 1, position, 3, side, amount, currency, balance_after, value_date
            FROM entry WHERE {TILL} AND position = 8""",
    ),
    ("journals_lead_to_their_entries", f"DELETE FROM entry WHERE {NEW}"),
    ("entries_are_on_leaves", "UPDATE ledger SET currency = 'USD' WHERE code = 'till'"),
    ("numbers_are_gapless", f"UPDATE entry SET number = number + 1 WHERE {TILL} AND position = 8"),
    ("numbers_are_gapless", f"DELETE FROM entry WHERE {TILL} AND number = 5"),
    ("numbers_follow_positions", f"UPDATE entry SET position = 15 - position WHERE {TILL} AND position > 6"),
    ("numbers_follow_positions", f"UPDATE entry SET position = 8 WHERE {TILL} AND number = 5"),
    ("running_balances_follow", f"UPDATE entry SET balance_after = 9 WHERE {TILL} AND position = 8"),
    ("running_balances_follow", f"UPDATE entry SET balance_after = 9 WHERE {TILL} AND number = 5"),
    ("balances_are_the_sum_of_entries", f"UPDATE balance SET debits = debits + 1 WHERE {TILL}"),
    ("balances_count_entries", f"UPDATE balance SET last_number = last_number + 1 WHERE {TILL}"),
    ("balances_count_entries", f"UPDATE balance SET version = version + 1 WHERE {OF_ACME} AND ledger_id = 7"),
    ("balances_know_their_last_booking", f"UPDATE balance SET last_booked_at = NULL WHERE {TILL}"),
    ("heads_are_the_sum_of_children", f"UPDATE balance SET credits = 0 WHERE {OF_ACME} AND ledger_id = 8"),
    ("days_are_the_sum_of_entries", f"UPDATE day_balance SET credits = credits + 1 WHERE {TILL}"),
    ("days_are_the_sum_of_entries", f"UPDATE day_balance SET debits = debits + 1 WHERE {OF_ACME} AND ledger_id = 2"),
    ("days_are_the_sum_of_entries", f"DELETE FROM day_balance WHERE {OF_ACME} AND ledger_id = 8"),
    ("floors_hold", f"UPDATE entry SET balance_after = -5 WHERE {TILL} AND position = 8"),
    ("positions_are_gapless", f"DELETE FROM job WHERE {OF_ACME} AND position = 7"),
    ("positions_are_gapless", f"UPDATE posting_lock SET next_position = 12 WHERE {OF_ACME}"),
    ("positions_are_in_time_order", f"UPDATE job SET ended_at = ended_at - interval '1 h' WHERE {NEW}"),
    ("last_bookings_are_noted", f"UPDATE posting_lock SET last_booked_at = NULL WHERE {OF_ACME}"),
    ("amounts_are_positive", f"UPDATE entry SET amount = 'NaN' WHERE {NEW}"),
    ("jobs_are_whole", f"UPDATE job SET message = NULL WHERE {OF_ACME} AND idempotency_key = 'poor2'"),
    ("states_are_known", f"UPDATE job SET kind = 'x' WHERE {NEW}"),
    ("jobs_have_principals", f"UPDATE job SET principal_id = 99 WHERE {NEW}"),
    ("rejections_are_gapless", f"UPDATE job SET rejection = 9 WHERE {OF_ACME} AND idempotency_key = 'poor2'"),
    ("rejections_are_in_order", f"UPDATE job SET after_position = 50 WHERE {OF_ACME} AND idempotency_key = 'poor2'"),
    (
        "keys_are_bound_once",
        f"""ALTER TABLE job DROP CONSTRAINT job_key_is_bound_once;
            UPDATE job SET idempotency_key = 'a' WHERE {OF_ACME} AND position = 8""",
    ),
    ("safeguards_are_in_place", "ALTER TABLE job DISABLE TRIGGER ALL"),
]


def test_what_is_new_is_clean_as_it_was_posted(
    postgres_server: PostgresServer, shared_settings: Settings, new: Scope
) -> None:
    assert failed(report_after(postgres_server, shared_settings, "SELECT 1", new)) == set()


@pytest.mark.parametrize(("check", "sql"), BREAK_WHAT_IS_NEW)
def test_what_is_wrong_with_what_is_new_is_found_under_its_name(
    postgres_server: PostgresServer, shared_settings: Settings, new: Scope, check: str, sql: str
) -> None:
    report = report_after(postgres_server, shared_settings, sql, new)

    assert check in failed(report), report.as_text()
