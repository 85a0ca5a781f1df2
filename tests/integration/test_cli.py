"""The command line against a real database: what it prints, what it exits with, and what is in the books afterwards."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from ledgermill.cli.files import minor_units
from ledgermill.config import Settings
from ledgermill.domain.ledgers import LedgerReference
from ledgermill.embedded.postgres import PostgresServer
from ledgermill.messages.ledgers import read_chart
from ledgermill.runtime import Runtime
from ledgermill.storage import api_keys, ledgers, migrations, organizations, quarantine
from ledgermill.storage.quarantine import Unreadable
from ledgermill.usecases import charts, waiting
from ledgermill.usecases import organizations as usecases
from ledgermill.usecases.organizations import hash_key
from tests.conftest import environment

CHART = """code,name,type,is_head,parent_ledger_code
CASH,Cash,,false,ASSETS
ASSETS,Assets,asset,true,
SALES,Sales,income,false,
RENT,Rent,expense,false,
"""


class Cli:
    """`ledgermill` with the settings of a test."""

    def __init__(self, settings: Settings, **variables: str) -> None:
        self.environment = {**environment(settings), **variables}

    def __call__(self, *arguments: str | Path, exits_with: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == exits_with, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def while_worked_on(
        self, worker: Runtime, *arguments: str | Path, exits_with: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that waits, and meanwhile do what a worker does when it hears a ring."""
        process = subprocess.Popen(
            self.command(arguments), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None:
            waiting.look(worker, 0)
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        stdout, stderr = process.communicate()
        assert process.returncode == exits_with, stdout + stderr
        assert "Traceback" not in stderr
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    @staticmethod
    def command(arguments: Sequence[str | Path]) -> list[str]:
        return [sys.executable, "-m", "ledgermill.cli", *map(str, arguments)]


@pytest.fixture
def cli(settings: Settings) -> Cli:
    return Cli(settings)


@pytest.fixture
def owner(settings: Settings) -> Iterator[Runtime]:
    runtime = Runtime(settings, role="owner")
    yield runtime
    runtime.close()


@pytest.fixture
def worker(settings: Settings) -> Iterator[Runtime]:
    runtime = Runtime(settings, role="worker")
    yield runtime
    runtime.close()


@pytest.fixture
def acme(owner: Runtime) -> str:
    with owner.engine.begin() as tx:
        usecases.create(tx, code="acme", name="Acme", base_currency="EUR", time_zone="Europe/Prague")
    return "acme"


@pytest.fixture
def books(acme: str, owner: Runtime) -> str:
    with owner.engine.begin() as tx:
        organization_id = organizations.find(tx, acme)["organization_id"]
        charts.open_chart(tx, organization_id, list(read_chart(CHART, is_csv=True)), principal_id=1)
    return acme


def totals(runtime: Runtime, organization: str, code: str) -> tuple[int, int]:
    with runtime.engine.connect() as tx:
        organization_id = organizations.find(tx, organization)["organization_id"]
        (row,) = ledgers.shown(tx, organization_id, LedgerReference(code=code))
    return row["debits"], row["credits"]


def test_migrations_run_twice_and_give_the_services_their_logins(
    settings: Settings, postgres_server: PostgresServer
) -> None:
    name = f"test_{secrets.token_hex(6)}"
    server = settings.url_of("owner").rpartition("/")[0]
    with (
        psycopg.connect(settings.url_of("owner"), autocommit=True) as connection,
        psycopg.connect(postgres_server.superuser_url, autocommit=True) as superuser,  # may end autovacuum's workers
    ):
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            cli = Cli(settings, DATABASE_URL=f"{server}/{name}")

            empty = cli("db", "status", exits_with=2)
            upgraded = [cli("db", "upgrade").stdout, cli("db", "upgrade").stdout]
            current = cli("db", "status")
        finally:
            superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    assert empty.stderr.startswith("NOT_MIGRATED: ")
    assert upgraded[0] == upgraded[1]
    assert "ledgermill_api, ledgermill_readonly, ledgermill_worker" in upgraded[0]
    assert migrations.newest() in current.stdout


def test_a_database_without_our_tables_is_not_migrated_rather_than_a_traceback(settings: Settings) -> None:
    url = settings.url_of("owner").rpartition("/")[0] + "/postgres"

    done = Cli(settings, DATABASE_URL=url)("organization", "list", exits_with=2)

    assert done.stderr.startswith("NOT_MIGRATED: ")


def test_a_database_that_is_away_is_exit_code_2(settings: Settings) -> None:
    away = "postgresql://nobody:nothing@127.0.0.1:9/none"
    cli = Cli(settings, DATABASE_URL=away, READ_ONLY_DATABASE_URL=away)

    for command in (["organization", "list"], ["verify"]):
        done = cli(*command, exits_with=2)
        assert done.stderr.startswith("DATABASE_UNAVAILABLE: ")
        assert "nothing" not in done.stderr


def test_a_wrong_setting_is_named(settings: Settings) -> None:
    done = Cli(settings, API_PORT="many")("organization", "list", exits_with=1)

    assert done.stderr.startswith("INVALID_FIELD: API_PORT: ")


def test_organizations_are_made_once_and_listed(cli: Cli) -> None:
    create = ["organization", "create", "acme", "--name", "Acme", "--base-currency", "EUR", "--time-zone"]

    uuid = cli(*create, "Europe/Prague").stdout.strip()
    again = cli(*create, "UTC", exits_with=1)
    elsewhere = cli(*create, "Mars/Base", exits_with=1)

    assert again.stderr == "ORGANIZATION_EXISTS: There is an organization acme already.\n"
    assert elsewhere.stderr.startswith("INVALID_FIELD: time_zone: ")
    (row,) = json.loads(cli("organization", "list", "--json").stdout)
    assert (row["code"], row["base_currency"], row["time_zone"]) == ("acme", "EUR", "Europe/Prague")
    assert row["organization_uuid"] == uuid


def test_an_organization_is_paused_drained_and_resumed(cli: Cli, books: str, worker: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "journals.csv"
    file.write_text("debit,credit,amount\nCASH,SALES,1.00\nCASH,SALES,2.00\n")
    cli("organization", "pause", books)

    paused = cli("post", file, "--organization", books)
    waiting.look(worker, 0)
    draining = cli("organization", "drain", books)
    refused = cli("post", file, "--organization", books, exits_with=2)
    drained = cli.while_worked_on(worker, "organization", "drain", books, "--wait")
    cli("organization", "resume", books)

    assert "Accepted: 2" in paused.stdout
    assert draining.stdout.endswith("still wait: 2\n")
    assert refused.stderr.startswith("ORGANIZATION_DRAINING: ")
    assert drained.stdout.endswith("is drained.\n")
    assert totals(worker, books, "CASH") == (300, 0)


def test_a_key_is_shown_once_and_ends_when_it_is_revoked(cli: Cli, acme: str, owner: Runtime) -> None:
    options = ["--name", "shop", "--scope", "read", "--scope", "post"]
    secret = cli("key", "create", acme, *options).stdout.strip()
    shown = json.loads(cli("key", "create", acme, *options, "--expires-in-days", "2", "--json").stdout)
    listed = cli("key", "list", acme, "--json").stdout

    def caller(text: str) -> api_keys.Caller | None:
        with owner.engine.connect() as tx:
            return api_keys.find(tx, hash_key(text))

    found = caller(secret)
    assert found is not None
    assert found.scopes == {"read", "post"}
    assert (datetime.fromisoformat(shown["expires_at"]) - datetime.now(UTC)).days == 1
    assert secret not in listed
    assert shown["secret"] not in listed
    cli("key", "revoke", acme, str(found.key_uuid))
    assert caller(secret) is None
    assert caller(shown["secret"]) is not None
    assert cli("key", "revoke", acme, str(uuid4()), exits_with=1).stderr.startswith("KEY_NOT_FOUND: ")
    assert "INVALID_FIELD" in cli("key", "create", acme, "--name", "x", "--scope", "all", exits_with=1).stderr


def test_a_ledger_is_opened_below_a_parent_and_deactivated(cli: Cli, books: str, owner: Runtime) -> None:
    uuid = cli("ledger", "open", books, "TILL", "--parent", "ASSETS", "--name", "Till").stdout.strip()
    below_leaf = cli("ledger", "open", books, "BOX", "--parent", "TILL", exits_with=1)
    cli("ledger", "deactivate", books, uuid)

    with owner.engine.connect() as tx:
        organization_id = organizations.find(tx, books)["organization_id"]
        (row,) = ledgers.shown(tx, organization_id, LedgerReference(code="TILL"))
    assert (str(row["ledger_uuid"]), row["type"], row["active"]) == (uuid, "asset", False)
    assert below_leaf.stderr.startswith("PARENT_IS_LEAF: ")


def test_a_chart_with_errors_opens_nothing_and_names_each_line(cli: Cli, acme: str, tmp_path: Path) -> None:
    file = tmp_path / "chart.csv"
    file.write_text(CHART + "LOST,Lost,asset,false,NOWHERE\nODD,Odd,money,false,\n")

    done = cli("ledger", "import", acme, file, exits_with=1)

    assert done.stderr.startswith("INVALID_CHART: 2 of the ledgers ")
    assert "  line 6: LEDGER_NOT_FOUND: " in done.stderr
    assert "  line 7: INVALID_FIELD: type: " in done.stderr
    file.write_text(CHART)
    assert cli("ledger", "import", acme, file).stdout == "Ledgers opened: 4\n"


def test_post_needs_no_organization_where_there_is_one(cli: Cli, books: str, worker: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(
        json.dumps(
            {
                "idempotency_key": "one",
                "entries": [
                    {"ledger_code": "SUSPENSE", "type": "debit", "amount": 5},
                    {"ledger_code": "SUSPENSE", "type": "credit", "amount": 5},
                ],
            }
        )
    )
    assert "Posted: 1" in cli.while_worked_on(worker, "post", file).stdout

    cli("organization", "create", "second", "--name", "Second", "--base-currency", "EUR", "--time-zone", "UTC")

    assert "INVALID_FIELD: --organization: is needed: there are 2" in cli("post", file, exits_with=1).stderr


def test_csv_is_read_in_major_units_and_a_second_time_changes_nothing(
    cli: Cli, books: str, worker: Runtime, tmp_path: Path
) -> None:
    file = tmp_path / "journals.csv"
    file.write_text("debit,credit,amount,description\nCASH,SALES,19.99,tea\nCASH,SALES,0.1,\nCASH,SALES,7,cake\n")

    first = cli.while_worked_on(worker, "post", file, "--organization", books, "--batch", "2")
    second = cli.while_worked_on(worker, "post", file, "--organization", books)

    assert "Posted: 3\n" in first.stdout
    assert "Posted: 0\n" in second.stdout
    assert "before): 3\n" in second.stdout
    assert totals(worker, books, "CASH") == (1999 + 10 + 700, 0)
    assert totals(worker, books, "SALES") == (0, 1999 + 10 + 700)


def test_csv_amounts_that_are_not_exact_stop_the_file_each_at_its_line(cli: Cli, books: str, tmp_path: Path) -> None:
    wrong = ["1.999", "1e3", "-5", "NaN", "1,5", "", "٣", "Infinity", ".5", "1" * 39]
    file = tmp_path / "journals.csv"
    rows = [f'CASH,SALES,"{amount}"' for amount in ["1.00", *wrong]]
    file.write_text("\n".join(["debit,credit,amount", *rows]))

    done = cli("post", file, "--organization", books, exits_with=1)

    assert done.stderr.startswith(f"INVALID_FILE: {len(wrong)} of the lines ")
    assert [line.split(":")[0] for line in done.stderr.splitlines()[1:]] == [
        f"  line {3 + place}" for place in range(len(wrong))
    ]


@pytest.mark.parametrize(
    ("text", "currency", "expected"),
    [
        ("329.98", "EUR", 32998),
        ("0.10", "EUR", 10),
        ("7", "JPY", 7),
        ("1.5", "KWD", 1500),
        ("9" * 36, "EUR", int("9" * 36 + "00")),
    ],
)
def test_major_units_are_read_exactly(text: str, currency: str, expected: int) -> None:
    assert minor_units(text, currency=currency) == expected


def test_rejected_lines_are_named_and_the_others_posted(cli: Cli, books: str, worker: Runtime, tmp_path: Path) -> None:
    def journal(debit: str, amount: object) -> str:
        entries = [
            {"ledger_code": debit, "type": "debit", "amount": amount},
            {"ledger_code": "SALES", "type": "credit", "amount": 500},
        ]
        return json.dumps({"entries": entries})

    file = tmp_path / "journals.jsonl"
    file.write_text("\n".join([journal("CASH", 500), "", journal("NONE", 500), journal("CASH", 400), "7"]))

    first = cli.while_worked_on(worker, "post", file, "--organization", books, exits_with=1)
    second = cli.while_worked_on(worker, "post", file, "--organization", books, exits_with=1)

    for done in (first, second):
        assert "line 3: LEDGER_NOT_FOUND: " in done.stderr
        assert "line 4: UNBALANCED: " in done.stderr
        assert "line 5: INVALID_FIELD: " in done.stderr
        assert "Rejected: 3\n" in done.stdout
    assert "Posted: 1\n" in first.stdout
    assert totals(worker, books, "CASH") == (500, 0)


def test_a_file_that_is_not_json_is_not_posted_at_all(cli: Cli, books: str, tmp_path: Path) -> None:
    file = tmp_path / "journals.jsonl"
    file.write_text('{"entries": []}\n{"entries": [\n')

    assert "  line 2: INVALID_JSON: " in cli("post", file, "--organization", books, exits_with=1).stderr
    file.write_bytes(b"\xff\xfe")
    assert cli("post", file, "--organization", books, exits_with=1).stderr.startswith(
        "INVALID_FIELD: the file: is not UTF-8"
    )


def test_balance_updates_are_posted_and_the_books_verify(cli: Cli, books: str, worker: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "updates.json"
    file.write_text(json.dumps([{"ledger_code": "CASH", "type": "debit", "amount": 250}]))

    done = cli.while_worked_on(worker, "post", file, "--organization", books, "--kind", "balance-updates")
    report = json.loads(cli("verify", "--json").stdout)

    assert "Posted: 1\n" in done.stdout
    assert totals(worker, books, "CASH") == (250, 0)
    assert report["is_clean"]


def test_quarantine_gives_back_the_raw_bytes(cli: Cli, worker: Runtime) -> None:
    raw = b'{"not ours": \xff\x00}'
    message = Unreadable(uuid4(), datetime.now(UTC), "posting", "UNREADABLE_MESSAGE", "envelope is not JSON", raw)
    with worker.engine.begin() as tx:
        quarantine.keep(tx, [message])

    (listed,) = json.loads(cli("quarantine", "list", "--json").stdout)
    command = Cli.command(["quarantine", "show", listed["quarantine_id"]])
    shown = subprocess.run(command, env=cli.environment, capture_output=True, check=True)

    assert shown.stdout == raw
    assert listed["bytes"] == len(raw)
    assert "QUARANTINE_NOT_FOUND" in cli("quarantine", "show", str(uuid4()), exits_with=1).stderr


def test_a_worker_is_healthy_while_its_file_is_fresh(settings: Settings, tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    cli = Cli(settings, LEDGERMILL_HEARTBEAT_FILE=str(heartbeat))

    cli("worker-health", exits_with=1)
    heartbeat.touch()
    cli("worker-health")
    os.utime(heartbeat, (0, 0))
    cli("worker-health", exits_with=1)


def test_help_names_every_command_without_a_database(settings: Settings) -> None:
    done = Cli(settings, DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")("--help")

    for command in (
        "up",
        "down",
        "status",
        "db",
        "organization",
        "key",
        "ledger",
        "post",
        "verify",
        "rejected",
        "quarantine",
        "api",
    ):
        assert f" {command} " in done.stdout
