"""docker-compose.yml and the image, held to the code: queues, settings, commands, routes and roles that exist.

Compose itself is not needed; what it would refuse and the schema does not know (a dependency on a missing service,
say) is checked here.
"""

import importlib
import os
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml
from celery.bin.beat import beat
from celery.bin.celery import celery
from celery.bin.worker import worker
from flower.options import default_options as flower_options
from flower.urls import handlers as flower_routes
from starlette.routing import Match

from ledgermill.config import Settings
from ledgermill.embedded import redis
from ledgermill.embedded.redis import RedisServer
from ledgermill.storage import roles
from workers.config import worker_settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
TEXT = COMPOSE.read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

OURS = {name for name, service in SERVICES.items() if "build" in service}
LONG_RUNNING = {name for name, service in SERVICES.items() if service.get("restart") != "no"}

WRITABLE = "/tmp"  # noqa: S108 - a container's own, in memory

FOREIGN_VARIABLES = {  # names that other programs read
    "postgres": {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"},
    "redis": {"REDISCLI_AUTH"},
    "flower": {f"FLOWER_{name.upper()}" for name in flower_options},
}

VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")
CELERY_COMMANDS = {"worker": worker, "beat": beat}


@pytest.fixture(autouse=True)
def _only_the_settings_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def filled_in(text: object) -> str:
    """The text as Compose reads it, with the variables that have no default set to their names."""

    def value_of(variable: re.Match[str]) -> str:
        return variable["rest"] if variable["kind"] == "-" else variable["name"].lower()

    return VARIABLE.sub(value_of, str(text)).replace("$$", "$")


def environment_of(service: str) -> dict[str, str]:
    return {name: filled_in(value) for name, value in SERVICES[service].get("environment", {}).items()}


def settings_of(service: str) -> Settings:
    own = {
        name.lower(): value for name, value in environment_of(service).items() if name.lower() in Settings.model_fields
    }
    return Settings(**own)


def logins_of(service: str) -> dict[str, str]:
    """The database logins that a service knows the passwords of."""
    urls = {name: urlsplit(value) for name, value in environment_of(service).items() if name.endswith("DATABASE_URL")}
    return {name: url.username or "" for name, url in urls.items()}


def seconds(duration: str) -> float:
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert parts, duration
    hours, minutes, rest_s = (int(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + rest_s


def celery_command(service: str) -> tuple[str, list[str]] | None:
    """The command of Celery that a service runs, and its arguments."""
    match SERVICES[service].get("command"):
        case ["celery", "-A", "workers.app", str(command), *arguments]:
            return command, arguments
        case _:
            return None


def queues_of(service: str) -> list[str]:
    match celery_command(service):
        case ["worker", arguments]:
            return str(arguments[arguments.index("-Q") + 1]).split(",")
        case _:
            return []


def health_check(service: str) -> list[str]:
    test = SERVICES[service]["healthcheck"]["test"]
    assert isinstance(test, list)
    return test


def ledgermill_commands() -> list[list[str]]:
    """Every `ledgermill ...` of the file: run by a service, by a health check, or recommended in the comment."""
    found = [service["command"] for service in SERVICES.values() if service.get("command", [""])[0] == "ledgermill"]
    found += [health_check(name)[1:] for name in LONG_RUNNING if health_check(name)[1] == "ledgermill"]
    found += [line.split() for line in re.findall(r"run --rm \S+ (ledgermill .*)", TEXT)]
    return found


def dockerfile() -> str:
    return (ROOT / "workers" / "Dockerfile").read_text()


def test_the_file_is_valid_against_the_compose_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]

    found = subprocess.run(check, capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stdout + found.stderr


def test_each_queue_is_consumed_by_one_service_and_none_consumes_a_queue_that_does_not_exist() -> None:
    declared = [queue.name for queue in worker_settings(Settings())["task_queues"]]

    consumed = Counter(queue for name in SERVICES for queue in queues_of(name))

    assert consumed == Counter(declared)


def test_beat_runs_once() -> None:
    beats = [name for name in SERVICES if (celery_command(name) or ("", []))[0] == "beat"]

    assert beats == ["beat"]
    assert "scale" not in SERVICES["beat"]
    assert "deploy" not in SERVICES["beat"]


@pytest.mark.parametrize("service", SERVICES)
def test_each_variable_is_a_setting_or_one_that_the_program_in_the_image_reads(service: str) -> None:
    known = {name.upper() for name in Settings.model_fields} if service in OURS else set()

    unknown = environment_of(service).keys() - known - FOREIGN_VARIABLES.get(service, set())

    assert not unknown


@pytest.mark.parametrize("service", sorted(OURS))
def test_the_settings_of_our_services_are_valid(service: str) -> None:
    settings = settings_of(service)

    assert urlsplit(settings.broker_url.get_secret_value()).hostname in SERVICES
    assert settings.posting_lanes == 0  # lanes would need workers


def test_services_have_the_login_of_their_own_role_only_and_migrate_has_all() -> None:
    logins = {name: logins_of(name) for name in SERVICES}

    assert {name: found for name, found in logins.items() if found} == {
        "migrate": {
            "DATABASE_URL": SERVICES["postgres"]["environment"]["POSTGRES_USER"],
            "WORKER_DATABASE_URL": roles.WORKER,
            "API_DATABASE_URL": roles.API,
            "READ_ONLY_DATABASE_URL": roles.READ_ONLY,
        },
        "api": {"API_DATABASE_URL": roles.API},
        "worker-posting": {"WORKER_DATABASE_URL": roles.WORKER},
        "worker-maintenance": {"WORKER_DATABASE_URL": roles.WORKER},
    }


def test_database_urls_lead_to_the_database_that_the_image_makes() -> None:
    urls = [
        urlsplit(value)
        for name in SERVICES
        for key, value in environment_of(name).items()
        if key.endswith("DATABASE_URL")
    ]

    database = SERVICES["postgres"]["environment"]["POSTGRES_DB"]
    assert {(url.hostname, url.path) for url in urls} == {("postgres", f"/{database}")}


def test_no_password_is_in_the_file_and_the_comment_makes_all_that_it_asks_for() -> None:
    asked = {variable["name"] for variable in VARIABLE.finditer(TEXT) if variable["kind"] == "?"}
    made = re.search(r"for name in (?P<names>[^;]*);", TEXT.replace("\\\n#", ""))

    assert made
    assert set(made["names"].split()) == asked
    secret = re.compile(r"PASSWORD|KEY|AUTH|URL")
    values = [
        str(value)
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if secret.search(name)
    ]
    assert all("${" in value for value in values)


def test_other_variables_have_a_default_and_are_named_in_the_comment() -> None:
    comment = TEXT.partition("\nname:")[0]

    optional = {variable["name"]: variable["kind"] for variable in VARIABLE.finditer(TEXT) if variable["kind"] != "?"}

    assert set(optional.values()) == {"-"}
    assert all(name in comment for name in optional)


def test_the_passwords_file_stays_out_of_git() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_names_of_services_volumes_and_networks_exist_and_none_is_unused() -> None:
    volumes = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    networks = {network for service in SERVICES.values() for network in service["networks"]}
    depended_on = {name for service in SERVICES.values() for name in service.get("depends_on", {})}

    assert volumes == FILE["volumes"].keys()
    assert networks == FILE["networks"].keys()
    assert depended_on <= SERVICES.keys()
    assert not {"secrets", "configs"} & (FILE.keys() | {key for service in SERVICES.values() for key in service})


def test_services_wait_for_the_right_thing() -> None:
    for service in SERVICES.values():
        for name, dependency in service.get("depends_on", {}).items():
            condition = dependency["condition"]
            assert condition == ("service_healthy" if name in LONG_RUNNING else "service_completed_successfully")


def test_every_image_is_pinned() -> None:
    foreign = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    foreign += [image for image in re.findall(r"^FROM (\S+)", dockerfile(), re.MULTILINE) if image != "python"]
    own = {SERVICES[name]["image"] for name in OURS}

    assert foreign
    assert all(re.search(r":\d+\.\d+", image) for image in foreign)
    assert own == {f"ledgermill:{PROJECT['project']['version']}"}


@pytest.mark.parametrize("service", sorted(LONG_RUNNING))
def test_long_running_services_are_watched_and_started_again(service: str) -> None:
    assert SERVICES[service]["restart"] == "unless-stopped"
    assert health_check(service)[0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("service", SERVICES)
def test_containers_can_do_no_more_than_they_must(service: str) -> None:
    options = SERVICES[service]

    assert options["read_only"] is True
    assert options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges:true"]
    assert options["init"] is True
    assert {"mem_limit", "cpus", "pids_limit"} <= options.keys()
    assert any(mount.partition(":")[0] == WRITABLE for mount in options["tmpfs"])
    assert int(options["user"].partition(":")[0]) != 0


def test_our_services_run_as_the_user_of_the_image() -> None:
    users = {SERVICES[name]["user"] for name in OURS}

    assert users == set(re.findall(r"^USER (\S+)", dockerfile(), re.MULTILINE)) == {"10001:10001"}


def test_ports_are_bound_to_loopback_and_only_the_api_and_flower_have_any() -> None:
    ports = {
        name: [filled_in(port) for port in service["ports"]] for name, service in SERVICES.items() if "ports" in service
    }

    assert ports == {"api": ["127.0.0.1:8080:8080"], "flower": ["127.0.0.1:5555:5555"]}
    assert settings_of("api").api_port == 8080
    assert FILE["networks"]["inside"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if service["networks"] != ["inside"]} == ports.keys()


@pytest.mark.parametrize("service", sorted(OURS))
def test_a_worker_is_given_the_time_to_end_its_tasks(service: str) -> None:
    assert seconds(SERVICES[service]["stop_grace_period"]) > settings_of(service).task_time_limit_s + 10


@pytest.mark.parametrize("service", [name for name in SERVICES if queues_of(name)])
def test_workers_write_the_heartbeat_that_their_health_check_reads(service: str) -> None:
    heartbeat = settings_of(service).ledgermill_heartbeat_file

    assert heartbeat
    assert heartbeat.parent == Path(WRITABLE)
    assert health_check(service) == ["CMD", "ledgermill", "worker-health"]


@pytest.fixture
def quiet_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that nobody else sends to: the health check sees who sent last."""
    yield redis.start(tmp_path / "redis")
    redis.discard(tmp_path / "redis")


def test_the_health_check_of_beat_tells_whether_it_sends(quiet_redis: RedisServer, tmp_path: Path) -> None:
    environment = {**os.environ, "BROKER_URL": quiet_redis.url}
    _, arguments = celery_command("beat") or ("", [])
    command = [argument.replace(WRITABLE, str(tmp_path)) for argument in ("beat", *arguments)]
    check = [sys.executable, *health_check("beat")[2:]]

    def healthy() -> bool:
        return subprocess.run(check, env=environment, timeout=10, check=False).returncode == 0

    assert not healthy()
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "workers.app", *command], cwd=ROOT, env=environment
    )
    try:
        until = time.monotonic() + 30  # it sends within seconds of its start
        while not healthy():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert not list(ROOT.glob("celerybeat*"))  # the container could not write them


@pytest.mark.parametrize("service", [name for name in SERVICES if celery_command(name)])
def test_options_of_celery_and_flower_exist(service: str) -> None:
    command, arguments = celery_command(service) or ("", [])
    used = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}

    if command == "flower":
        assert command in celery.list_commands(None)
        assert {option.removeprefix("--") for option in used} <= set(flower_options)
    else:
        known = {option for parameter in CELERY_COMMANDS[command].params for option in parameter.opts}
        assert used <= known


def test_flower_asks_for_a_password_and_can_change_nothing() -> None:
    assert "--read_only" in SERVICES["flower"]["command"]
    assert "FLOWER_BASIC_AUTH" in environment_of("flower")


def test_commands_of_ledgermill_exist() -> None:
    app = typer.main.get_command(importlib.import_module("ledgermill.cli.main").app)

    assert ledgermill_commands()
    for _, *words in ledgermill_commands():
        command: Any = app
        for word in words:
            if word.startswith("-"):
                break
            command = command.get_command(None, word)
            assert command, words


def test_health_checks_ask_for_routes_that_exist() -> None:
    asked = {
        name: re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", " ".join(health_check(name))) for name in LONG_RUNNING
    }
    app = importlib.import_module("ledgermill.api.app").create_app(Settings())

    [(api_port, api_path)] = asked.pop("api")
    [(flower_port, flower_path)] = asked.pop("flower")

    request = {"type": "http", "method": "GET", "path": api_path, "root_path": "", "headers": []}
    assert any(route.matches(request)[0] is Match.FULL for route in app.router.routes)
    assert flower_path in {str(route[0]) for route in flower_routes if isinstance(route, tuple)}
    assert int(api_port) == settings_of("api").api_port
    assert f"--port={flower_port}" in SERVICES["flower"]["command"]
    assert not any(asked.values())


def test_the_image_is_built_from_the_lock_without_the_embedded_servers() -> None:
    install = re.search(r"pip .*?install (.*?)\n\n", dockerfile().replace("\\\n", ""), re.DOTALL)

    assert install
    assert "-c requirements.lock ." in install[1]
    assert "[" not in install[1]


def test_the_image_gets_what_the_wheel_is_built_from_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    project, wheel = PROJECT["project"], PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", "requirements.lock", project["readme"], *project["license-files"]}
    needed |= {package.partition("/")[0] for package in wheel["packages"]}

    assert lines[1] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == needed
