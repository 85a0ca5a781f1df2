"""The checks of `ledgermill verify`: for each promise of the books, one statement that finds what breaks it."""

from typing import Final

from ledgermill.storage.checks.balances import BALANCES
from ledgermill.storage.checks.catalog import CATALOG
from ledgermill.storage.checks.charts import CHARTS
from ledgermill.storage.checks.check import Check
from ledgermill.storage.checks.days import DAYS
from ledgermill.storage.checks.jobs import JOBS
from ledgermill.storage.checks.journals import JOURNALS

__all__ = ["CHECKS", "Check"]

CHECKS: Final = (*JOURNALS, *BALANCES, *DAYS, *JOBS, *CHARTS, *CATALOG)
