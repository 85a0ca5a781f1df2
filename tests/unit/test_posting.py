"""Planning decides each job in order: who may move what, how it runs, and what the tree above gains."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgermill.domain import ids
from ledgermill.domain.journals import LARGEST_MINOR_UNITS, EntryRequest, JournalRequest, Request, UnusableRequest
from ledgermill.domain.ledgers import CREDIT, DEBIT, Chart, Ledger, LedgerReference
from ledgermill.domain.posting import Balance, Batch, Books, Plan, Settled, ledgers_to_lock, plan
from ledgermill.errors import UnknownField

PROPERTY = settings(deadline=None, database=None)
TODAY = date(2026, 6, 2)
NOON = datetime(2026, 6, 2, 12, tzinfo=UTC)
BATCH = ids.batch_id(unix_ms=1_704_067_200_000, random_bits=1)
OTHER_BATCH = ids.batch_id(unix_ms=1_704_067_200_001, random_bits=2)
BOOKS = Books(
    organization_id=1,
    base_currency="EUR",
    next_position=11,
    next_rejection=4,
    booked_at=NOON,
    today=TODAY,
    max_future_days=1,
    suspense_id=1,
)


def ledger(ledger_id: int, code: str, **more: Any) -> Ledger:
    plain = Ledger(
        ledger_id=ledger_id,
        uuid=str(UUID(int=ledger_id)),
        code=code,
        number=ledger_id,
        type="asset",
        currency="EUR",
        is_head=False,
        parent_id=None,
        depth=0,
        normal_side=DEBIT,
        active=True,
        limit=None,
        opening_date=None,
        closing_date=None,
    )
    return plain._replace(**more)


# assets > cash > till, bank; claims below assets. The till must not fall below 0, the card may to -500.
LEDGERS = [
    ledger(1, "SUSPENSE", type="liability", normal_side=CREDIT),
    ledger(2, "assets", is_head=True),
    ledger(3, "cash", is_head=True, parent_id=2, depth=1),
    ledger(4, "till", parent_id=3, depth=2, limit=0),
    ledger(5, "bank", parent_id=3, depth=2),
    ledger(6, "claims", parent_id=2, depth=1),
    ledger(7, "sales", type="income", normal_side=CREDIT),
    ledger(8, "card", type="liability", normal_side=CREDIT, limit=500),
    ledger(9, "closed", active=False),
    ledger(10, "dollars", currency="USD"),
    ledger(11, "may", opening_date=date(2026, 5, 1), closing_date=date(2026, 5, 31)),
]
CODES = {one.code: one.ledger_id for one in LEDGERS}
EMPTY = Balance(0, 0, 0, 0)

Line = tuple[str, str, int]


def entry(line: Line) -> EntryRequest:
    code, side, amount = line
    return EntryRequest(LedgerReference(code=code), DEBIT if side == "D" else CREDIT, amount)


def journal(*lines: Line, place: int = 0, key: str | None = None, content: str = "", **more: Any) -> JournalRequest:
    entries = tuple(entry(line) for line in lines)
    request = JournalRequest(
        place=place,
        kind="post_journal",
        idempotency_key=key or f"key-{place}",
        fingerprint=(content or repr(lines)).encode(),
        asked={"place": place},
        currency=None,
        entries=entries,
        total=sum(one.amount for one in entries if one.side == DEBIT),
        type="journal",
    )
    return request._replace(**more)


def batch(*requests: Request, batch_id: UUID = BATCH, **more: Any) -> Batch:
    return Batch(
        batch_id=batch_id,
        message_id=None,
        principal_id=1,
        correlation=None,
        accepted_at=NOON,
        keeps_replays=False,
        requests=requests,
    )._replace(**more)


def planned(
    *requests: Request,
    balances: Mapping[str, Balance] | None = None,
    settled: Mapping[str, Settled] | None = None,
    recorded: frozenset[UUID] = frozenset(),
    batches: Sequence[Batch] = (),
    books: Books = BOOKS,
) -> Plan:
    known = {CODES[code]: balance for code, balance in (balances or {}).items()}
    return plan(
        batches or [batch(*requests)],
        chart=Chart(LEDGERS),
        balances={one.ledger_id: known.get(one.ledger_id, EMPTY) for one in LEDGERS},
        books=books,
        settled=settled or {},
        recorded=recorded,
    )


def codes_of(found: Plan) -> list[str]:
    return [job.error.code for job in found.rejected]


def changes_of(found: Plan) -> dict[str, tuple[int, int]]:
    name_of = {ledger_id: code for code, ledger_id in CODES.items()}
    return {name_of[change.ledger_id]: (change.debits, change.credits) for change in found.balances}


def test_a_journal_gives_its_entries_numbers_and_balances_and_its_heads_the_sums() -> None:
    found = planned(
        journal(("till", "D", 700), ("bank", "D", 300), ("sales", "C", 1_000)),
        journal(("claims", "D", 50), ("till", "C", 50), place=1, value_date=date(2026, 6, 1)),
        balances={"till": Balance(100, 40, 0, 2), "sales": Balance(0, 5, 0, 1)},
    )

    assert [(e.ledger_id, e.number, e.position, e.line, e.side, e.amount, e.balance_after) for e in found.entries] == [
        (4, 3, 11, 1, "D", 700, 760),
        (4, 4, 12, 2, "C", 50, 710),
        (5, 1, 11, 2, "D", 300, 300),
        (6, 1, 12, 1, "D", 50, 50),
        (7, 2, 11, 3, "C", 1_000, -1_005),
    ]
    assert changes_of(found) == {
        "till": (700, 50),
        "bank": (300, 0),
        "claims": (50, 0),
        "sales": (0, 1_000),
        "cash": (1_000, 50),
        "assets": (1_050, 50),
    }
    # deepest first, and by id within a depth: the order in which they are locked
    assert [change.ledger_id for change in found.balances] == [4, 5, 3, 6, 2, 7]
    assert {c.ledger_id: (c.entries, c.own_entries) for c in found.balances} == {
        4: (2, 2),
        5: (1, 1),
        3: (3, 0),
        6: (1, 1),
        2: (4, 0),
        7: (1, 1),
    }
    assert [(d.ledger_id, d.value_date.day, d.debits, d.credits) for d in found.days if d.ledger_id in {2, 3, 4}] == [
        (4, 1, 0, 50),
        (4, 2, 700, 0),
        (3, 1, 0, 50),
        (3, 2, 1_000, 0),
        (2, 1, 50, 50),
        (2, 2, 1_000, 0),
    ]
    first, second = found.posted
    assert (first.position, first.total, first.value_date, first.currency) == (11, 1_000, TODAY, "EUR")
    assert (first.entry_ledgers, first.entry_numbers) == ([4, 5, 7], [3, 1, 2])
    assert (second.position, second.entry_ledgers, second.entry_numbers) == (12, [6, 4], [1, 4])
    assert (second.job_id, second.ended_at) == (ids.job_id(BATCH, 1), NOON)


def test_a_refused_job_changes_nothing_for_the_next_and_takes_no_position() -> None:
    found = planned(
        journal(("till", "D", 100), ("sales", "C", 100)),
        journal(("sales", "D", 5_000), ("till", "C", 101), ("bank", "C", 4_899), place=1),
        journal(("bank", "D", 100), ("till", "C", 100), place=2),
    )

    assert [(job.position, job.idempotency_key) for job in found.posted] == [(11, "key-0"), (12, "key-2")]
    assert [(job.position, job.rejection, job.idempotency_key) for job in found.rejected] == [(11, 4, "key-1")]
    assert codes_of(found) == ["INSUFFICIENT_BALANCE"]
    assert found.rejected[0].error.details == {"field": "entries[1]", "ledger": "till", "available": 100, "taken": 101}
    assert found.rejected[0].asked == {"place": 1}
    assert changes_of(found)["till"] == (100, 100)
    assert changes_of(found)["sales"] == (0, 100)


def test_a_batch_of_refused_jobs_changes_no_balance() -> None:
    found = planned(
        journal(("sales", "D", 1), ("till", "C", 1)), journal(("nowhere", "D", 1), ("till", "C", 1), place=1)
    )

    assert (found.posted, found.entries, found.balances, found.days) == ([], [], [], [])
    assert [job.rejection for job in found.rejected] == [4, 5]
    assert [job.position for job in found.rejected] == [10, 10]


@pytest.mark.parametrize(
    ("lines", "more", "code"),
    [
        ([("nowhere", "D", 1), ("sales", "C", 1)], {}, "LEDGER_NOT_FOUND"),
        ([("cash", "D", 1), ("sales", "C", 1)], {}, "HEAD_LEDGER"),
        ([("closed", "D", 1), ("sales", "C", 1)], {}, "LEDGER_INACTIVE"),
        ([("dollars", "D", 1), ("sales", "C", 1)], {}, "CURRENCY_MISMATCH"),
        ([("bank", "D", 1), ("sales", "C", 1)], {"currency": "USD"}, "CURRENCY_NOT_SUPPORTED"),
        ([("may", "D", 1), ("sales", "C", 1)], {}, "LEDGER_NOT_OPEN"),
        ([("may", "D", 1), ("sales", "C", 1)], {"value_date": date(2026, 4, 30)}, "LEDGER_NOT_OPEN"),
        ([("bank", "D", 1), ("sales", "C", 1)], {"value_date": date(2026, 6, 4)}, "FUTURE_VALUE_DATE"),
        ([("bank", "D", LARGEST_MINOR_UNITS), ("sales", "C", LARGEST_MINOR_UNITS)], {}, None),
        (
            [("bank", "D", 1), ("bank", "D", LARGEST_MINOR_UNITS), ("sales", "C", 1)],
            {},
            "BALANCE_OUT_OF_RANGE",
        ),
        ([("may", "D", 1), ("sales", "C", 1)], {"value_date": date(2026, 5, 31)}, None),
        ([("bank", "D", 1), ("sales", "C", 1)], {"value_date": date(2026, 6, 3)}, None),
        ([("bank", "D", 1), ("sales", "C", 1)], {"currency": "EUR"}, None),
    ],
)
def test_what_the_books_refuse_has_its_code(lines: list[Line], more: dict[str, Any], code: str | None) -> None:
    found = planned(journal(*lines, **more), balances={"bank": Balance(0, 0, 0, 0)})

    assert codes_of(found) == ([] if code is None else [code])
    assert len(found.posted) == (code is None)


def test_names_that_disagree_are_refused_and_names_that_agree_are_not() -> None:
    def named(reference: LedgerReference) -> JournalRequest:
        first = EntryRequest(reference, DEBIT, 1)
        return journal(("sales", "C", 1))._replace(entries=(first, entry(("sales", "C", 1))))

    assert codes_of(planned(named(LedgerReference(code="bank", number=6)))) == ["LEDGER_REFERENCE_CONFLICT"]
    assert codes_of(planned(named(LedgerReference(code="bank", number=99)))) == ["LEDGER_NOT_FOUND"]
    assert codes_of(planned(named(LedgerReference(str(UUID(int=5)), "bank", 5)))) == []


def test_totals_grow_to_38_digits_and_no_further() -> None:
    nearly = Balance(LARGEST_MINOR_UNITS - 10, 0, 0, 1)

    assert codes_of(planned(journal(("bank", "D", 10), ("sales", "C", 10)), balances={"bank": nearly})) == []
    assert codes_of(planned(journal(("bank", "D", 11), ("sales", "C", 11)), balances={"bank": nearly})) == [
        "BALANCE_OUT_OF_RANGE"
    ]


# Floors


def test_a_floor_is_looked_at_where_the_journal_ends() -> None:
    # The till runs through -100 and ends at 0.
    found = planned(journal(("till", "C", 100), ("bank", "D", 100), ("till", "D", 100), ("bank", "C", 100)))

    assert codes_of(found) == []
    assert [e.balance_after for e in found.entries if e.ledger_id == CODES["till"]] == [-100, 0]


def test_each_side_of_a_split_entry_counts_towards_the_floor() -> None:
    found = planned(
        journal(("till", "C", 60), ("till", "C", 60), ("bank", "D", 120)), balances={"till": Balance(100, 0, 0, 1)}
    )

    assert found.rejected[0].error.details == {"field": "entries[0]", "ledger": "till", "available": 100, "taken": 120}


@pytest.mark.parametrize(("taken", "codes"), [(500, []), (501, ["INSUFFICIENT_BALANCE"])])
def test_an_overdraft_can_be_used_to_its_limit(taken: int, codes: list[str]) -> None:
    assert codes_of(planned(journal(("card", "D", taken), ("sales", "C", taken)))) == codes


def test_a_movement_up_is_never_refused_however_low_the_ledger_is() -> None:
    low = {"till": Balance(0, 1_000, 0, 1), "card": Balance(9_000, 0, 0, 1)}

    assert codes_of(planned(journal(("till", "D", 1), ("card", "C", 1)), balances=low)) == []
    assert codes_of(planned(journal(("till", "D", 1), ("till", "C", 1)), balances=low)) == []
    assert codes_of(planned(journal(("bank", "D", 1), ("till", "C", 1)), balances=low)) == ["INSUFFICIENT_BALANCE"]


def test_what_is_held_is_not_available() -> None:
    balances = {"till": Balance(100, 0, 30, 1)}

    assert codes_of(planned(journal(("bank", "D", 70), ("till", "C", 70)), balances=balances)) == []
    assert codes_of(planned(journal(("bank", "D", 71), ("till", "C", 71)), balances=balances)) == [
        "INSUFFICIENT_BALANCE"
    ]


def test_what_an_earlier_job_of_the_batch_brought_can_be_spent() -> None:
    spend, bring = ("bank", "D", 10), ("till", "D", 10)

    in_order = planned(journal(bring, ("sales", "C", 10)), journal(spend, ("till", "C", 10), place=1))
    too_soon = planned(journal(spend, ("till", "C", 10)), journal(bring, ("sales", "C", 10), place=1))

    assert codes_of(in_order) == []
    assert codes_of(too_soon) == ["INSUFFICIENT_BALANCE"]
    assert [job.idempotency_key for job in too_soon.posted] == ["key-1"]


# Keys


def test_the_same_key_with_the_same_content_posts_once() -> None:
    one = journal(("bank", "D", 1), ("sales", "C", 1), key="k")

    found = planned(one, one._replace(place=1))

    assert [job.job_id for job in found.posted] == [ids.job_id(BATCH, 0)]
    assert (found.rejected, found.replays, len(found.entries)) == ([], [], 2)


def test_a_replay_leads_to_the_first_job_where_ids_were_handed_out() -> None:
    one = journal(("bank", "D", 1), ("sales", "C", 1), key="k")

    found = planned(batches=[batch(one, one._replace(place=1), keeps_replays=True)])

    assert found.replays == [(ids.job_id(BATCH, 1), ids.job_id(BATCH, 0))]


def test_the_same_key_with_other_content_is_refused_and_names_the_job_that_has_it() -> None:
    found = planned(
        journal(("bank", "D", 1), ("sales", "C", 1), key="k"),
        journal(("bank", "D", 2), ("sales", "C", 2), key="k", place=1),
    )

    assert len(found.posted) == 1
    assert codes_of(found) == ["KEY_REUSED"]
    assert found.rejected[0].error.details == {"idempotency_key": "k", "job": ids.job_id(BATCH, 0)}
    assert (found.rejected[0].job_id, found.rejected[0].idempotency_key) == (ids.job_id(BATCH, 1), None)


def test_a_key_is_bound_by_a_rejection_too() -> None:
    poor = journal(("bank", "D", 1), ("till", "C", 1), key="k")
    bring = journal(("till", "D", 5), ("sales", "C", 5), key="bring", place=1)

    found = planned(poor, bring, poor._replace(place=2), journal(("bank", "D", 2), ("till", "C", 2), key="k", place=3))

    assert [job.idempotency_key for job in found.posted] == ["bring"]
    assert codes_of(found) == ["INSUFFICIENT_BALANCE", "KEY_REUSED"]


def test_a_key_that_was_settled_before_moves_nothing() -> None:
    one = journal(("bank", "D", 1), ("sales", "C", 1), key="k", content="same")
    first = ids.job_id(OTHER_BATCH, 3)

    found = planned(batches=[batch(one, keeps_replays=True)], settled={"k": Settled(first, b"same")})
    reused = planned(one, settled={"k": Settled(first, b"other")})
    own = planned(batches=[batch(one, keeps_replays=True)], settled={"k": Settled(ids.job_id(BATCH, 0), b"same")})

    assert (found.posted, found.rejected, found.replays) == ([], [], [(ids.job_id(BATCH, 0), first)])
    assert codes_of(reused) == ["KEY_REUSED"]
    assert (own.posted, own.rejected, own.replays) == ([], [], [])


def test_an_item_without_a_key_is_recorded_once_however_often_its_message_comes() -> None:
    unusable = UnusableRequest(0, "post_journal", None, None, "nonsense", UnknownField(field="x"))
    message = batch(unusable, message_id="task-1")

    first = planned(batches=[message])
    again = planned(batches=[message._replace(batch_id=OTHER_BATCH)], recorded=frozenset({first.rejected[0].job_id}))

    assert first.rejected[0].job_id == message.keyless_job_id(0) != ids.job_id(BATCH, 0)
    assert again.rejected == []


def test_batches_are_planned_one_after_the_other_and_share_keys_and_balances() -> None:
    bring = journal(("till", "D", 5), ("sales", "C", 5), key="k")
    spend = journal(("bank", "D", 5), ("till", "C", 5), key="spend", place=1)

    found = planned(batches=[batch(bring), batch(bring, spend, batch_id=OTHER_BATCH)])

    assert [job.job_id for job in found.posted] == [ids.job_id(BATCH, 0), ids.job_id(OTHER_BATCH, 1)]
    assert codes_of(found) == []


# Suspense and locks


def test_an_entry_on_suspense_needs_no_name() -> None:
    to_suspense = EntryRequest(LedgerReference(), CREDIT, 5, field="the suspense ledger", is_suspense=True)
    request = journal(("bank", "D", 5))._replace(entries=(entry(("bank", "D", 5)), to_suspense))

    found = planned(request)

    assert changes_of(found)["SUSPENSE"] == (0, 5)
    assert found.posted[0].entry_ledgers == [5, 1]


def test_everything_that_may_move_is_locked() -> None:
    request = journal(("till", "D", 1), ("sales", "C", 1), ("nowhere", "D", 1))

    assert ledgers_to_lock([batch(request)], Chart(LEDGERS), 1) == {1, 2, 3, 4, 7}


# Properties, over trees and batches of any shape


@st.composite
def trees(draw: st.DrawFn) -> list[Ledger]:
    heads = [ledger(100, "h100", is_head=True)]
    for ledger_id in range(101, 101 + draw(st.integers(0, 6))):
        parent = draw(st.sampled_from(heads))
        heads.append(
            ledger(ledger_id, f"h{ledger_id}", is_head=True, parent_id=parent.ledger_id, depth=parent.depth + 1)
        )
    leaves = []
    for ledger_id in range(2, 2 + draw(st.integers(2, 6))):
        above = draw(st.sampled_from([None, *heads]))
        leaves.append(
            ledger(
                ledger_id,
                f"leaf{ledger_id}",
                parent_id=above and above.ledger_id,
                depth=above.depth + 1 if above else 0,
                limit=draw(st.sampled_from([None, 0, 50])),
                normal_side=draw(st.sampled_from([DEBIT, CREDIT])),
            )
        )
    return [LEDGERS[0], *heads, *leaves]


@st.composite
def balanced_journals(draw: st.DrawFn, codes: list[str]) -> list[JournalRequest]:
    found = []
    for place in range(draw(st.integers(1, 12))):
        lines: list[Line] = [
            (draw(st.sampled_from(codes)), draw(st.sampled_from("DC")), draw(st.integers(1, 100)))
            for _ in range(draw(st.integers(1, 4)))
        ]
        difference = sum(amount if side == "D" else -amount for _, side, amount in lines)
        if difference:
            lines.append((draw(st.sampled_from(codes)), "C" if difference > 0 else "D", abs(difference)))
        if len(lines) < 2:
            continue
        day = draw(st.sampled_from([None, date(2026, 5, 1), date(2026, 5, 2)]))
        found.append(journal(*lines, place=place, value_date=day))
    return found


@PROPERTY
@given(st.data())
def test_every_head_gains_what_the_leaves_below_it_gain(data: st.DataObject) -> None:
    tree = data.draw(trees())
    requests = data.draw(balanced_journals([one.code for one in tree if not one.is_head]))
    by_id = {one.ledger_id: one for one in tree}
    balances = {
        one.ledger_id: EMPTY if one.is_head else Balance(1_000, data.draw(st.integers(0, 2_000)), 0, 9) for one in tree
    }

    found = plan(
        [batch(*requests)], chart=Chart(tree), balances=balances, books=BOOKS, settled={}, recorded=frozenset()
    )

    debits: defaultdict[int, int] = defaultdict(int)
    credits_: defaultdict[int, int] = defaultdict(int)
    days: defaultdict[tuple[int, date], list[int]] = defaultdict(lambda: [0, 0])
    last = {
        ledger_id: (balance.last_number, balance.debits - balance.credits) for ledger_id, balance in balances.items()
    }
    for one in found.entries:
        number, running = last[one.ledger_id]
        signed = one.amount if one.side == DEBIT else -one.amount
        assert (one.number, one.balance_after) == (number + 1, running + signed)
        last[one.ledger_id] = (one.number, one.balance_after)
        above: int | None = one.ledger_id
        while above is not None:
            (debits if one.side == DEBIT else credits_)[above] += one.amount
            days[above, one.value_date][0 if one.side == DEBIT else 1] += one.amount
            above = by_id[above].parent_id
    moved = debits.keys() | credits_.keys()
    assert {c.ledger_id: (c.debits, c.credits) for c in found.balances} == {
        ledger_id: (debits[ledger_id], credits_[ledger_id]) for ledger_id in moved
    }
    assert {(d.ledger_id, d.value_date): [d.debits, d.credits] for d in found.days} == days
    order = [(-change.depth, change.ledger_id) for change in found.balances]
    assert order == sorted(order)
    assert sum(e.amount if e.side == DEBIT else -e.amount for e in found.entries) == 0


@PROPERTY
@given(st.data())
def test_each_job_ends_once_in_order_and_a_refused_one_might_as_well_not_have_been_there(data: st.DataObject) -> None:
    tree = data.draw(trees())
    requests = data.draw(balanced_journals([one.code for one in tree if not one.is_head]))
    balances = {one.ledger_id: EMPTY if one.is_head else Balance(60, 60, 0, 2) for one in tree}

    def decide(chosen: Sequence[Request]) -> Plan:
        return plan(
            [batch(*chosen)], chart=Chart(tree), balances=balances, books=BOOKS, settled={}, recorded=frozenset()
        )

    found = decide(requests)
    posted_keys = [job.idempotency_key for job in found.posted]
    alone = decide([request for request in requests if request.idempotency_key in posted_keys])

    assert sorted([*posted_keys, *(job.idempotency_key or "" for job in found.rejected)]) == sorted(
        request.idempotency_key for request in requests
    )
    assert posted_keys == [r.idempotency_key for r in requests if r.idempotency_key in posted_keys]
    assert [job.position for job in found.posted] == list(range(11, 11 + len(posted_keys)))
    assert [job.rejection for job in found.rejected] == list(range(4, 4 + len(found.rejected)))
    assert (alone.posted, alone.entries, alone.balances, alone.days) == (
        found.posted,
        found.entries,
        found.balances,
        found.days,
    )
    assert alone.rejected == []
    assert all(job.error.code == "INSUFFICIENT_BALANCE" for job in found.rejected)


@PROPERTY
@given(st.data())
def test_no_journal_takes_a_ledger_below_its_floor(data: st.DataObject) -> None:
    tree = data.draw(trees())
    leaves = {one.ledger_id: one for one in tree if not one.is_head}
    requests = data.draw(balanced_journals([one.code for one in leaves.values()]))
    start = {ledger_id: data.draw(st.integers(-200, 200)) for ledger_id in leaves}
    balances = {one.ledger_id: Balance(500 + start.get(one.ledger_id, 0), 500, 0, 2) for one in tree}

    found = plan(
        [batch(*requests)], chart=Chart(tree), balances=balances, books=BOOKS, settled={}, recorded=frozenset()
    )

    before = dict(start)
    for job in found.posted:
        after = dict(before)
        for one in found.entries:
            if one.position == job.position:
                after[one.ledger_id] = one.balance_after
        for ledger_id, leaf in leaves.items():
            sign = 1 if leaf.normal_side == DEBIT else -1
            if leaf.limit is not None and after[ledger_id] * sign < before[ledger_id] * sign:
                assert after[ledger_id] * sign >= -leaf.limit
        before = after
