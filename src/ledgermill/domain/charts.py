"""Charts of ledgers: what must hold before ledgers are opened, many at a time and parents in any order."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ledgermill.domain.ledgers import Chart, Ledger, LedgerReference, LedgerType
from ledgermill.errors import (
    CodeTaken,
    CurrencyNotSupported,
    InvalidField,
    LedgermillError,
    LedgerNotFound,
    LedgerReferenceConflict,
    NumberTaken,
    ParentIsLeaf,
    TypeMismatch,
)

DEEPEST = 32  # levels; a cascade locks one row for each


class NewLedger(NamedTuple):
    """A ledger to be opened, by what decides whether it may be. `is_head` None: a head if it is named as a parent."""

    code: str
    number: int | None
    type: LedgerType | None
    currency: str
    is_head: bool | None
    parent: LedgerReference | None


class Opening(NamedTuple):
    """How one of them, by its index, is opened: below `parent`, which is there, or below another new one."""

    item: int
    type: LedgerType
    depth: int
    is_head: bool
    parent: Ledger | None
    parent_index: int | None


def order_openings(
    new: Sequence[NewLedger],
    *,
    chart: Chart,
    codes_taken: set[str],
    numbers_taken: set[int],
    base_currency: str,
) -> tuple[list[Opening], dict[int, LedgermillError]]:
    """Heads before what is below them, and what is wrong, by index; nothing may be opened where anything is."""
    problems: dict[int, LedgermillError] = {}
    codes, numbers = set(codes_taken), set(numbers_taken)
    for index, ledger in enumerate(new):
        problem = _problem_of(ledger, codes, numbers, base_currency)
        if problem is not None:
            problems[index] = problem
        codes.add(ledger.code)
        if ledger.number is not None:
            numbers.add(ledger.number)
    by_code = {ledger.code: index for index, ledger in reversed(list(enumerate(new)))}
    by_number = {ledger.number: index for index, ledger in reversed(list(enumerate(new))) if ledger.number}
    orderer = _Orderer(new, chart, by_code, by_number, problems)
    openings = [orderer.opening(index) for index in range(len(new))]
    return sorted((o for o in openings if o is not None), key=lambda o: o.depth), problems


def _problem_of(ledger: NewLedger, codes: set[str], numbers: set[int], base_currency: str) -> LedgermillError | None:
    if ledger.code in codes:
        return CodeTaken(field="code", code=ledger.code)
    if ledger.number is not None and ledger.number in numbers:
        return NumberTaken(field="ledger_num_id", number=ledger.number)
    if ledger.currency != base_currency:
        return CurrencyNotSupported(field="currency_code", base_currency=base_currency, currency=ledger.currency)
    return None


class _Orderer:
    def __init__(
        self,
        new: Sequence[NewLedger],
        chart: Chart,
        by_code: Mapping[str, int],
        by_number: Mapping[int, int],
        problems: dict[int, LedgermillError],
    ) -> None:
        self.new, self.chart, self.by_code, self.by_number, self.problems = new, chart, by_code, by_number, problems
        self.done: dict[int, Opening | None] = {}
        self.parents = {self._parent_index(ledger.parent) for ledger in new if ledger.parent is not None}

    def opening(self, index: int) -> Opening | None:
        """The opening of one ledger once those above it are known; None where something is wrong with it or above."""
        path: list[int] = []
        on_path: set[int] = set()
        at: int | None = index
        while at is not None and at not in self.done:
            if at in on_path:
                self.problems[at] = InvalidField(field="parent", problem="the ledger would be above itself")
                self.done[at] = None
                break
            path.append(at)
            on_path.add(at)
            parent = self.new[at].parent
            at = None if parent is None else self._parent_index(parent)
        for step in reversed(path):
            if step not in self.done:
                try:
                    self.done[step] = self._opening(step)
                except LedgermillError as error:
                    self.problems.setdefault(step, error)
                    self.done[step] = None
        return self.done[index]

    def _opening(self, index: int) -> Opening | None:
        ledger = self.new[index]
        is_head = ledger.is_head if ledger.is_head is not None else index in self.parents
        if ledger.parent is None:
            return Opening(index, _require_type(ledger.type), 0, is_head, None, None)
        parent_index = self._parent_index(ledger.parent)
        if parent_index is None:
            parent = self._existing(ledger.parent)
            self._require_fit(ledger, parent.type, parent.code, is_head=parent.is_head)
            return Opening(index, parent.type, _deeper(parent.depth), is_head, parent, None)
        above = self.done[parent_index]
        if above is None:  # what is wrong up there is said there
            return None
        self._require_fit(ledger, above.type, self.new[parent_index].code, is_head=above.is_head)
        return Opening(index, above.type, _deeper(above.depth), is_head, None, parent_index)

    def _existing(self, reference: LedgerReference) -> Ledger:
        found = self.chart.find(reference)
        first = found[0] if found else None
        if first is None or None in found:
            raise LedgerNotFound(field="parent", ledger=str(reference))
        if any(other is not first for other in found):
            raise LedgerReferenceConflict(field="parent")
        return first

    def _parent_index(self, reference: LedgerReference) -> int | None:
        if reference.code is not None:
            return self.by_code.get(reference.code)
        return None if reference.number is None else self.by_number.get(reference.number)

    def _require_fit(self, ledger: NewLedger, parent_type: LedgerType, parent_code: str, *, is_head: bool) -> None:
        if not is_head:
            raise ParentIsLeaf(field="parent", ledger=parent_code)
        if ledger.type is not None and ledger.type != parent_type:
            raise TypeMismatch(field="type", ledger=parent_code, type=parent_type)


def _require_type(ledger_type: LedgerType | None) -> LedgerType:
    if ledger_type is None:
        raise InvalidField(field="type", problem="a ledger without a parent needs a type or a type_code")
    return ledger_type


def _deeper(depth: int) -> int:
    if depth + 1 >= DEEPEST:
        raise InvalidField(field="parent", problem=f"a tree has at most {DEEPEST} levels")
    return depth + 1
