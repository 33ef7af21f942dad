"""A standby takes over within ten seconds of whatever befalls the leader, and nothing is lost or doubled."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from nasmesh.clock import derive_seed
from tests.builders.postgres_server import PostgresServer
from tests.chaos.takeovers import TAKE_OVER_S, WAYS, take_over

STRIKES = 5
LONG_STRIKES = 40


@pytest.mark.timeout(1500)
def test_leader_when_struck_again_and_again_then_the_standby_goes_on_with_everything(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres_server: PostgresServer,
    record_property: Callable[[str, object], None],
) -> None:
    strikes = LONG_STRIKES if request.config.getoption("--long") else STRIKES
    report = asyncio.run(take_over(tmp_path, postgres_server, strikes, seed=derive_seed(1, "takeovers")))
    record_property("counts", report.told())
    assert sum(report.kills.values()) == strikes
    assert set(report.kills) == set(WAYS)
    assert len(report.gaps) >= strikes * 3 // 5
    assert max(report.gaps) <= TAKE_OVER_S
