"""The README names what there is: every setting, every error code, every queue, every command."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from click import Context
from typer.main import get_command

from ledgermill import errors
from ledgermill.config import Settings
from ledgermill.messages import routes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_in_the_readme_with_what_it_says(name: str) -> None:
    row = next((line for line in README.splitlines() if line.startswith(f"| `{name.upper()}` |")), None)

    assert row is not None, f"add {name.upper()} to the table of settings"
    assert str(Settings.model_fields[name].description) in row


@pytest.mark.parametrize("code", sorted(errors.by_code()))
def test_every_error_code_is_in_the_readme_under_its_kind(code: str) -> None:
    kind = errors.by_code()[code].kind

    assert any(line.startswith(f"| {kind} |") and f"`{code}`" in line for line in README.splitlines())


@pytest.mark.parametrize(
    "route",
    [routes.POST_JOURNALS, routes.UPDATE_BALANCES, routes.LOOK, routes.SWEEP, routes.VERIFY_NEW, routes.VERIFY_ALL],
)
def test_every_task_and_its_queue_are_in_the_readme(route: routes.Route) -> None:
    assert any(line.startswith(f"| `{route.queue}`") and f"`{route.task}`" in line for line in README.splitlines())


def test_every_command_that_the_readme_shows_exists() -> None:
    shown = set(re.findall(r"(?:`|^|migrate )ledgermill ([a-z][a-z-]+)", README, flags=re.MULTILINE))
    commands = get_command(import_module("ledgermill.cli.main").app)
    context = Context(commands)

    assert {"up", "down", "status", "verify", "post", "organization", "key", "db", "api"} <= shown - {"posts", "is"}
    assert [name for name in shown - {"posts"} if commands.get_command(context, name) is None] == []
