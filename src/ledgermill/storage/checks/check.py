"""What a check is."""

from dataclasses import dataclass
from typing import Final

SAME: Final = "the same statement, on what is new"


@dataclass(frozen=True, slots=True)
class Check:
    """A promise. `sql` selects its violations, each with an organization_id; `subject` is the table that it reads.

    `job`, `entry` and the other tables are what is verified (`storage.verify` writes them out): all of the books, or
    what was posted after a position. Two more say where that begins: `since`, a row for each organization (position,
    rejection, booked_at), and `base`, for each ledger its last entry before (number, position, balance_after). From the
    beginning they are 0 and empty.

    `since` is the statement for what is new: mostly the same. None: only a full run can tell. `needs_checkpoint`: it
    rests on what the last clean run kept, and so is not made from a position that somebody chose.
    """

    name: str
    sentence: str
    subject: str
    sql: str
    since: str | None = SAME
    needs_checkpoint: bool = False

    @property
    def sql_since(self) -> str | None:
        """The statement for what is new."""
        return self.sql if self.since == SAME else self.since
