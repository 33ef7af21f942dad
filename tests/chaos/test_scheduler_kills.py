"""T4: sixty real kills of the scheduler a change, six hundred by `make chaos`; the histories feed T13."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from nasmesh.clock import derive_seed, seeded_random
from tests.chaos.kills import POINTS, kill_scheduler
from tests.sim.history import Observation, faults
from tests.sim.violations import PLANTS

KILLS = 60
LONG_KILLS = 600
PLANTED = 200
LONG_PLANTED = 1000


@pytest.mark.timeout(3600)  # 600 kills on a busy machine; quiet, they take ten minutes
def test_scheduler_when_killed_again_and_again_then_nothing_is_lost_or_doubled(
    request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    long = request.config.getoption("--long")
    kills = LONG_KILLS if long else KILLS
    report = asyncio.run(kill_scheduler(tmp_path, kills, seed=derive_seed(1, "kills")))
    record_property("counts", report.told())
    assert sum(report.kills.values()) == kills
    assert set(report.kills) == set(POINTS)
    assert report.searches >= 2
    record_property("counts", _plant(report.history, LONG_PLANTED if long else PLANTED))


def _plant(history: list[Observation], count: int) -> str:
    """Check that every violation planted into what was really seen is found (T13)."""
    assert not list(faults(history))
    rng = seeded_random(derive_seed(1, "plants"))
    tried: dict[str, int] = {}
    for number in range(count):
        plant = PLANTS[number % len(PLANTS)]
        spoiled = plant(history, rng)
        assert spoiled is not None, f"{plant.__name__} finds no place in this history"
        found = list(faults(spoiled))
        assert found, f"{plant.__name__} was not seen"
        tried[plant.__name__] = tried.get(plant.__name__, 0) + 1
    assert len(tried) == len(PLANTS)
    return f"T13: {count} planted violations of {len(tried)} kinds in {len(history)} observations, all seen"
