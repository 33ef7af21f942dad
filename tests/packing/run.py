"""`python -m tests.packing.run [--networks N] [--seed S] [--budget SIZE] [--slots N]`: the long form of the test."""

import argparse
import sys
import tempfile
from pathlib import Path

from nasmesh.memory import parse_bytes
from tests.packing.share import open_store, train_all
from tests.packing.trainings import random_trainings

LARGEST_SHARE = 0.01


def main() -> int:
    """Print the counts; the exit code is 1 where a hundredth or more of what ran was out of memory, or failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget", default="160MiB")
    parser.add_argument("--slots", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        trainings = random_trainings(asked.networks, asked.seed, open_store(directory))
        tally = train_all(trainings, directory, budget=parse_bytes(asked.budget), slots=asked.slots)
    print(f"seed {asked.seed}, {asked.slots} slots, {asked.budget} together: {tally.told()}")
    print(f"share out of memory {tally.share_out:.4f}: {sorted({*tally.ran_out, *tally.again})}")
    return 1 if tally.share_out >= LARGEST_SHARE or tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
