"""The scale model: it keeps its bounds, one lock is serial, lanes do not wait, and the same seed plays the same."""

import pytest
from benchmarks import model
from benchmarks.model import Service

SERVICE = Service(parallel_s=0.03, serial_s=0.01, cpu_s=0.05)


def test_one_worker_does_one_thing_after_the_other() -> None:
    assert model.simulate(SERVICE, workers=1, organizations=1) == pytest.approx(1 / 0.04, rel=0.03)


def test_one_organization_ends_at_its_lock_however_many_workers_there_are() -> None:
    assert model.workers_that_fill_a_lock(SERVICE) == pytest.approx(4)
    assert model.bound(SERVICE, workers=50, organizations=1) == pytest.approx(100)
    assert model.simulate(SERVICE, workers=50, organizations=1) == pytest.approx(100, rel=0.03)


def test_organizations_post_side_by_side() -> None:
    alone = model.simulate(SERVICE, workers=8, organizations=1)

    assert model.simulate(SERVICE, workers=8, organizations=8) > 1.7 * alone


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("organizations", [1, 2, 7])
@pytest.mark.parametrize("with_lanes", [False, True])
def test_no_case_passes_its_bound(workers: int, organizations: int, with_lanes: bool) -> None:
    lanes = model.lanes_by_chance(organizations, workers) if with_lanes else None

    rate = model.simulate(SERVICE, workers=workers, organizations=organizations, lanes=lanes)

    assert 0 < rate <= model.bound(SERVICE, workers=workers, organizations=organizations) * 1.03


def test_cores_bound_what_workers_and_locks_would_allow() -> None:
    sizes = {"workers": 8, "organizations": 8}

    assert model.simulate(SERVICE, **sizes, cores=2) == pytest.approx(2 / 0.05)
    assert model.bound(SERVICE, **sizes, cores=2) == pytest.approx(2 / 0.05)


def test_even_lanes_lose_nothing_and_one_lane_for_all_leaves_the_other_worker_idle() -> None:
    even = model.simulate(SERVICE, workers=2, organizations=2, lanes=(0, 1))
    uneven = model.simulate(SERVICE, workers=2, organizations=2, lanes=(0, 0))

    assert even == pytest.approx(2 / 0.04, rel=0.03)
    assert uneven == pytest.approx(1 / 0.04, rel=0.03)


def test_the_same_seed_plays_the_same() -> None:
    def play(seed: int) -> float:
        return model.simulate(SERVICE, workers=3, organizations=2, batches=200, seed=seed)

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_a_few_batches_leave_workers_idle_at_the_end() -> None:
    assert model.simulate(SERVICE, workers=4, organizations=4, batches=5) < 0.8 * model.simulate(
        SERVICE, workers=4, organizations=4
    )
