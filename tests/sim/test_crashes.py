"""T2: a kill at every boundary of a small search, and at a thousand ordered pairs of them."""

from collections.abc import Callable

import pytest

from tests.sim import crashes


def test_search_when_killed_at_any_boundary_then_the_same_results(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    long = request.config.getoption("--long")
    report = crashes.run(pairs=None if long else crashes.PAIRS, triples=crashes.TRIPLES if long else 0)
    record_property("counts", report.told())
    assert len(report.boundaries) >= 100
    assert report.singles == 2 * len(report.boundaries)
    assert report.pairs >= crashes.PAIRS
    places = {boundary.partition(": ")[2] for boundary in report.boundaries}
    wanted = {"before commit", "written, not synced", "after commit", "receive", "send lease", "send outcome_reply"}
    assert places >= wanted | {"receive lease", "create", "write", "fsync", "rename", "unlink"}
