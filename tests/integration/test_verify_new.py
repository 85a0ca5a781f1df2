"""What was posted since the last clean run is verified alone: what is wrong there is found, and only a full run sees more."""

import itertools
import threading
from collections.abc import Iterator

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tampering import OF_ACME, TILL, failed, post_more, tamper, two_organizations
from typer.testing import CliRunner

from ledgermill.api.verification_metrics import VerificationCollector
from ledgermill.cli.main import app
from ledgermill.config import Settings
from ledgermill.embedded.postgres import PostgresServer
from ledgermill.runtime import Runtime
from ledgermill.storage import metrics, verified
from ledgermill.storage.checks import CHECKS
from ledgermill.usecases import verification
from ledgermill.usecases.verify import Report, verify
from workers import maintenance

OLD = f"{OF_ACME} AND position <= 6"


@pytest.fixture
def worker(settings: Settings) -> Iterator[Runtime]:
    runtime = Runtime(settings, role="worker")
    yield runtime
    runtime.close()


@pytest.fixture
def readonly(settings: Settings) -> Iterator[Runtime]:
    runtime = Runtime(settings, role="readonly")
    yield runtime
    runtime.close()


@pytest.fixture
def books(settings: Settings, worker: Runtime) -> Settings:
    """Books that were found clean up to position 6 in acme and 2 in other, and two journals and a rejection after."""
    two_organizations(settings, worker)
    assert all(report.is_clean for report in verification.verify_new(worker).values())
    post_more(worker)
    return settings


def last_runs(worker: Runtime) -> list[tuple[object, ...]]:
    with worker.engine.connect() as tx:
        return [
            tuple(row)
            for row in tx.exec_driver_sql(
                """SELECT code, kind, from_position, to_position, violations FROM ledgermill.verification
                   JOIN ledgermill.organization USING (organization_id) ORDER BY verification_id"""
            )
        ]


def checked(report: Report) -> dict[str, int]:
    return {check.subject: check.checked for check in report.checks}


def test_a_run_looks_at_what_is_new_and_the_next_one_goes_on_from_there(books: Settings, worker: Runtime) -> None:
    first = verification.verify_new(worker)["acme"]
    post_more(worker, "-later")
    second = verification.verify_new(worker)["acme"]
    idle = verification.verify_new(worker)["acme"]

    assert failed(first) | failed(second) | failed(idle) == set(), first.as_text() + second.as_text()
    assert [(r.since, r.positions) for r in (first, second, idle)] == [
        ({"acme": 6}, {"acme": 8}),
        ({"acme": 8}, {"acme": 10}),
        ({"acme": 10}, {"acme": 10}),
    ]
    assert [(checked(r)["job"], checked(r)["entry"]) for r in (first, second, idle)] == [(3, 4), (3, 4), (0, 0)]
    assert last_runs(worker) == [
        ("acme", "new", 0, 6, 0),
        ("other", "new", 0, 2, 0),
        ("acme", "new", 6, 8, 0),
        ("acme", "new", 8, 10, 0),
        ("acme", "new", 10, 10, 0),
    ]


def test_an_organization_where_nothing_is_new_is_left_alone_and_counts_as_clean(
    books: Settings, worker: Runtime
) -> None:
    before = {run.organization: run.unverified_s for run in verifications(worker) if run.kind == "new"}

    assert verification.verify_new(worker).keys() == {"acme"}

    after = {run.organization: run.unverified_s for run in verifications(worker) if run.kind == "new"}
    assert after["other"] < before["other"]


def verifications(worker: Runtime) -> list[metrics.Verification]:
    runtime = Runtime(worker.settings, role="api")
    try:
        with runtime.engine.connect() as tx:
            return metrics.verifications(tx)
    finally:
        runtime.close()


def test_a_full_run_is_a_checkpoint_too_also_in_the_middle_of_a_day(books: Settings, worker: Runtime) -> None:
    assert all(report.is_clean for report in verification.verify_all(worker).values())
    post_more(worker, "-later")

    report = verification.verify_new(worker)["acme"]

    assert failed(report) == set(), report.as_text()
    assert report.since == {"acme": 8}


def test_a_first_run_looks_at_all_that_was_posted(settings: Settings, worker: Runtime) -> None:
    two_organizations(settings, worker)

    reports = verification.verify_new(worker)

    assert {code: checked(report)["entry"] for code, report in reports.items()} == {"acme": 15, "other": 4}
    assert {code: report.since for code, report in reports.items()} == {"acme": {"acme": 0}, "other": {"other": 0}}


def test_what_was_changed_in_what_was_verified_before_is_found_by_a_full_run_only(
    postgres_server: PostgresServer, books: Settings, worker: Runtime
) -> None:
    tamper(postgres_server, books, f"UPDATE entry SET amount = amount + 1 WHERE {OLD} AND position = 2")

    new, everything = verification.verify_new(worker)["acme"], verification.verify_all(worker)["acme"]

    assert failed(new) == set()
    assert "journals_balance" in failed(everything)


def test_wrong_books_stay_wrong_until_they_are_right_and_the_checkpoint_waits(
    postgres_server: PostgresServer, books: Settings, worker: Runtime
) -> None:
    tamper(postgres_server, books, f"UPDATE balance SET debits = debits + 1 WHERE {TILL}")
    reports = [verification.verify_new(worker)["acme"] for _ in range(2)]
    tamper(postgres_server, books, f"UPDATE balance SET debits = debits - 1 WHERE {TILL}")
    repaired = verification.verify_new(worker)["acme"]

    assert all("balances_are_the_sum_of_entries" in failed(report) for report in reports)
    assert {report.since["acme"] for report in [*reports, repaired]} == {6}
    assert repaired.is_clean
    assert verification.verify_new(worker)["acme"].since == {"acme": 8}


def test_two_never_verify_the_same_organization_at_once(books: Settings, worker: Runtime) -> None:
    acme = next(iter(checkpoints(worker)))
    with verified.held(worker.engine, acme):
        assert verification.verify_new(worker) == {}
        assert verification.verify_all(worker).keys() == {"other"}

    assert verification.verify_new(worker).keys() == {"acme"}


def checkpoints(worker: Runtime) -> dict[int, int]:
    with worker.engine.connect() as tx:
        return {place.organization_id: place.position for place in verified.checkpoints(tx, None)}


def test_a_run_that_takes_too_long_is_given_up_and_moves_nothing(books: Settings, worker: Runtime) -> None:
    before = checkpoints(worker)
    hasty = Runtime(books.model_copy(update={"verify_time_limit_s": 0.001}), role="worker")

    assert verification.verify_all(hasty) == {}

    hasty.close()
    assert checkpoints(worker) == before
    assert verification.verify_all(worker).keys() == {"acme", "other"}


def test_books_that_are_posted_to_meanwhile_are_clean_at_every_moment(books: Settings, worker: Runtime) -> None:
    stop, poster = threading.Event(), Runtime(books, role="worker")

    def post() -> None:
        for number in itertools.count():
            if stop.is_set():
                break
            post_more(poster, f"-{number}")

    thread = threading.Thread(target=post)
    thread.start()
    try:
        reports = [verification.verify_new(worker)["acme"] for _ in range(8)]
        reports.append(verification.verify_all(worker)["acme"])
    finally:
        stop.set()
        thread.join()
        poster.close()
    reports.append(verification.verify_new(worker)["acme"])

    assert [failed(report) for report in reports] == [set()] * 10
    assert reports[-1].positions["acme"] > reports[0].positions["acme"]


@pytest.mark.parametrize("change", ["UPDATE {} SET violations = 0", "DELETE FROM {}", "TRUNCATE {}"])
@pytest.mark.parametrize("role", ["worker", "api", "readonly", "owner"])
def test_nobody_changes_what_a_run_found(books: Settings, role: str, change: str) -> None:
    with psycopg.connect(books.url_of(role), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.RestrictViolation)):
            connection.execute(change.format("ledgermill.verification"))


def test_from_a_position_that_somebody_chose_all_is_checked_that_needs_no_checkpoint(
    books: Settings, readonly: Runtime
) -> None:
    report = verify(readonly.engine, organization="acme", since=3)

    assert failed(report) == set(), report.as_text()
    assert report.since == {"acme": 3}
    assert report.not_made == (
        "days_are_the_sum_of_entries",
        "days_of_heads_are_the_sum_of_children",
        "days_balance",
        "replays_lead_to_jobs",
    )
    assert {check.name for check in report.checks} | set(report.not_made) == {check.name for check in CHECKS}
    assert "acme: after position 3 up to position 8" in report.as_text()


@pytest.mark.parametrize("since", [0, 1, 6, 8, 99])
def test_every_position_is_a_place_to_start_from(books: Settings, readonly: Runtime, since: int) -> None:
    report = verify(readonly.engine, since=since)

    assert failed(report) == set(), report.as_text()


def run_cli(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("ledgermill.cli.session.settings", lambda: settings)
    result = CliRunner().invoke(app, ["verify", *arguments])
    return result.exit_code, result.output


def test_the_command_line_goes_on_from_the_last_clean_run_and_says_by_its_exit_code_what_it_found(
    postgres_server: PostgresServer, books: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = run_cli(books, monkeypatch, "--since", "last")
    tamper(postgres_server, books, f"UPDATE balance SET debits = debits + 1 WHERE {TILL}")
    wrong = run_cli(books, monkeypatch, "--since", "last", "--organization", "acme")
    unclear = run_cli(books, monkeypatch, "--since", "yesterday")

    assert clean[0] == 0, clean[1]
    assert "acme: after position 6 up to position 8" in clean[1]
    assert wrong[0] == 1
    assert unclear[0] == 2


def test_the_metrics_show_the_last_runs_what_they_found_and_since_when_the_books_are_not_known_to_be_clean(
    postgres_server: PostgresServer, books: Settings, worker: Runtime
) -> None:
    verification.verify_all(worker)
    post_more(worker, "-later")
    tamper(postgres_server, books, f"UPDATE balance SET debits = debits + 1 WHERE {TILL}")
    tamper(postgres_server, books, "UPDATE verified SET all_clean_at = now() - interval '3 days'")
    verification.verify_new(worker)
    registry = CollectorRegistry()
    registry.register(VerificationCollector(verifications(worker)))

    shown = generate_latest(registry).decode()

    def sample(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"ledgermill_verify_{name}", labels) or 0.0

    assert sample("violations", kind="new", check="balances_are_the_sum_of_entries") == 1
    assert sample("violations", kind="all", check="balances_are_the_sum_of_entries") == 0
    assert sample("violations", kind="new", check="safeguards_are_in_place") == 0
    assert 'check="safeguards_are_in_place",kind="new"} 0.0' in shown
    assert 3 * 86_400 <= sample("clean_age_seconds", kind="all") < 3 * 86_400 + 60
    assert 0 <= sample("clean_age_seconds", kind="new") < 60
    assert sample("duration_seconds", kind="new") > 0
    assert sample("last_run_timestamp_seconds", kind="new") > sample("last_run_timestamp_seconds", kind="all") > 0


def test_the_tasks_of_the_maintenance_queue_note_their_runs(
    books: Settings, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "runtime", lambda: worker)

    maintenance.verify_new()
    maintenance.verify_all()

    assert last_runs(worker)[2:] == [("acme", "new", 6, 8, 0), ("acme", "all", 0, 8, 0), ("other", "all", 0, 2, 0)]
