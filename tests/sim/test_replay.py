"""Seeds that failed once, and that a seed is a life: the same faults at the same places, every time."""

import subprocess
import sys

import pytest

from tests.sim.lives import live, live_all, regressions


def test_regressions_when_lived_again_then_every_promise_holds() -> None:
    tally = live_all(regressions())
    assert not tally.failed, tally.failed
    assert tally.seeds == len(regressions()) >= 3


@pytest.mark.parametrize("seed", range(3))
def test_same_seed_when_lived_twice_then_the_same_journal_and_the_same_faults(seed: int) -> None:
    first, second = live(seed), live(seed)
    assert first.disk.written.events == second.disk.written.events
    assert first.counts == second.counts
    assert first.disk.written.events


def test_seed_when_replayed_by_the_command_then_told_with_its_options() -> None:
    command = [sys.executable, "-m", "tests.sim.run", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "replay: make sim SEED=3" in done.stdout
    assert "seed 3 holds" in done.stdout
