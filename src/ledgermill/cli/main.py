"""The command `ledgermill`: a module for each noun, read when it is called for, and one way to report problems."""

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

MODULE_OF: Final = {
    "up": "service",
    "down": "service",
    "status": "service",
    "db": "database",
    "organization": "organizations",
    "key": "keys",
    "ledger": "ledgers",
    "post": "posting",
    "verify": "verification",
    "rejected": "rejected",
    "quarantine": "quarantine",
    "api": "serving",
    "worker-health": "serving",
}


class Commands(TyperGroup):
    """Commands that are imported when they are called: SQLAlchemy alone takes longer than many of them."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's protocol
        return list(MODULE_OF)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - Typer's protocol
        if cmd_name not in MODULE_OF:
            return None
        group = get_group(import_module(f"ledgermill.cli.{MODULE_OF[cmd_name]}").app)
        found = group.commands.get(cmd_name, group)
        found.name = cmd_name
        return found

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except Exception as error:
            exit_code = import_module("ledgermill.cli.problems").report(error)
            if exit_code is None:
                raise
            raise typer.Exit(exit_code) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main() -> None:
    """Posts to double-entry ledgers in PostgreSQL from a message queue, exactly once in effect.

    Problems are printed as CODE: sentence. Exit codes: 0 done, 1 invalid or refused, 2 something did not answer.
    """
