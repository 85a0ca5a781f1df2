"""Every error that ledgermill reports: three kinds, one stable code each.

Codes are a contract with clients: new ones are added, old ones keep their name and meaning.
"""

from functools import partial
from typing import ClassVar


class LedgermillError(Exception):
    """Base of all reported errors: a code for programs, a sentence for people, the facts as details."""

    kind: ClassVar[str]
    code: ClassVar[str]
    sentence: ClassVar[str]

    def __init__(self, **details: object) -> None:
        super().__init__(self.sentence.format(**details))
        self.details = details

    def __reduce__(self) -> tuple[object, tuple[()]]:
        # Celery hands errors from process to process pickled; they are rebuilt from their details.
        return partial(type(self), **self.details), ()


class Invalid(LedgermillError):
    """The request breaks a rule by itself; it will be invalid every time."""

    kind = "invalid"


class Refused(LedgermillError):
    """The request is sound, but the books say no as they stand."""

    kind = "refused"


class NotFound(Refused):
    """What the request names is not there."""


class Conflict(Refused):
    """The request contradicts what is already there."""


class Unavailable(LedgermillError):
    """Something that we depend on did not answer. The only kind that is tried again."""

    kind = "unavailable"


# Invalid: the request by itself


class InvalidJson(Invalid):
    code = "INVALID_JSON"
    sentence = "This cannot be read as JSON: {problem}"


class InvalidField(Invalid):
    code = "INVALID_FIELD"
    sentence = "{field}: {problem}"


class MissingField(Invalid):
    code = "MISSING_FIELD"
    sentence = "{field} is missing; it is required."


class UnknownField(Invalid):
    code = "UNKNOWN_FIELD"
    sentence = "{field} is not a field that we know; correct its name or leave it out."


class InvalidAmount(Invalid):
    code = "INVALID_AMOUNT"
    sentence = "{field} must be a whole number of minor units above 0, at most 38 digits long; {given} is not.{hint}"


class InvalidIdempotencyKey(Invalid):
    code = "INVALID_IDEMPOTENCY_KEY"
    sentence = "{field} must be 1 to 255 characters, none of them a control character."


class MissingIdempotencyKey(Invalid):
    code = "MISSING_IDEMPOTENCY_KEY"
    sentence = "{field} is missing; without it a repeated request cannot be told from a new one."


class TooFewEntries(Invalid):
    code = "TOO_FEW_ENTRIES"
    sentence = "A journal needs at least 2 entries; this one has {count}."


class Unbalanced(Invalid):
    code = "UNBALANCED"
    sentence = "Debits minus credits is {difference} minor units of {currency}; it must be 0."


class TotalMismatch(Invalid):
    code = "TOTAL_MISMATCH"
    sentence = "total_amount is {total_amount}, but the debits sum to {debits}; correct one or leave total_amount out."


class LedgerReferenceMissing(Invalid):
    code = "LEDGER_REFERENCE_MISSING"
    sentence = "{field} names no ledger; give ledger_id, ledger_code or ledger_num_id."


class LedgerReferenceConflict(Invalid):
    code = "LEDGER_REFERENCE_CONFLICT"
    sentence = "{field} names different ledgers by its identifiers; give one of them, or make them agree."


class BatchSize(Invalid):
    code = "BATCH_SIZE"
    sentence = "A batch has 1 to {most} items; this one has {count}. Send several batches."


class InvalidChart(Invalid):
    code = "INVALID_CHART"
    sentence = "{count} of the ledgers cannot be opened, so none was; the first: {first}"


class InvalidFile(Invalid):
    code = "INVALID_FILE"
    sentence = "{count} of the lines cannot be read, so nothing of the file was posted; the first: {first}"


class InvalidCursor(Invalid):
    code = "INVALID_CURSOR"
    sentence = "{field} is not a position that we gave out: {given}"


class Unauthenticated(Invalid):
    code = "UNAUTHENTICATED"
    sentence = (
        "The API key is missing, wrong, expired or revoked; send it as Authorization: Bearer KEY or X-API-Key: KEY."
    )


class ScopeMissing(Invalid):
    code = "SCOPE_MISSING"
    sentence = "This API key lacks the scope {scope}."


class DatabaseRefused(Invalid):
    code = "DATABASE_REFUSED"
    sentence = "The database cannot store this ({sqlstate}): {problem}"


# Refused: the books as they stand


class OrganizationNotFound(NotFound):
    code = "ORGANIZATION_NOT_FOUND"
    sentence = "There is no organization {organization}."


class OrganizationExists(Conflict):
    code = "ORGANIZATION_EXISTS"
    sentence = "There is an organization {organization} already."


class KeyNotFound(NotFound):
    code = "KEY_NOT_FOUND"
    sentence = "There is no API key {key}."


class LedgerNotFound(NotFound):
    code = "LEDGER_NOT_FOUND"
    sentence = "{field}: there is no ledger {ledger}."


class JobNotFound(NotFound):
    code = "JOB_NOT_FOUND"
    sentence = "There is no job {job}."


class BatchNotFound(NotFound):
    code = "BATCH_NOT_FOUND"
    sentence = "There is no batch {batch}."


class JournalNotFound(NotFound):
    code = "JOURNAL_NOT_FOUND"
    sentence = "There is no journal {journal}."


class QuarantineNotFound(NotFound):
    code = "QUARANTINE_NOT_FOUND"
    sentence = "There is no message {message} in quarantine."


class RouteNotFound(NotFound):
    code = "NOT_FOUND"
    sentence = "There is nothing at {path}."


class HeadLedger(Refused):
    code = "HEAD_LEDGER"
    sentence = "{field}: {ledger} is a head ledger; it groups others and takes no entries. Name one of its leaves."


class LedgerInactive(Refused):
    code = "LEDGER_INACTIVE"
    sentence = "{field}: {ledger} is not active."


class LedgerNotOpen(Refused):
    code = "LEDGER_NOT_OPEN"
    sentence = (
        "{field}: {ledger} is open from {opening_date} to {closing_date}; the value date {value_date} is outside."
    )


class CurrencyMismatch(Refused):
    code = "CURRENCY_MISMATCH"
    sentence = "{field}: {ledger} is kept in {ledger_currency}, not in {currency}."


class CurrencyNotSupported(Refused):
    code = "CURRENCY_NOT_SUPPORTED"
    sentence = "{field}: only the base currency {base_currency} can be posted so far, not {currency}."


class InsufficientBalance(Refused):
    code = "INSUFFICIENT_BALANCE"
    sentence = "{field}: {ledger} has {available} minor units available; this journal takes {taken}."


class FutureValueDate(Refused):
    code = "FUTURE_VALUE_DATE"
    sentence = "The value date {value_date} is after {latest}, the latest that is allowed."


class BalanceOutOfRange(Refused):
    code = "BALANCE_OUT_OF_RANGE"
    sentence = "{field}: this would take the totals of {ledger} beyond 38 digits."


class KeyReused(Conflict):
    code = "KEY_REUSED"
    sentence = "The idempotency key {idempotency_key} is bound to other content, as job {job}; use a new key."


class JobNotRejected(Conflict):
    code = "JOB_NOT_REJECTED"
    sentence = "Job {job} is {state}; only a rejected or quarantined job can be sent again."


class JobSentAgain(Conflict):
    code = "JOB_SENT_AGAIN"
    sentence = (
        "Job {job} was sent again as job {sent_as}, which is {state}; say `again` if it is to be posted once more."
    )


class CodeTaken(Conflict):
    code = "CODE_TAKEN"
    sentence = "{field}: there is a ledger {code} already."


class NumberTaken(Conflict):
    code = "NUMBER_TAKEN"
    sentence = "{field}: there is a ledger with the number {number} already."


class ParentIsLeaf(Refused):
    code = "PARENT_IS_LEAF"
    sentence = "{field}: {ledger} is a leaf; only a head ledger takes children."


class TypeMismatch(Refused):
    code = "TYPE_MISMATCH"
    sentence = "{field}: a child has the type of its parent {ledger}, which is {type}."


# Unavailable: tried again


class DatabaseUnavailable(Unavailable):
    code = "DATABASE_UNAVAILABLE"
    sentence = "The database does not answer just now."


class BrokerUnavailable(Unavailable):
    code = "BROKER_UNAVAILABLE"
    sentence = "The message broker does not answer just now."


class BrokerFull(BrokerUnavailable):
    code = "BROKER_FULL"
    sentence = (
        "The queue {queue} takes no more just now: {problem}. Publish again later, or let `confirm` do so; start more"
        " posting workers if this lasts."
    )


class Backlogged(Unavailable):
    code = "BACKLOGGED"
    sentence = (
        "The oldest job that is due has waited {oldest_s} s, longer than {most_s} s, so no more is accepted just now."
        " Send this again after {retry_after_s} s, with the same idempotency key."
    )


class NotMigrated(Unavailable):
    code = "NOT_MIGRATED"
    sentence = "The database is at migration {found}, this release needs {needed}; run `ledgermill db upgrade`."


class OrganizationDraining(Unavailable):
    code = "ORGANIZATION_DRAINING"
    sentence = "The organization {organization} is being drained and accepts no new jobs just now."


class LookupUnavailable(Unavailable):
    code = "LOOKUP_UNAVAILABLE"
    sentence = "The API does not tell just now which jobs have arrived: {reason}"


class ServerDidNotStart(Unavailable):
    code = "SERVER_DID_NOT_START"
    sentence = "{server} did not start: {reason}"


class Quarantined(Unavailable):
    code = "QUARANTINED"
    sentence = "This job ended a worker {attempts} times and was set aside with what it asked for."


def by_code() -> dict[str, type[LedgermillError]]:
    """All error classes that have a code, by their code."""
    found: dict[str, type[LedgermillError]] = {}
    waiting: list[type[LedgermillError]] = [LedgermillError]
    while waiting:
        for error in waiting.pop().__subclasses__():
            waiting.append(error)
            if "code" in error.__dict__:
                found[error.code] = error
    return found
