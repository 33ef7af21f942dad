"""How much of their time agents work: an asynchronous search beside a generation barrier, in one run.

`python -m benchmarks.utilisation [--quick]`. The scheduler is `python -m scheduler` (SQLite, synchronous=FULL); 64
agents in another process really sleep log-normal times (sigma 1), one task after the other, train and evaluate tasks
alike. The barrier is such a mesh under a generator that sees a whole generation's results before it proposes the next.
Utilisation is the time asleep over the time that passed, all agents together.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from benchmarks import noop
from benchmarks.processes import Program, python_worker
from benchmarks.report import print_figures, print_table, spread
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc

AGENTS = 64
SIGMA = 1.0
PARALLELISM = 512
IN_FLIGHT = 320
MOST_TRIALS = 10_000_000


class Mesh:
    """A scheduler with agents that sleep."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path, *, barrier: bool) -> None:
        """Start everything; with a barrier, the generator is asked when nothing is in flight any more."""
        directory.mkdir()
        self._flow = {"in_flight_below": 0, "at_most": AGENTS} if barrier else {"in_flight_below": IN_FLIGHT}
        scheduler = stack.enter_context(Program("scheduler", directory))
        self._load = stack.enter_context(python_worker("benchmarks.load", directory))
        names = [f"agent-{number}" for number in range(AGENTS)]
        agents: list[Any] = [["generator", [noop.GENERATE]], *([name, [noop.TRAIN, noop.EVALUATE]] for name in names)]
        self._load.ask(do="connect", address=scheduler.address, agents=agents)
        stub = rpc.SchedulerServiceStub(stack.enter_context(grpc.insecure_channel(scheduler.address)))
        spec = noop.spec(max_trials=MOST_TRIALS, parallelism=PARALLELISM)
        stub.CreateSearch(api.CreateSearchRequest(spec=spec, search_id="s"))

    def measure(self, mean_s: float, seconds: float) -> dict[str, float]:
        """Return utilisation, tasks a second, and how much longer the sleeps were than asked for."""
        self._load.ask(do="behave", mean_s=mean_s, sigma=SIGMA, **self._flow)
        found = self._load.ask(do="run", seconds=seconds, warm_up_s=1.0)
        return {
            "utilisation": found["busy_s"] / (AGENTS * found["seconds"]),
            "tasks_per_s": found["tasks"] / found["seconds"],
            "overshoot": found["busy_s"] / found["asked_s"] - 1,
        }


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds; ends within 50 s")
    quick = parser.parse_args().quick
    rounds, seconds = (2, 3.0) if quick else (5, 10.0)
    figures: dict[str, float] = {"utilisation_agents": AGENTS}
    rows: list[Sequence[object]] = []
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        meshes = {barrier: Mesh(stack, Path(root) / f"mesh-{barrier}", barrier=barrier) for barrier in (False, True)}
        cases = [(mean_ms, barrier) for mean_ms in (100, 20) for barrier in (False, True)]
        found: dict[tuple[int, bool], list[dict[str, float]]] = {case: [] for case in cases}
        for _ in range(rounds):
            for mean_ms, barrier in cases:
                found[mean_ms, barrier].append(meshes[barrier].measure(mean_ms / 1000, seconds))
            cases.reverse()
    for (mean_ms, barrier), measured in found.items():
        how = "generation barrier" if barrier else "asynchronous"
        name = f"{'barrier' if barrier else 'utilisation'}_{mean_ms}ms"
        parts = {key: spread([one[key] for one in measured]) for key in measured[0]}
        figures[name] = parts["utilisation"].median
        figures[f"{name}_tasks_per_s"] = parts["tasks_per_s"].median
        figures[f"{name}_overshoot"] = parts["overshoot"].median
        rows.append((f"{how}, mean {mean_ms} ms", *parts.values()))
    title = f"{AGENTS} agents that sleep, median of {rounds} [quartiles]"
    print_table(title, ("search", "utilisation", "tasks/s", "sleeps longer than asked"), rows)
    print_figures(figures)


if __name__ == "__main__":
    main()
