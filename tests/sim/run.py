"""`make sim`: many lives over several processes, or one by its seed. Exit code 1 where a promise was broken.

python -m tests.sim.run --seeds 0:100000 --processes 2
python -m tests.sim.run --seed 17
python -m scheduler.compiled tests.sim.run --seeds 0:300
"""

import argparse
import json
import subprocess
import sys
import traceback
from dataclasses import asdict

from scheduler import compiled
from tests.sim import seeded
from tests.sim.lives import Tally, live, live_all, remember, replay_line

KILLS_A_SEED = 7


def main() -> int:
    """Run and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run")
    parser.add_argument("--seeds", default="0:100000", metavar="FROM:TO", help="lives to live [0:100000]")
    parser.add_argument("--seed", type=int, help="live one life again, and tell it")
    parser.add_argument("--processes", type=int, default=2, help="processes that share the seeds [2]")
    parser.add_argument("--bug", default="", help="with a seeded bug of tests/sim/seeded.py")
    parser.add_argument("--json", action="store_true", help="print the tally only, as JSON")
    flags = parser.parse_args()
    if flags.bug and compiled.in_use():
        parser.error("a bug replaces functions of the sources, which the compiled form does not look at")
    with seeded.planted(flags.bug):
        if flags.seed is not None:
            return _one(flags.seed)
        first, _, last = flags.seeds.partition(":")
        seeds = range(int(first), int(last))
        if flags.json:
            sys.stdout.write(json.dumps(asdict(live_all(seeds))) + "\n")
            return 0
        tally = _share(seeds, flags.processes, flags.bug)
    print(tally.told())
    for seed, why in sorted(tally.failed.items()):
        print(f"FAILED seed {seed}: {why}")
        if not flags.bug:
            remember(seed, why)
    if tally.kills < KILLS_A_SEED * tally.seeds:
        print(f"FAILED: {tally.kills} kills in {tally.seeds} seeds, the floor is {KILLS_A_SEED} a seed")
        return 1
    return 1 if tally.failed else 0


def _one(seed: int) -> int:
    print(replay_line(seed))
    try:
        world = live(seed)
    except Exception:  # noqa: BLE001 - told whole
        traceback.print_exc()
        return 1
    print(f"seed {seed} holds: {world.counts}, {len(world.disk.written.events)} events")
    return 0


def _share(seeds: range, processes: int, bug: str) -> Tally:
    """Live the seeds in several processes, every so many-th seed each."""
    size = -(-len(seeds) // processes)
    parts = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    form = ["-m", "scheduler.compiled"] if compiled.in_use() else ["-m"]
    command = [sys.executable, *form, "tests.sim.run", "--json", "--bug", bug]
    children = [
        subprocess.Popen([*command, "--seeds", f"{part.start}:{part.stop}"], stdout=subprocess.PIPE, text=True)
        for part in parts
    ]
    tally = Tally()
    for child in children:
        told, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"a process of the simulation ended with {child.returncode}")
        content = json.loads(told.splitlines()[-1])
        content["failed"] = {int(seed): why for seed, why in content["failed"].items()}
        tally.merge(Tally(**content))
    return tally


if __name__ == "__main__":
    sys.exit(main())
