"""Rubbish in the queue: all of it is recorded, none of it applied, and the worker stays who it is and as large as it is."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from fleet import fleet, long, new_books, publish, require_posted_once
from rubbish import applied, make, missing, push
from running import eventually

from ledgermill.broker.publishing import redis_client
from ledgermill.config import Settings

SEED = int(os.environ.get("LEDGERMILL_SEED", "20261121"))


@pytest.mark.parametrize(("count", "large"), [(1_000, 1), pytest.param(20_000, 3, marks=long)])
def test_all_rubbish_is_recorded_and_none_is_applied_while_good_messages_are_posted(
    count: int, large: int, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(settings, tmp_path) as programs, redis_client(settings.broker_url.get_secret_value()) as client:
        system = programs.system()
        new_books(system)
        worker = programs.worker()
        keys = [f"good-{n}" for n in range(20)]
        publish(system, keys[:10])
        require_posted_once(system, keys[:10])
        before = rss_mb(worker.pid)

        pushed = push(client, make(SEED, count, organization="acme", large=large))
        publish(system, keys[10:])
        started = time.monotonic()
        lost: list[str] = []

        def all_are_recorded() -> bool:
            lost[:] = missing(pushed, system.owner.engine, client)
            return not lost

        try:
            eventually(all_are_recorded, within_s=30 + count / 200)
        finally:
            after = rss_mb(worker.pid)
            with capsys.disabled():
                print(
                    f"\n{count} bad messages pushed at {count / pushed.took_s:,.0f}/s, recorded {time.monotonic() - started:.1f} s "
                    f"later; not recorded: {dict(Counter(lost))}; RSS in MB by process, before {sorted(before.values())}, "
                    f"after {sorted(after.values())}"
                )
        require_posted_once(system, keys)
        assert applied(system.owner.engine) == []
        assert after.keys() == before.keys()
        assert max(after[pid] - before[pid] for pid in before) < 50
        assert worker.poll() is None


def rss_mb(main: int) -> dict[int, int]:
    """By process, what a worker and its pool have in memory."""
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    page = os.sysconf("SC_PAGESIZE")
    return {
        pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page // 1_000_000
        for pid in (main, *map(int, children))
    }
