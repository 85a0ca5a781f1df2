"""The workbench for jobs that were not posted: what is shown of them, what is asked, and how a request is mended."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final, Literal, NotRequired, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from ledgermill.errors import InvalidField, InvalidJson
from ledgermill.messages.fields import IdempotencyKey, InstantText, Name, first_problem
from ledgermill.messages.jobs import ErrorV1, JobKind, JobV1

RejectedState = Literal["rejected", "quarantined"]
MOST_RESENT_AT_ONCE: Final = 500

_STRICT: Final = ConfigDict(extra="forbid", strict=True)


class RejectedJobV1(BaseModel):
    """A job that was not posted. `refusal` counts these from 1; an open one was not dealt with by sending it again."""

    id: UUID
    refusal: int
    kind: JobKind
    state: RejectedState
    code: str
    message: str
    idempotency_key: str | None
    accepted_at: datetime
    ended_at: datetime
    correlation_id: str | None
    is_open: bool


class RejectedPageV1(BaseModel):
    """Jobs that were not posted, newest first. `next_before` leads on, also from a page that is not full."""

    jobs: list[RejectedJobV1]
    next_before: int | None


class RejectedCountV1(BaseModel):
    """How many jobs were not posted for one reason, and how many of them are open."""

    code: str
    kind: JobKind
    state: RejectedState
    jobs: int
    open_jobs: int
    newest: datetime
    oldest: datetime


class RejectedSummaryV1(BaseModel):
    """Counts by code and kind, the most frequent first. `is_complete` is false where older ones were not counted."""

    counts: list[RejectedCountV1]
    is_complete: bool


class ActorV1(BaseModel):
    """Who did it: an API key, a user of the command line, or whoever may publish to the broker."""

    kind: Literal["broker", "key", "cli"]
    name: str


class MendedV1(BaseModel):
    """A job that was made of another one, by whom and when."""

    mended_from: UUID
    mended_by: ActorV1
    mended_at: datetime


class ResentV1(MendedV1):
    """A job that was made of the one that is shown, or of one of the same family, and where it stands."""

    number: int
    job: JobV1


class RejectedShownV1(RejectedJobV1):
    """A job that was not posted, with its request, where it came from, and what became of it later."""

    request: Any = Field(description="The item as it came; without an idempotency key it may be any JSON.")
    details: dict[str, Any]
    sent_by: ActorV1
    mended: MendedV1 | None
    resent: list[ResentV1]


class RehearsedEntryV1(BaseModel):
    """An entry as it would be. `balance_after` is positive on the ledger's normal side."""

    ledger_code: str
    ledger_num_id: int
    type: Literal["debit", "credit"]
    amount: int
    balance_after: int


class RehearsedBalanceV1(BaseModel):
    """A ledger that the journal would move, or a head above one: its balance, positive on its normal side."""

    ledger_code: str
    is_head: bool
    before: int
    after: int


class RehearsedJournalV1(BaseModel):
    """The journal as it would be, the leaves first among the balances."""

    type: str
    value_date: date
    total_amount: int
    currency_code: str
    description: str | None
    reference_id: str | None
    entries: list[RehearsedEntryV1]
    balances: list[RehearsedBalanceV1]


class RehearsalV1(BaseModel):
    """What would become of a request against the books of `as_of`: the journal, or why there would be none."""

    would_post: bool
    as_of: datetime
    due_at: datetime | None = None
    error: ErrorV1 | None = None
    journal: RehearsedJournalV1 | None = None


class NotSentV1(BaseModel):
    """A job that was not sent, or would not post, and why."""

    id: UUID
    code: str
    message: str


class ResentManyV1(BaseModel):
    """What one step of sending many did, or with `dry_run` would do.

    `sent` are the new jobs (with `dry_run` the old ones that would post). Ask again with `next_after` and `until` until
    `next_after` is null. `remaining` are those behind it, counted up to 5,000 refusals ahead.
    """

    sent: list[UUID]
    not_sent: list[NotSentV1]
    remaining: int
    next_after: int | None
    until: int


@with_config(_STRICT)
class RehearseAskV1(TypedDict):
    """How the request is mended first; as it was without either. `patch` is a JSON merge patch (RFC 7396), in which an
    object of indexes changes items of a list: `{"entries": {"0": {"ledger_code": "CASH"}}}`.
    """

    patch: NotRequired[dict[str, Any] | None]
    replacement: NotRequired[dict[str, Any] | None]


@with_config(_STRICT)
class ResendAskV1(TypedDict):
    """As RehearseAskV1. Without a key the new job gets one of its own; `again` sends also what was posted meanwhile."""

    patch: NotRequired[dict[str, Any] | None]
    replacement: NotRequired[dict[str, Any] | None]
    idempotency_key: NotRequired[IdempotencyKey | None]
    again: NotRequired[bool]


@with_config(_STRICT)
class RejectedFilterV1(TypedDict):
    """Which open jobs; a field that is left out asks for nothing."""

    code: NotRequired[Name | None]
    kind: NotRequired[JobKind | None]
    state: NotRequired[RejectedState | None]
    reference_id: NotRequired[Name | None]
    text: NotRequired[Name | None]
    rejected_from: NotRequired[InstantText | None]
    rejected_to: NotRequired[InstantText | None]


@with_config(_STRICT)
class ResendManyAskV1(TypedDict):
    """Send open jobs of a filter, oldest first: those refused after the count `after`, up to `until` (now the last)."""

    filter: RejectedFilterV1
    patch: NotRequired[dict[str, Any] | None]
    limit: NotRequired[int]
    after: NotRequired[int]
    until: NotRequired[int | None]
    dry_run: NotRequired[bool]


REHEARSE_ASK: Final[TypeAdapter[RehearseAskV1]] = TypeAdapter(RehearseAskV1)
RESEND_ASK: Final[TypeAdapter[ResendAskV1]] = TypeAdapter(ResendAskV1)
RESEND_MANY_ASK: Final[TypeAdapter[ResendManyAskV1]] = TypeAdapter(ResendManyAskV1)


_Ask = TypeVar("_Ask")


def read_ask(shape: TypeAdapter[_Ask], body: bytes) -> _Ask:
    """A body of one of these shapes; an empty one is `{}`. Raises InvalidJson, and what is wrong with a field."""
    try:
        return shape.validate_json(body or b"{}")
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise InvalidJson(problem=error.errors()[0]["msg"]) from None
        raise first_problem(error) from None


def mended(asked: object, *, patch: Mapping[str, Any] | None, replacement: Mapping[str, Any] | None) -> Any:
    """A request as it is to be sent: replaced as a whole, or patched, or as it was.

    Raises: InvalidField, where both are given, or where a patch names an item that a list does not have.
    """
    if patch is not None and replacement is not None:
        raise InvalidField(field="replacement", problem="cannot be given together with a patch; give one of them")
    if replacement is not None:
        return dict(replacement)
    return asked if patch is None else _patched(asked, patch, within="")


def _patched(target: object, patch: object, *, within: str) -> Any:
    """RFC 7396; and an object patches a list by the indexes of its items, where the RFC would replace the list."""
    if not isinstance(patch, Mapping):
        return patch
    if isinstance(target, list):
        items = list(target)
        for index, part in patch.items():
            if not (index.isascii() and index.isdigit() and len(index) < 6 and int(index) < len(items)):  # noqa: PLR2004
                raise InvalidField(
                    field=f"patch: {within}{index}", problem=f"must be the index of one of {len(items)} items"
                )
            items[int(index)] = _patched(items[int(index)], part, within=f"{within}{index}.")
        return items
    merged = dict(target) if isinstance(target, dict) else {}
    for name, part in patch.items():
        if part is None:
            merged.pop(name, None)
        else:
            merged[name] = _patched(merged.get(name), part, within=f"{within}{name}.")
    return merged
