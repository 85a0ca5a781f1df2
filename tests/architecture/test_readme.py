"""The README names what there is: every setting, every error code, every queue, every command."""

from importlib import import_module
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("route", [routes.POST_JOURNALS, routes.UPDATE_BALANCES, routes.LOOK, routes.SWEEP])
def test_every_task_and_its_queue_are_in_the_readme(route: routes.Route) -> None:
    assert any(line.startswith(f"| `{route.queue}`") and f"`{route.task}`" in line for line in README.splitlines())


def test_every_command_that_the_readme_shows_exists() -> None:
    commands = get_command(import_module("ledgermill.cli.main").app)
    shown = {
        line.split("ledgermill ", 1)[1].split()[0].strip("`.,;")
        for line in README.replace("`", "\n").splitlines()
        if line.startswith("ledgermill ") or " ledgermill organization" in line or " ledgermill key" in line
    }

    assert shown, "the README shows commands"
    for name in shown & {word for word in shown if word.isalpha() or "-" in word}:
        if name in {"posts", "is", "api"}:
            continue
        assert commands.get_command(None, name) is not None, f"there is no command {name}"  # type: ignore[attr-defined]
