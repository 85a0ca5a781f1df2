"""Ids nest: a batch leads its jobs, a job its entries, and all of them are in time order."""

from uuid import UUID, uuid1, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from ledgermill.domain import ids

PROPERTY = settings(deadline=None, database=None)
MILLISECONDS = st.integers(0, 2**48 - 1)
RANDOM_BITS = st.integers(0, 2**42 - 1)
PLACES = st.integers(0, 65_535)
LINES = st.integers(1, 65_535)


def test_a_batch_id_has_the_bits_that_the_standard_asks_for() -> None:
    # 2024-01-01T00:00:00Z is 1704067200000 ms, in hex 018cc251f400
    assert ids.batch_id(unix_ms=1_704_067_200_000, random_bits=0) == UUID("018cc251-f400-7000-8000-000000000000")
    # 42 bits of 1: 12 after the version, 30 after the variant
    assert ids.batch_id(unix_ms=0, random_bits=2**42 - 1) == UUID("00000000-0000-7fff-bfff-ffff00000000")


def test_a_job_writes_its_place_and_an_entry_its_line_into_the_free_bits() -> None:
    batch = ids.batch_id(unix_ms=1_704_067_200_000, random_bits=0)

    job = ids.job_id(batch, 258)
    entry = ids.entry_id(job, 3)

    assert job == UUID("018cc251-f400-7000-8000-000001020000")
    assert entry == UUID("018cc251-f400-7000-8000-000001020003")


@PROPERTY
@given(MILLISECONDS, RANDOM_BITS, PLACES, LINES)
def test_an_entry_leads_back_to_its_job_and_its_batch(unix_ms: int, random_bits: int, place: int, line: int) -> None:
    batch = ids.batch_id(unix_ms=unix_ms, random_bits=random_bits)
    job = ids.job_id(batch, place)
    entry = ids.entry_id(job, line)

    assert ids.is_batch_id(batch)
    assert not ids.is_batch_id(entry)
    assert (batch.version, batch.variant) == (7, "specified in RFC 4122")
    assert ids.job_of(entry) == job
    assert ids.batch_of(entry) == ids.batch_of(job) == ids.batch_of(batch) == batch
    assert ids.place_of(job) == ids.place_of(entry) == place
    assert batch.int >> 80 == job.int >> 80 == unix_ms


@PROPERTY
@given(MILLISECONDS, MILLISECONDS, RANDOM_BITS, RANDOM_BITS, PLACES, PLACES)
def test_ids_are_ordered_by_time_and_then_by_place(
    early: int, late: int, bits: int, other_bits: int, place: int, other_place: int
) -> None:
    early, late = sorted((early, late))
    batch = ids.batch_id(unix_ms=early, random_bits=bits)
    later = ids.batch_id(unix_ms=late, random_bits=other_bits)

    if early < late:
        assert ids.job_id(batch, place) < ids.job_id(later, other_place)
        assert ids.first_at(early) < ids.entry_id(ids.job_id(batch, place), 65_535) < ids.first_at(late)
    assert (ids.job_id(batch, place) < ids.job_id(batch, other_place)) == (place < other_place)


@PROPERTY
@given(MILLISECONDS, RANDOM_BITS, RANDOM_BITS)
def test_other_random_bits_make_another_batch(unix_ms: int, bits: int, other_bits: int) -> None:
    one = ids.batch_id(unix_ms=unix_ms, random_bits=bits)
    other = ids.batch_id(unix_ms=unix_ms, random_bits=other_bits)

    assert (one == other) == (bits == other_bits)


def test_ids_of_other_makers_are_no_batch_ids() -> None:
    assert not ids.is_batch_id(uuid4())
    assert not ids.is_batch_id(uuid1())
    assert not ids.is_batch_id(UUID("018cc251-f400-7000-8000-000000000001"))
    assert not ids.is_batch_id(UUID("018cc251-f400-4000-8000-000000000000"))
    assert not ids.is_batch_id(UUID(int=0))
