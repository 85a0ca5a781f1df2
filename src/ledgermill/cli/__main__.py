"""`python -m ledgermill.cli`: the same as `ledgermill`, for where no script is installed."""

from ledgermill.cli.main import app

app(prog_name="ledgermill")
