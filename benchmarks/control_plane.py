"""How many tasks a second the control plane carries, beside the smallest durable scheduler and other services.

`python -m benchmarks.control_plane [--quick]`. A task is: recorded, leased, sent, its outcome received and recorded,
all durable (SQLite, synchronous=FULL). The scheduler is `python -m scheduler`; 64 agents in a process of their own do
work that is nothing: 32 train and 32 evaluate what a generator agent proposes, each with a connection of its own.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks import noop
from benchmarks.processes import Program, Worker, python_worker
from benchmarks.report import Spread, print_figures, print_table, spread
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc

AGENTS = 64
PARALLELISM = 512
# The generator is asked again while fewer trials than this are in flight, so that no agent ever waits for it.
IN_FLIGHT = 320
MOST_TRIALS = 10_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """A contender: what it is called, and how many it does in some seconds."""

    label: str
    rate: Callable[[float], float]


class Ours:
    """A real scheduler with its agents."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        """Start it and let the agents connect."""
        directory.mkdir()
        self.scheduler = stack.enter_context(Program("scheduler", directory))
        self._load = stack.enter_context(python_worker("benchmarks.load", directory))
        kinds = [[noop.GENERATE], *([noop.TRAIN], [noop.EVALUATE]) * (AGENTS // 2)]
        agents = [[f"a{number}", kind] for number, kind in enumerate(kinds)]
        self._load.ask(do="behave", in_flight_below=IN_FLIGHT)
        self._load.ask(do="connect", address=self.scheduler.address, agents=agents)
        self._stub = rpc.SchedulerServiceStub(stack.enter_context(grpc.insecure_channel(self.scheduler.address)))
        spec = noop.spec(max_trials=MOST_TRIALS, parallelism=PARALLELISM)
        self._stub.CreateSearch(api.CreateSearchRequest(spec=spec, search_id="s"))
        self.load_share: list[float] = []
        self.own_share: list[float] = []

    def rate(self, seconds: float) -> float:
        """Return tasks a second."""
        before = self.scheduler.processor_s()
        done = self._load.ask(do="run", seconds=seconds)
        self.load_share.append(done["processor_s"] / done["seconds"])
        self.own_share.append((self.scheduler.processor_s() - before) / done["seconds"])
        return float(done["tasks"] / done["seconds"])

    def trials(self) -> int:
        """Return how many trials have succeeded."""
        return int(self._stub.GetSearch(api.GetSearchRequest(name="searches/s")).search.trials.succeeded)


class Smallest:
    """The smallest durable scheduler, with the same agents."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        """Start it and let the agents connect."""
        directory.mkdir()
        self.program = stack.enter_context(Program("benchmarks.smallest_scheduler", directory))
        self._load: Worker = stack.enter_context(python_worker("benchmarks.load", directory))
        agents = [[f"a{number}", [noop.TRAIN]] for number in range(AGENTS)]
        self._load.ask(do="connect", address=self.program.address, agents=agents)

    def rate(self, seconds: float) -> float:
        """Return tasks a second."""
        done = self._load.ask(do="run", seconds=seconds)
        return float(done["tasks"] / done["seconds"])


def interleaved(parts: dict[str, Part], *, rounds: int, seconds: float) -> dict[str, Spread]:
    """Return the rates of all, who take turns so that a busy machine slows all alike."""
    rates: dict[str, list[float]] = {name: [] for name in parts}
    order = list(parts)
    for _ in range(rounds):
        for name in order:
            rates[name].append(parts[name].rate(seconds))
        order.reverse()
    return {name: spread(values) for name, values in rates.items()}


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds; ends within 50 s")
    quick = parser.parse_args().quick
    rounds, seconds = (3, 2.0) if quick else (7, 5.0)
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        ours = Ours(stack, Path(root) / "ours")
        parts = {
            "control_plane": Part("NASMesh, whole path", ours.rate),
            "smallest": Part("smallest durable scheduler", Smallest(stack, Path(root) / "smallest").rate),
        }
        rates = interleaved(parts, rounds=rounds, seconds=seconds)
        trials = ours.trials()
    rows: list[Sequence[object]] = [(part.label, rates[name]) for name, part in parts.items()]
    print_table(f"no-op tasks a second, {AGENTS} agents, median of {rounds} [quartiles]", ("what", "tasks/s"), rows)
    figures: dict[str, float] = {"control_plane_agents": AGENTS, "control_plane_trials": trials}
    figures |= {f"{name}_tasks_per_s": rate.median for name, rate in rates.items()}
    figures["ratio_to_smallest"] = rates["control_plane"].median / rates["smallest"].median
    figures["control_plane_scheduler_cores"] = spread(ours.own_share).median
    figures["control_plane_load_cores"] = spread(ours.load_share).median
    print_figures(figures)


if __name__ == "__main__":
    main()
