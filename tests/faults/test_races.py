"""64 clients at once, by all ways in, and room for 10: exactly 10 are posted, and each is told the truth."""

import pytest
from races import Books, race
from running import System

from ledgermill.usecases.verify import verify


def test_of_64_clients_at_once_exactly_those_are_posted_for_whom_there_is_room(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    acme = system.new_organization(chart=[])
    books = Books(system.settings.broker_url.get_secret_value(), system.api_url, acme.key, acme.code)

    report = race(books, rounds=10)

    with capsys.disabled():
        print(
            f"\n{len(report.rounds)} races of 64 in {report.took_s:.1f} s, {len(report.wrong)} wrong, "
            f"{sum(one.asked_again for one in report.rounds)} clients asked again"
        )
    assert report.wrong == []
    assert verify(system.owner.engine).is_clean
