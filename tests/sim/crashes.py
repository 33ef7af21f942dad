"""T2: a small search, killed at every boundary: each commit, each message sent or received, each step of a spool.

python -m tests.sim.crashes            all singles and a thousand ordered pairs
python -m tests.sim.crashes --long     all ordered pairs and five thousand triples
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from nasmesh.clock import derive_seed, seeded_random
from nasmesh.v1 import dispatch_service_pb2 as pb
from tests.builders import scheduling as make
from tests.sim import logged
from tests.sim.options import Options
from tests.sim.world import World

PAIRS = 1000
TRIPLES = 5000
Results = dict[str, tuple[object, ...]]


class CrashError(AssertionError):
    """A kill changed what came of a search."""


class CrashWorld(World):
    """A mesh whose work always goes the same way; kills strike at given boundaries, counted from the kill before."""

    def __init__(self, kills: Sequence[int], *, power: bool) -> None:
        super().__init__(Options(seed=1, agents=1, snapshot_events=20, recent=1))
        self.client.specs.clear()
        self.client.wishes[0].request.spec.CopyFrom(make.make_spec(max_trials=2, parallelism=2))
        del self.client.wishes[1:]
        self.passed: list[str] = []
        self._kills = list(kills)
        self._power = power
        self._left = self._kills.pop(0) if self._kills else 0
        self.hit = self._in_turn

    def _in_turn(self, whom: str, where: str) -> bool:
        self.passed.append(f"{whom}: {where}")
        if not self._left:
            return False
        self._left -= 1
        if self._left:
            return False
        self._left = self._kills.pop(0) if self._kills else 0
        return True

    def cuts_power(self) -> bool:
        return self._power

    def vary(self, result: pb.GenerateResult) -> None:
        """Have every life propose the same."""

    def duration(self, lease: pb.Lease) -> float:
        return 2.0 if lease.HasField("train") else 0.5

    def results(self) -> Results:
        """Return what came of the search, without what a repetition may change."""
        found: Results = {}
        for run in self.checks.shadow.searches.values():
            found[run.id] = (run.state.name, run.leaders[0] if run.leaders else ())
            for trial in run.trials:
                measured = tuple((m.metric, m.value, m.split) for m in trial.measurements)
                found[trial.name] = (trial.outcome, trial.network.name, trial.model.sha256, measured)
        return found


@dataclass(slots=True)
class Report:
    """What was tried. `boundaries` are those of the undisturbed search."""

    boundaries: list[str] = field(default_factory=list)
    singles: int = 0
    pairs: int = 0
    triples: int = 0
    seconds: float = 0.0

    def told(self) -> str:
        return (
            f"T2: {len(self.boundaries)} boundaries, {self.singles} singles, {self.pairs} ordered pairs, "
            f"{self.triples} triples, {self.seconds:.1f} s"
        )


def crash(kills: Sequence[int], *, power: bool = False) -> CrashWorld:
    """Run the search with kills at these boundaries; raises what is wrong, with the line that replays it."""
    try:
        world = CrashWorld(kills, power=power)
        world.finish()
    except Exception as error:
        raise CrashError(f"{type(error).__name__}: {error}\n{replay_line(kills, power)}") from error
    return world


def replay_line(kills: Sequence[int], power: bool) -> str:
    points = ",".join(map(str, kills))
    return f"replay: python -m tests.sim.crashes --kills {points}{' --power' if power else ''}"


def compare(wanted: Results, kills: Sequence[int], *, power: bool) -> None:
    world = crash(kills, power=power)
    died = world.counts.get("power cuts" if power else "kills", 0)
    if not 1 <= died <= len(kills):
        raise CrashError(f"{died} deaths of {len(kills)}\n{replay_line(kills, power)}")
    found = world.results()
    if found != wanted:
        raise CrashError(f"other results:\n{found}\n{wanted}\n{replay_line(kills, power)}")


def run(*, pairs: int | None = PAIRS, triples: int = 0) -> Report:
    """Try all singles by kill and by power cut, and so many ordered pairs (None: all) and triples."""
    began = time.process_time()
    with logged.quiet():
        calm = crash(())
        wanted = calm.results()
        report = Report(calm.passed)
        count = len(calm.passed)
        for point in range(1, count + 1):
            for power in (False, True):
                compare(wanted, (point,), power=power)
                report.singles += 1
        for points in _pairs(count, pairs):
            compare(wanted, points, power=sum(points) % 2 == 1)
            report.pairs += 1
        rng = seeded_random(derive_seed(1, "triples"))
        for _ in range(triples):
            points = tuple(rng.randint(1, count) for _ in range(3))
            compare(wanted, points, power=rng.random() < 0.5)
            report.triples += 1
    report.seconds = time.process_time() - began
    return report


def _pairs(count: int, most: int | None) -> Iterator[tuple[int, int]]:
    every = product(range(1, count + 1), repeat=2)
    if most is None:
        yield from every
    else:
        yield from seeded_random(derive_seed(1, "pairs")).sample(list(every), most)


def main() -> int:
    """Run and return the exit code; raises what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.crashes")
    parser.add_argument("--long", action="store_true", help="all ordered pairs and many triples")
    parser.add_argument("--kills", default="", help="boundaries to kill at, each counted from the one before")
    parser.add_argument("--power", action="store_true", help="by power cut")
    flags = parser.parse_args()
    if flags.kills:
        kills = [int(point) for point in flags.kills.split(",")]
        compare(crash(()).results(), kills, power=flags.power)
        print(f"the same results with kills at {kills}")
        return 0
    print(run(pairs=None if flags.long else PAIRS, triples=TRIPLES if flags.long else 0).told())
    return 0


if __name__ == "__main__":
    sys.exit(main())
