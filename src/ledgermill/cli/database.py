"""`ledgermill db`: migrations, and the passwords of the services' logins."""

from urllib.parse import unquote, urlsplit

import typer

from ledgermill.cli.session import as_role
from ledgermill.config import Settings
from ledgermill.errors import NotMigrated
from ledgermill.storage import migrations, roles

app = typer.Typer(help="The database: bring it up to date, and look where it stands.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Apply the migrations that are missing. Safe to run twice, and while workers run.

    Where WORKER_DATABASE_URL, API_DATABASE_URL and READ_ONLY_DATABASE_URL name our roles with a password, these roles
    may log in with it afterwards.
    """
    with as_role("owner") as runtime:
        revision = migrations.upgrade(runtime.engine)
        passwords = login_passwords(runtime.settings)
        with runtime.engine.begin() as tx:
            roles.set_passwords(tx, passwords)
    typer.echo(f"The database is at migration {revision}.")
    if passwords:
        typer.echo(f"Logins with passwords: {', '.join(sorted(passwords))}.")


@app.command()
def status() -> None:
    """Say which migration the database is at; exit code 2 where it is not the one that this release needs."""
    with as_role("owner") as runtime:
        found, needed = migrations.current(runtime.engine), migrations.newest()
    if found != needed:
        raise NotMigrated(found=found or "none", needed=needed)
    typer.echo(f"The database is at migration {found}, which is what this release needs.")


def login_passwords(settings: Settings) -> dict[str, str]:
    """The passwords in the services' URLs, by login, where the login is one of our roles."""
    passwords = {}
    for url in (settings.worker_database_url, settings.api_database_url, settings.read_only_database_url):
        parts = urlsplit(url.get_secret_value() if url else "")
        if parts.username in roles.LOGINS and parts.password:
            passwords[parts.username] = unquote(parts.password)
    return passwords
