"""Trainings under a bound of memory: who is let in does not run out of it. The long form: `make packing`."""

from pathlib import Path

from tests.packing.share import open_store, train_all
from tests.packing.trainings import random_trainings

SEED = 4
MIB = 2**20


def test_random_networks_when_memory_is_short_then_none_that_is_let_in_runs_out(tmp_path: Path) -> None:
    trainings = random_trainings(24, SEED, open_store(tmp_path))
    tally = train_all(trainings, tmp_path, budget=110 * MIB, slots=2)
    print(f"seed {SEED}: {tally.told()}")
    assert not tally.failed
    assert tally.refused > 0, "the bound is one"
    assert tally.ran >= 12
    assert tally.share_out == 0.0, f"seed {SEED}: {tally.ran_out} {tally.again}"
    assert len(tally.above) <= 1
