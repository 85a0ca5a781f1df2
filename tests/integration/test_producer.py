"""The Producer, with real workers and the real API behind it."""

from collections.abc import Iterator

import pytest
from running import Organization, System, eventually, journal

from ledgermill import Producer
from ledgermill.errors import BrokerUnavailable, InvalidAmount, MissingIdempotencyKey, Unbalanced


@pytest.fixture
def producer(system: System, acme: Organization) -> Iterator[Producer]:
    with Producer(
        system.settings.broker_url.get_secret_value(), acme.code, api_url=system.api_url, api_key=acme.key
    ) as made:
        yield made


def test_single_calls_are_gathered_into_one_message_and_posted_in_their_order(
    acme: Organization, producer: Producer
) -> None:
    handles = [producer.post(journal(f"single-{number}", 100 + number)) for number in range(20)]

    jobs = acme.ended([handle.idempotency_key for handle in handles])

    assert len({handle.batch_id for handle in handles}) < 20, "calls within the linger go together"
    assert [jobs[f"single-{number}"]["position"] for number in range(20)] == list(range(1, 21))
    assert acme.balance("TILL") == sum(range(100, 120))


def test_a_handle_leads_to_the_batch(acme: Organization, producer: Producer) -> None:
    handles = producer.post_many([journal("good", 5), journal("unknown", 5, debit="NOWHERE")])
    acme.ended(["good", "unknown"])

    batch = acme.get(f"/v1/batches/{handles[0].batch_id}").json()

    assert batch["counts"] == {"posted": 1, "rejected": 1}
    assert [job["error"]["code"] for job in batch["not_posted"]] == ["LEDGER_NOT_FOUND"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (
            journal("unbalanced") | {"entries": journal(None, 1)["entries"][:1] + journal(None, 2)["entries"][1:]},
            Unbalanced,
        ),
        (journal("decimal", 3.5), InvalidAmount),
        (journal(None), MissingIdempotencyKey),
    ],
)
def test_what_is_wrong_by_itself_is_refused_before_it_is_sent(
    acme: Organization, producer: Producer, wrong: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        producer.post(wrong)

    producer.flush()
    assert acme.get("/v1/jobs").json()["jobs"] == []


def test_confirm_publishes_again_what_the_broker_lost(
    system: System, acme: Organization, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledgermill.producer.PUBLISH_AGAIN_AFTER_S", 0.0)
    producer.queue = "a-queue-that-nobody-reads"  # as good as lost
    producer.post_many([journal(f"lost-{number}", 1) for number in range(30)])
    assert acme.get("/v1/jobs").json()["jobs"] == []
    producer.queue = "posting"

    confirmed = producer.confirm(timeout_s=20)

    assert confirmed.missing == []
    assert confirmed.arrived == 30
    assert confirmed.published_again >= 30
    assert eventually(lambda: acme.balance("TILL") == 30)


def test_balance_updates_go_against_the_suspense_ledger(acme: Organization, producer: Producer) -> None:
    producer.update_balance({"idempotency_key": "update", "ledger_code": "TILL", "type": "debit", "amount": 2000})
    producer.flush()

    assert acme.job("update")["state"] == "posted"
    assert acme.balance("TILL") == 2000
    assert acme.balance("SUSPENSE") == 2000, "a liability: its normal side is credit"


def test_a_broker_that_is_away_is_told_and_nothing_is_forgotten() -> None:
    producer = Producer("redis://127.0.0.1:1/0", "acme", api_url="http://127.0.0.1:1")
    with pytest.raises(BrokerUnavailable):
        producer.post_many([journal("kept", 1)])

    assert set(producer._unconfirmed) == {"kept"}
    producer.close()
