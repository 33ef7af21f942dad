"""T3: power cuts under the journal's real code; and that the test would see a journal that does not sync."""

from collections.abc import Callable

import pytest

from tests.sim import power_cuts, seeded


@pytest.mark.timeout(1800)  # the long one on a busy machine; quiet, it takes two minutes
def test_journal_when_power_is_cut_then_what_was_acknowledged_is_there(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    report = power_cuts.run(20_000 if request.config.getoption("--long") else power_cuts.CUTS)
    record_property("counts", report.told())
    assert report.lost == 0, report.said
    assert report.cuts >= power_cuts.CUTS
    assert report.unacknowledged >= report.cuts / 20, "cuts fall into the middle of commits too"
    assert report.lives >= 10


def test_cuts_when_the_journal_does_not_sync_then_seen(record_property: Callable[[str, object], None]) -> None:
    with seeded.planted("2"):
        report = power_cuts.run(200)
    record_property("counts", f"with synchronous=NORMAL: {report.told()}")
    assert report.lost >= report.cuts / 3, "with synchronous=NORMAL a power cut loses what was acknowledged"
