"""Drafts: planned before the lock, shifted under it, and the same as a plan made under the lock, or none at all."""

from datetime import UTC, date, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ledgermill.domain import posting
from ledgermill.domain.journals import POST_JOURNAL, EntryRequest, JournalRequest, Request, UnusableRequest
from ledgermill.domain.ledgers import Chart, Ledger, LedgerReference
from ledgermill.domain.plans import Balance, Batch, Books, Plan, PostedEntry
from ledgermill.errors import TooFewEntries

LEAVES = 6
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 20, 13, tzinfo=UTC)
BOOKS = Books(1, "EUR", 41, 7, NOW, NOW.date(), 0, suspense_id=100)
BATCH_ID = UUID("0199aaaa-0000-7000-8000-000000000000")


def leaf(number: int, *, limit: int | None, side: str, active: bool = True) -> Ledger:
    return Ledger(
        number, str(UUID(int=number)), f"LEAF-{number}", number, "asset", "EUR", False, 50 + number % 2, 2, side, active,
        limit, None, None,
    )  # fmt: skip


def head(number: int, parent: int | None, depth: int) -> Ledger:
    return Ledger(
        number, str(UUID(int=number)), f"HEAD-{number}", number, "asset", "EUR", True, parent, depth, "D", True,
        None, None, None,
    )  # fmt: skip


HEADS = [head(49, None, 0), head(50, 49, 1), head(51, 49, 1)]
SUSPENSE = Ledger(
    100, str(UUID(int=100)), "SUSPENSE", 100, "liability", "EUR", False, None, 0, "C", True, None, None, None
)

limits = st.none() | st.integers(0, 200)
charts = st.lists(st.tuples(limits, st.sampled_from("DC"), st.booleans()), min_size=LEAVES, max_size=LEAVES).map(
    lambda made: Chart(
        [
            *HEADS,
            SUSPENSE,
            *(
                leaf(n, limit=limit, side=side, active=active or n < 3)
                for n, (limit, side, active) in enumerate(made, 1)
            ),
        ]
    )
)
totals = st.integers(0, 300)
balances = st.lists(st.builds(Balance, totals, totals, st.just(0), st.integers(0, 9)), min_size=LEAVES, max_size=LEAVES)
moves = st.lists(st.tuples(st.integers(1, LEAVES), st.integers(1, LEAVES), st.integers(1, 150)), min_size=1, max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    made: list[Request] = []
    for place in range(draw(st.integers(1, 8))):
        key = f"key-{draw(st.integers(0, 9))}"  # so that some repeat
        content = bytes([draw(st.integers(0, 2))]) * 32
        if draw(st.integers(0, 9)) == 0:
            made.append(UnusableRequest(place, POST_JOURNAL, key, content, {}, TooFewEntries(count=1)))
            continue
        pairs = draw(moves)
        entries = tuple(
            EntryRequest(LedgerReference(code=f"LEAF-{number}"), side, amount)
            for debit, credit, amount in pairs
            for number, side in ((debit, "D"), (credit, "C"))
        )
        value_date = draw(st.none() | st.sampled_from([date(2026, 11, 1), date(2026, 11, 20), date(2027, 1, 1)]))
        total = sum(amount for *_, amount in pairs)
        made.append(JournalRequest(place, POST_JOURNAL, key, content, {}, None, entries, total, "journal", value_date))
    return made


def absolute(plan: Plan) -> tuple[object, ...]:
    """What of a plan reaches the tables, with its shift."""
    shift, starts = plan.shift, plan.shift.entries

    def at(entry: PostedEntry) -> PostedEntry:
        number, balance = starts.get(entry.ledger_id, (0, 0))
        return entry._replace(
            number=number + entry.number,
            balance_after=balance + entry.balance_after,
            position=shift.positions + entry.position,
        )

    posted = [
        job._replace(
            position=shift.positions + job.position,
            ended_at=LATER,
            entry_numbers=[
                starts.get(ledger, (0, 0))[0] + number
                for ledger, number in zip(job.entry_ledgers, job.entry_numbers, strict=True)
            ],
        )
        for job in plan.posted
    ]
    rejected = [
        (
            job.job_id,
            job.idempotency_key,
            shift.positions + job.position,
            shift.rejections + job.rejection,
            str(job.error),
        )
        for job in plan.rejected
    ]
    return posted, rejected, [at(entry) for entry in plan.entries], plan.balances, plan.days, plan.replays


@given(chart=charts, before=balances, asked=requests())
def test_a_draft_that_fits_is_the_plan_that_the_lock_would_have_made(
    chart: Chart, before: list[Balance], asked: list[Request]
) -> None:
    batch = Batch(BATCH_ID, None, 1, None, NOW, True, asked)
    locked = dict(enumerate(before, 1)) | {ledger.ledger_id: Balance(900, 900, 0, 0) for ledger in [*HEADS, SUSPENSE]}
    drafted = posting.draft([batch], chart=chart, chart_version=3, assumed=BOOKS)
    assert drafted is not None

    fitted = posting.fit(drafted, chart=chart, balances=locked, books=BOOKS)
    planned = posting.plan([batch], chart=chart, balances=locked, books=BOOKS, settled={}, recorded=frozenset())

    if fitted is not None:
        assert absolute(fitted) == absolute(planned)
    else:
        assert any(job.error.code == "INSUFFICIENT_BALANCE" for job in planned.rejected)


def test_a_draft_is_given_up_where_a_floor_would_be_broken_at_any_journal() -> None:
    chart = Chart([*HEADS, SUSPENSE, leaf(1, limit=0, side="D"), leaf(2, limit=None, side="D")])

    def moved(place: int, debit: int, credit: int, amount: int) -> JournalRequest:
        entries = (
            EntryRequest(LedgerReference(code=f"LEAF-{debit}"), "D", amount),
            EntryRequest(LedgerReference(code=f"LEAF-{credit}"), "C", amount),
        )
        return JournalRequest(place, POST_JOURNAL, f"k{place}", b"", {}, None, entries, amount, "journal")

    out_and_in = Batch(BATCH_ID, None, 1, None, NOW, True, [moved(0, 2, 1, 60), moved(1, 1, 2, 60)])
    drafted = posting.draft([out_and_in], chart=chart, chart_version=3, assumed=BOOKS)
    assert drafted is not None
    others = {ledger.ledger_id: Balance(0, 0, 0, 0) for ledger in [*HEADS, SUSPENSE, leaf(2, limit=None, side="D")]}

    enough = posting.fit(drafted, chart=chart, balances=others | {1: Balance(60, 0, 0, 0)}, books=BOOKS)
    too_little = posting.fit(drafted, chart=chart, balances=others | {1: Balance(59, 0, 0, 0)}, books=BOOKS)
    partly_held = posting.fit(drafted, chart=chart, balances=others | {1: Balance(60, 0, 1, 0)}, books=BOOKS)

    assert enough is not None
    assert too_little is None
    assert partly_held is None


def test_a_draft_of_other_books_is_not_current() -> None:
    chart = Chart([*HEADS, SUSPENSE, leaf(1, limit=0, side="D"), leaf(2, limit=None, side="D")])
    batch = Batch(BATCH_ID, None, 1, None, NOW, True, [])
    drafted = posting.draft([batch], chart=chart, chart_version=3, assumed=BOOKS)
    assert drafted is not None
    later = BOOKS._replace(next_position=99, next_rejection=12, booked_at=LATER)

    assert posting.is_current(drafted, chart_version=3, books=later)
    assert not posting.is_current(drafted, chart_version=4, books=later)
    assert not posting.is_current(drafted, chart_version=3, books=later._replace(today=date(2026, 11, 21)))
    assert not posting.is_current(drafted, chart_version=3, books=later._replace(max_future_days=1))


def test_a_ledger_that_memory_does_not_know_leaves_the_decision_to_the_database() -> None:
    entry = EntryRequest(LedgerReference(code="NEW"), "D", 1)
    request = JournalRequest(0, POST_JOURNAL, "k", b"", {}, None, (entry, entry._replace(side="C")), 1, "journal")
    batch = Batch(BATCH_ID, None, 1, None, NOW, True, [request])

    assert posting.draft([batch], chart=Chart([SUSPENSE]), chart_version=3, assumed=BOOKS) is None


def test_a_draft_that_does_not_fit_has_locked_what_its_refused_jobs_name_too() -> None:
    closed = leaf(3, limit=None, side="D", active=False)
    chart = Chart([*HEADS, SUSPENSE, leaf(1, limit=0, side="D"), leaf(2, limit=None, side="D"), closed])

    def moved(place: int, debit: int, credit: int) -> JournalRequest:
        entries = (
            EntryRequest(LedgerReference(code=f"LEAF-{debit}"), "D", 5),
            EntryRequest(LedgerReference(code=f"LEAF-{credit}"), "C", 5),
        )
        return JournalRequest(place, POST_JOURNAL, f"k{place}", b"", {}, None, entries, 5, "journal")

    batch = Batch(BATCH_ID, None, 1, None, NOW, True, [moved(0, 3, 2), moved(1, 2, 1)])
    drafted = posting.draft([batch], chart=chart, chart_version=3, assumed=BOOKS)
    assert drafted is not None
    locked = {ledger_id: Balance(0, 0, 0, 0) for ledger_id in drafted.ledger_ids}

    assert posting.fit(drafted, chart=chart, balances=locked, books=BOOKS) is None
    planned = posting.plan([batch], chart=chart, balances=locked, books=BOOKS, settled={}, recorded=frozenset())

    assert [job.error.code for job in planned.rejected] == ["LEDGER_INACTIVE", "INSUFFICIENT_BALANCE"]
