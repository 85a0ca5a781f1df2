"""Lanes: each organization's jobs go to one queue, whatever the number of queues."""

from uuid import UUID

import pytest

from ledgermill.config import Settings
from ledgermill.messages import routes
from ledgermill.runtime import Runtime, now
from ledgermill.usecases import acceptance, jobs, organizations, waiting

JOURNAL = {
    "idempotency_key": "one",
    "entries": [
        {"ledger_code": "SUSPENSE", "type": "debit", "amount": 5},
        {"ledger_code": "SUSPENSE", "type": "credit", "amount": 5},
    ],
}


@pytest.mark.parametrize("lanes", [1, 2, 7, 64])
def test_an_organization_stays_on_one_lane_of_those_there_are(lanes: int) -> None:
    organization = UUID("00000000-0000-4000-8000-00000000002a")

    lane = routes.lane_of(organization) % lanes

    assert 0 <= lane < lanes
    assert lane == routes.lane_of(UUID(str(organization))) % lanes
    assert routes.queue_of_lane(lane, lanes=lanes) in routes.posting_queues(lanes=lanes)


def test_without_lanes_there_is_one_queue() -> None:
    assert routes.posting_queues(lanes=0) == ["posting"]
    assert routes.queue_of_lane(0, lanes=0) == "posting"


def test_a_worker_of_another_lane_leaves_the_jobs_alone(settings: Settings) -> None:
    owner = Runtime(settings, role="owner")
    with owner.engine.begin() as tx:
        organization = organizations.create(
            tx, code="acme", name="Acme", base_currency="EUR", time_zone="Europe/Prague"
        )
    owner.close()
    worker = Runtime(settings.model_copy(update={"posting_lanes": 2}), role="worker")
    with worker.engine.begin() as tx:
        accepted = acceptance.accept(
            tx, 1, kind="post_journal", items=[JOURNAL], principal_id=1, correlation=None, now=now()
        )
    own_lane = routes.lane_of(organization) % 2

    assert waiting.look(worker, 1 - own_lane) == 0
    assert waiting.look(worker, own_lane) == 1

    with worker.engine.begin() as tx:
        assert jobs.status(tx, 1, accepted.jobs[0][0], now=now()).state == "posted"
    worker.close()
