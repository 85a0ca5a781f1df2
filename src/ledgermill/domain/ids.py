"""Ids nest: a batch id leads its jobs' ids, a job id leads its entries' ids.

A batch id is a UUIDv7 whose last 32 bits are zero. A job writes its place in the batch (0 to 65,535) into the upper
16 of them, an entry its line in the journal (1 to 65,535) into the lower 16. Time order is kept, and an entry leads to
its journal and batch without an index.
"""

import uuid

LAST_32_BITS = 0xFFFF_FFFF
LAST_16_BITS = 0xFFFF
RANDOM_BITS = 42


def batch_id(*, unix_ms: int, random_bits: int) -> uuid.UUID:
    """The id of a batch accepted at `unix_ms`; `random_bits` is a random number below 2^42.

    Made here because library generators may count up in the last 32 bits within a millisecond, which are ours.
    Layout: RFC 9562, section 5.7.
    """
    high, low = divmod(random_bits, 1 << 30)
    return uuid.UUID(int=(unix_ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low << 32)


def is_batch_id(candidate: uuid.UUID) -> bool:
    """Whether this can be a batch id: version 7 with the places left free."""
    return candidate.version == 7 and not candidate.int & LAST_32_BITS  # noqa: PLR2004 - the UUID version


def job_id(batch: uuid.UUID, place: int) -> uuid.UUID:
    """The id of the job at `place` (0 to 65,535) of a batch."""
    return uuid.UUID(int=batch.int | place << 16)


def entry_id(job: uuid.UUID, line: int) -> uuid.UUID:
    """The id of the entry at `line` (1 to 65,535) of a journal."""
    return uuid.UUID(int=job.int | line)


def batch_of(job_or_entry: uuid.UUID) -> uuid.UUID:
    """The batch that a job or an entry came in."""
    return uuid.UUID(int=job_or_entry.int & ~LAST_32_BITS)


def job_of(entry: uuid.UUID) -> uuid.UUID:
    """The journal that an entry belongs to."""
    return uuid.UUID(int=entry.int & ~LAST_16_BITS)


def place_of(job: uuid.UUID) -> int:
    """A job's place in its batch."""
    return (job.int & LAST_32_BITS) >> 16


def first_at(unix_ms: int) -> uuid.UUID:
    """The lowest id of that millisecond: with it, a range of ids is a range of time."""
    return uuid.UUID(int=(unix_ms & 0xFFFF_FFFF_FFFF) << 80)
