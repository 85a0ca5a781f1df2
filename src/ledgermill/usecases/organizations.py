"""Organizations and API keys: made, listed, paused, ended."""

import hashlib
import secrets
from collections.abc import Collection
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ledgermill.domain.ledgers import CREDIT, number_of
from ledgermill.errors import InvalidField, KeyNotFound
from ledgermill.messages.currencies import exponent_of, own_id
from ledgermill.storage import api_keys, ledgers, organizations, posting_lock
from ledgermill.storage.connections import Transaction

SCOPES: Final = ("read", "post", "post:system", "ledgers")
KEY_PREFIX: Final = "lm_"
SUSPENSE_CODE: Final = "SUSPENSE"
SUSPENSE_TYPE_CODE: Final = 299


class NewKey(NamedTuple):
    """An API key, and the secret that is shown this once."""

    key_uuid: UUID
    secret: str
    scopes: tuple[str, ...]
    expires_at: datetime | None


def create(
    tx: Transaction, *, code: str, name: str, base_currency: str, time_zone: str, fiscal_year_start_month: int = 1
) -> UUID:
    """Open an organization with its suspense ledger, and return its id. Raises OrganizationExists, InvalidField."""
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise InvalidField(field="time_zone", problem=f"{time_zone} is no time zone, as Europe/Prague is") from None
    organization_uuid = uuid4()
    organization_id = organizations.create(
        tx,
        {
            "organization_uuid": organization_uuid,
            "code": code,
            "name": name,
            "base_currency": base_currency,
            "time_zone": time_zone,
            "fiscal_year_start_month": fiscal_year_start_month,
            "suspense_id": 1,
        },
    )
    broker = organizations.principal_id(tx, organization_id, kind="broker", name="broker", new_uuid=uuid4())
    organizations.bind_currency(
        tx,
        organization_id,
        code=base_currency,
        uuid=None,
        own_id=own_id(base_currency),
        exponent=exponent_of(base_currency),
    )
    suspense = {
        "organization_id": organization_id,
        "ledger_id": 1,
        "ledger_uuid": uuid4(),
        "code": SUSPENSE_CODE,
        "number": number_of(SUSPENSE_TYPE_CODE, 1),
        "name": "Suspense",
        "description": "Takes the other side of balance updates that name no contra ledger.",
        "type": "liability",
        "type_code": SUSPENSE_TYPE_CODE,
        "currency": base_currency,
        "is_head": False,
        "parent_id": None,
        "depth": 0,
        "normal_side": CREDIT,
        "balance_floor": "none",
        "created_by": broker,
        "modified_by": broker,
        "changed_at_version": 1,
    }
    ledgers.open_ledgers(tx, organization_id, [suspense], version=1)
    return organization_uuid


def set_state(tx: Transaction, organization: str, state: str) -> int:
    """Pause, resume or drain an organization, and return how many accepted jobs still wait."""
    organization_id = organizations.find(tx, organization)["organization_id"]
    posting_lock.take(tx, organization_id)  # whoever posts has finished, and sees the new state next time
    organizations.set_state(tx, organization_id, state)
    return organizations.waiting_jobs(tx, organization_id)


def create_key(
    tx: Transaction, organization: str, *, name: str, scopes: Collection[str], expires_at: datetime | None
) -> NewKey:
    """Make an API key with a principal of its own. Only its hash is kept: the secret cannot be shown again."""
    if unknown := set(scopes) - set(SCOPES):
        raise InvalidField(field="scopes", problem=f"{', '.join(sorted(unknown))}: not among {', '.join(SCOPES)}")
    organization_id = organizations.find(tx, organization)["organization_id"]
    posting_lock.take(tx, organization_id)
    key_uuid = uuid4()
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    principal_id = organizations.principal_id(
        tx, organization_id, kind="key", name=f"{name} {key_uuid}", new_uuid=key_uuid
    )
    api_keys.create(
        tx,
        {
            "organization_id": organization_id,
            "key_uuid": key_uuid,
            "key_sha256": hash_key(secret),
            "principal_id": principal_id,
            "name": name,
            "scopes": sorted(scopes),
            "expires_at": expires_at,
        },
    )
    return NewKey(key_uuid, secret, tuple(sorted(scopes)), expires_at)


def revoke_key(tx: Transaction, organization: str, key_uuid: UUID) -> None:
    """End a key at once. Raises KeyNotFound."""
    organization_id = organizations.find(tx, organization)["organization_id"]
    if not api_keys.revoke(tx, organization_id, key_uuid):
        raise KeyNotFound(key=key_uuid)


def hash_key(secret: str) -> bytes:
    """How a key is stored: keys are 256 random bits, so a fast hash without salt is as good as a slow one."""
    return hashlib.sha256(secret.encode()).digest()
