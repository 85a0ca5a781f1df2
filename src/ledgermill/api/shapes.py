"""What OpenAPI says of bodies that routes read by themselves, and of problems."""

from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from ledgermill.messages.jobs import LookupAskV1
from ledgermill.messages.journals import BalanceUpdateV1, JournalV1
from ledgermill.messages.ledgers import LedgerNewV1
from ledgermill.messages.rejected import RehearseAskV1, ResendAskV1, ResendManyAskV1

_READ_BY_HAND: Final = (
    *(JournalV1, BalanceUpdateV1, LedgerNewV1, LookupAskV1),
    *(RehearseAskV1, ResendAskV1, ResendManyAskV1),
)
_REF: Final = "#/components/schemas/{model}"

JOURNAL: Final = _REF.format(model="JournalV1")
BALANCE_UPDATE: Final = _REF.format(model="BalanceUpdateV1")
LEDGER_NEW: Final = _REF.format(model="LedgerNewV1")
LOOKUP_ASK: Final = _REF.format(model="LookupAskV1")
REHEARSE_ASK: Final = _REF.format(model="RehearseAskV1")
RESEND_ASK: Final = _REF.format(model="ResendAskV1")
RESEND_MANY_ASK: Final = _REF.format(model="ResendManyAskV1")


class ProblemV1(BaseModel):
    """An error by RFC 9457, with our stable code, the sentence and the facts."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    message: str
    details: dict[str, Any]


_MEANING: Final = {
    400: "Invalid: the request breaks a rule by itself.",
    401: "The API key is missing, wrong, expired or revoked.",
    403: "The API key lacks the scope.",
    404: "What the request names is not there.",
    409: "Conflict, as a key that is bound to other content.",
    422: "Refused: the books say no as they stand.",
    503: "Unavailable: try again after Retry-After.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route."""
    return {
        status: {
            "description": _MEANING[status],
            "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="ProblemV1")}}},
        }
        for status in statuses
    }


def schemas() -> dict[str, Any]:
    """The component schemas that no route's signature mentions."""
    found: dict[str, Any] = {}
    for shape in (*_READ_BY_HAND, ProblemV1):
        schema = TypeAdapter(shape).json_schema(ref_template=_REF)
        found |= schema.pop("$defs", {})
        found[shape.__name__] = schema
    return found
