"""The judgement: what upstream was told against what the books hold, by plain SQL and addition, in one pass."""

import json
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from witness import CHANGED_BY, FAIL, OK, Record, chart

MOST_EXAMPLES = 10
REFUSED = "INSUFFICIENT_BALANCE"
ACCEPTED_BY = {"ndjson", "array", "single"}  # upstreams whose acknowledgement is an acceptance

# Each job once, with its entries as "side ledger amount", by line. The keys of bad messages are judged elsewhere.
JOBS = """
    COPY (
        SELECT j.idempotency_key, j.description, j.state, j.code, e.facts,
               CASE j.code WHEN 'KEY_REUSED' THEN j.details END
        FROM ledgermill.job j
        LEFT JOIN (
            SELECT position, string_agg(side || ledger_id || ' ' || amount, ' ' ORDER BY line) AS facts
            FROM ledgermill.entry WHERE organization_id = 1 GROUP BY position
        ) AS e ON e.position = j.position
        WHERE j.organization_id = 1 AND coalesce(j.idempotency_key, '') NOT LIKE 'rubbish-%'
    ) TO STDOUT
"""
ENTRIES = "SELECT count(*), count(DISTINCT position) FROM ledgermill.entry WHERE organization_id = 1"
BALANCES = """
    SELECT l.code, b.debits::bigint, b.credits::bigint
    FROM ledgermill.balance b JOIN ledgermill.ledger l USING (organization_id, ledger_id) WHERE organization_id = 1
"""


@dataclass
class Judgement:
    """Counts, and the first examples of each finding.

    lost: acknowledged, and not ended as it must. double: more than one journal for a key. phantom: in the books though
    nobody sent it, or not as it was sent. wrong_balances: ledgers that are not the sum of the posted journals.
    overtaken: posted with the other content that came under the same key, and the first refused.
    """

    jobs: int = 0
    acknowledged: int = 0
    unknown: int = 0
    unknown_posted: int = 0
    posted: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    double: int = 0
    phantom: int = 0
    wrong_balances: int = 0
    overtaken: int = 0
    examples: list[str] = field(default_factory=list)

    def find(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if sum(example.startswith(kind) for example in self.examples) < MOST_EXAMPLES:
            self.examples.append(f"{kind}: {what}")


def judge(database_url: str, witnesses: Sequence[Path], *, changed: AbstractSet[str] = frozenset()) -> Judgement:
    """Read the witnesses (some 25 bytes of memory a job) and the books, each once.

    The keys in `changed` came with other content too: exactly one of both is posted, and an accepted one that was
    overtaken is recorded as KEY_REUSED.
    """
    records = {record.name: record for record in map(Record, witnesses)}
    found = Judgement(jobs=sum(map(len, records.values())))
    settled = {name: bytearray(len(record)) for name, record in records.items()}
    debits, credits_, reused = Counter[str](), Counter[str](), set[str]()
    overtaken: list[tuple[Record, int]] = []
    with psycopg.connect(database_url) as connection:
        codes = {
            f"{number}": code
            for number, code in connection.execute(
                "SELECT ledger_id, code FROM ledgermill.ledger WHERE organization_id = 1"
            )
        }
        with connection.cursor() as cursor, cursor.copy(JOBS) as rows:
            for key, description, state, code, facts, details in rows.rows():
                if state == "posted":
                    found.posted += 1
                    _count_journal(found, records, description)
                else:
                    found.codes[code] += 1
                if details is not None:
                    reused.add(json.loads(details)["idempotency_key"])
                if key is None:
                    if state == "posted":
                        found.find("phantom", f"a journal without a key: {description} {facts}")
                    continue
                name, _, number_text = key.rpartition("-")
                record, number = records.get(name), int(number_text) if number_text.isdigit() else -1
                if record is None or not 0 <= number < len(record):
                    found.find("phantom", f"{key} {state} {code}: nobody sent it")
                    continue
                settled[name][number] = 1
                if record.outcomes[number] == FAIL:
                    found.find("phantom", f"{key} {state} {code}: it was refused")
                readable = _readable(facts, codes)
                amount = record.amounts[number]
                if key in changed and readable == _asked(record, number, amount + CHANGED_BY):
                    amount += CHANGED_BY
                    overtaken.append((record, number))
                _judge_job(found, record, number, amount, key=key, state=state, code=code, facts=readable)
                if state == "posted":
                    debits[record.names[record.debits[number]]] += amount
                    credits_[record.names[record.credits_[number]]] += amount
        _judge_totals(found, connection, debits, credits_)
    _judge_reused(found, reused, overtaken, changed)
    for name, record in records.items():
        for number, outcome in enumerate(record.outcomes):
            found.acknowledged += outcome == OK
            is_settled = settled[name][number]
            if outcome == OK and not is_settled:
                found.find("lost", f"{name}-{number}: acknowledged, and not in the books")
            elif outcome not in {OK, FAIL}:
                found.unknown += 1
                found.unknown_posted += is_settled
            if record.found[number] > 1:
                found.find("double", f"{name}-{number}: {record.found[number]} journals")
    return found


def _count_journal(found: Judgement, records: dict[str, Record], description: str | None) -> None:
    name, _, number = (description or "").rpartition("-")
    if name in records and number.isdigit() and int(number) < len(records[name]):
        record = records[name]
        record.found[int(number)] = min(255, record.found[int(number)] + 1)
    else:
        found.find("phantom", f"a journal that nobody sent: {description}")


def _readable(facts: str | None, codes: dict[str, str]) -> str:
    words = (facts or "").split()
    return " ".join(
        f"{side[0]} {codes.get(side[1:])} {amount}" for side, amount in zip(words[::2], words[1::2], strict=True)
    )


def _asked(record: Record, number: int, amount: int) -> str:
    return f"D {record.names[record.debits[number]]} {amount} C {record.names[record.credits_[number]]} {amount}"


def _judge_reused(
    found: Judgement, reused: AbstractSet[str], overtaken: Sequence[tuple[Record, int]], changed: AbstractSet[str]
) -> None:
    found.overtaken = len(overtaken)
    for record, number in overtaken:
        key = f"{record.name}-{number}"
        # What was accepted over HTTP is durable; a message may be lost with its broker before it is refused.
        if record.name in ACCEPTED_BY and record.outcomes[number] == OK and key not in reused:
            found.find("lost", f"{key}: accepted, overtaken by other content, and not recorded as refused")
    for key in reused - changed:
        if not key.startswith("rubbish-"):
            found.find("lost", f"{key}: refused as KEY_REUSED, though it only ever had one content")


def _judge_job(
    found: Judgement, record: Record, number: int, amount: int, *, key: str, state: str, code: str | None, facts: str
) -> None:
    asked = _asked(record, number, amount)
    if state == "posted":
        if record.must_be_rejected(number):
            found.find("phantom", f"{key}: posted, and it had to be rejected")
        elif facts != asked:
            found.find("phantom", f"{key}: {facts} instead of {asked}")
    elif not record.must_be_rejected(number) or code != REFUSED:
        found.find("lost", f"{key}: {state} {code}, asked was {asked}")


def _judge_totals(
    found: Judgement, connection: psycopg.Connection[Any], debits: Counter[str], credits_: Counter[str]
) -> None:
    parents = chart()
    for totals in (debits, credits_):
        for code, amount in list(totals.items()):
            above = parents[code]
            while above is not None:
                totals[above] += amount
                above = parents[above]
    for code, debit, credit in connection.execute(BALANCES):
        if code in parents and (debit, credit) != (debits[code], credits_[code]):
            found.find("wrong_balances", f"{code}: {debit} / {credit} instead of {debits[code]} / {credits_[code]}")
    entries, journals = connection.execute(ENTRIES).fetchone() or (0, 0)
    if journals != found.posted or entries != 2 * found.posted:
        found.find("phantom", f"{entries} entries of {journals} positions, but {found.posted} journals")
