"""T4: twenty real kills a change of each program beside the scheduler, a hundred and fifty by `make chaos`."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from nasmesh.clock import derive_seed
from tests.chaos.service_kills import KINDS, TRIALS, kill_services

KILLS = 20
LONG_KILLS = 150


@pytest.mark.timeout(2400)
def test_programs_when_killed_again_and_again_then_every_search_ends_with_the_same_results(
    request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    kills = LONG_KILLS if request.config.getoption("--long") else KILLS
    report = asyncio.run(kill_services(tmp_path, kills, seed=derive_seed(1, "services")))
    record_property("counts", report.told())
    assert report.kills == dict.fromkeys(KINDS, kills)
    assert report.searches >= 1
    assert report.trials >= TRIALS
