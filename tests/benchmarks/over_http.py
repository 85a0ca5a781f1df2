"""HTTP: round trips that wait, NDJSON until posted, and how many small requests one API process answers."""

import http.client
import json
import time
from typing import Any, Final

import books
import http_load
import usage
from figures import percentile
from posting import UNIFORM
from system import System

JOURNALS_PATH: Final = "/v1/ledgers/journals"
IN_A_BODY: Final = 1_000
BODIES_AT_ONCE: Final = 4
SMALL_AT_ONCE: Final = 16
JOBS_ASKED_FOR: Final = 1_000
MOST_POSTS_PER_S: Final = 5_000  # so many bodies are made for each second of `posts_per_s`
WITHIN_S: Final = 120


def measure(system: System, url: str, *, round_trips: int, journals: int, seconds: float, run: str) -> dict[str, float]:
    """The figures of one run; requests of `job_gets_per_s` and `posts_per_s` go on for so many seconds each."""
    key = system.new_key(UNIFORM)
    waits = wait_round_trips(url, key, round_trips, run)
    lines = ndjson(system, url, key, journals, run)
    with usage.watching(system) as getting:
        gets = http_load.gets_per_s(
            url, _job_paths(system), {"X-API-Key": key}, connections=SMALL_AT_ONCE, seconds=seconds
        )
    before = system.posted(UNIFORM)
    bodies = [_body(journal) for journal in books.journals(f"{run}-post", int(MOST_POSTS_PER_S * seconds))]
    posts = http_load.posts_per_s(
        url, JOURNALS_PATH, bodies, _headers(key, prefer="respond-async"), connections=SMALL_AT_ONCE, seconds=seconds
    )
    system.wait_until_posted(before + posts.requests, UNIFORM)
    return {
        "wait_p50_ms": percentile(waits.round_trips_ms, 50),
        "wait_p99_ms": percentile(waits.round_trips_ms, 99),
        "ndjson_journals_per_s": journals / lines["seconds"],
        "ndjson_accepted_per_s": journals / lines["accepted_s"],
        "ndjson_api_cpu_us": lines["cpu_s"]["api"] / journals * 1e6,
        "job_gets_per_s": gets.per_s,
        "job_gets_p50_ms": gets.percentile_ms(50),
        "job_gets_p99_ms": gets.percentile_ms(99),
        "job_gets_api_cores": getting["cpu_s"]["api"] / getting["seconds"],
        "posts_per_s": posts.per_s,
        "posts_p50_ms": posts.percentile_ms(50),
        "posts_p99_ms": posts.percentile_ms(99),
    }


def wait_round_trips(url: str, key: str, count: int, run: str) -> http_load.Load:
    """Single journals with `Prefer: wait`, one after the other on one connection, each answered once it is posted."""
    bodies = [_body(journal) for journal in books.journals(f"{run}-wait", count)]
    headers = _headers(key, prefer="wait=5")
    return http_load.posts_per_s(
        url, JOURNALS_PATH, bodies, headers, connections=1, seconds=WITHIN_S, status=http.client.CREATED
    )


def ndjson(system: System, url: str, key: str, count: int, run: str) -> dict[str, Any]:
    """What was used until NDJSON bodies of 1,000 journals, sent on several connections, are all posted."""
    lines = [_body(journal) for journal in books.journals(f"{run}-ndjson", count)]
    bodies = [b"\n".join(lines[start : start + IN_A_BODY]) for start in range(0, count, IN_A_BODY)]
    headers = _headers(key, prefer="respond-async", content_type="application/x-ndjson")
    before = system.posted(UNIFORM)
    with usage.watching(system) as used:
        started = time.perf_counter()
        http_load.posts_per_s(url, JOURNALS_PATH, bodies, headers, connections=BODIES_AT_ONCE, seconds=WITHIN_S)
        accepted_s = time.perf_counter() - started
        system.wait_until_posted(before + count, UNIFORM)
    return {**used, "accepted_s": accepted_s}


def _job_paths(system: System) -> list[str]:
    """Jobs that were posted at any time, since clients ask for old ones too."""
    rows = system.database.execute(
        "SELECT job_id FROM ledgermill.job JOIN ledgermill.organization USING (organization_id)"
        " WHERE organization.code = %s AND position %% GREATEST(1, %s) = 0 LIMIT %s",
        [UNIFORM, system.posted(UNIFORM) // JOBS_ASKED_FOR, JOBS_ASKED_FOR],
    )
    return [f"/v1/jobs/{job_id}" for (job_id,) in rows]


def _headers(key: str, *, prefer: str, content_type: str = "application/json") -> dict[str, str]:
    return {"X-API-Key": key, "Content-Type": content_type, "Prefer": prefer}


def _body(journal: dict[str, Any]) -> bytes:
    return json.dumps(journal).encode()
