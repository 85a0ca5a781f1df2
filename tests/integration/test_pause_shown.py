"""A pause of a kind of jobs is shown to whoever looks: on /readyz and /metrics, and it is over when a job is posted."""

from running import System

from ledgermill.storage import releases

RELEASE = "a release of this test"
KIND = "update_balance"


def test_a_pause_is_shown_until_a_job_is_posted(system: System) -> None:
    assert "paused" not in system.api.get("/readyz").json()
    with system.owner.engine.begin() as tx:
        releases.pause(tx, RELEASE, KIND, problem="a test")

    assert system.api.get("/readyz").json()["paused"] == KIND
    lines = system.api.get("/metrics").text.splitlines()
    assert [line for line in lines if line.startswith("ledgermill_worker_paused_seconds{") and KIND in line]

    with system.owner.engine.begin() as tx:
        releases.note_posted(tx, RELEASE, {KIND})
    assert "paused" not in system.api.get("/readyz").json()
