"""Thousands of agents on one scheduler: what each weighs, how fast work reaches one, how fast all return after a kill.

`python -m benchmarks.agents [--quick]`. The scheduler is `python -m scheduler` with its journal on this disk (SQLite,
synchronous=FULL); the agents live in two other processes, each with a channel and a connection of its own. Latencies
are from one process's sending of an outcome to an agent's reading of the lease that follows from it: both messages and
the commit between them are in it. Beside them, the same of the smallest durable scheduler (`smallest_scheduler`).
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from benchmarks import noop
from benchmarks.processes import Program, Worker, python_worker
from benchmarks.report import percentiles_ms, print_figures, print_table
from nasmesh.rpc.open_files import raise_open_files
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc

PROCESSES = 2
IN_FLIGHT = 64
MOST_TRIALS = 10_000_000
BACK_S = 60.0


class Mesh:
    """A scheduler and its agents: half of each process's train, half evaluate, and one generates."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path, count: int) -> None:
        """Start everything; `bytes_each` is what an agent adds to the scheduler's resident memory."""
        self.scheduler = stack.enter_context(Program("scheduler", directory))
        self._loads: list[Worker] = [
            stack.enter_context(python_worker("benchmarks.load", directory, name=f"load-{number}"))
            for number in range(PROCESSES)
        ]
        self._connect([["generator", [noop.GENERATE]]], self._loads[:1])
        before = self.scheduler.resident_bytes()
        began = time.monotonic()
        names = [f"agent-{number:05d}" for number in range(count)]
        kinds = ([noop.TRAIN], [noop.EVALUATE])
        self._connect([[name, kinds[number // PROCESSES % 2]] for number, name in enumerate(names)], self._loads)
        self.connect_s = time.monotonic() - began
        self.bytes_each = (self.scheduler.resident_bytes() - before) / count
        self._stub = rpc.SchedulerServiceStub(stack.enter_context(grpc.insecure_channel(self.scheduler.address)))
        spec = noop.spec(max_trials=MOST_TRIALS, parallelism=IN_FLIGHT)
        self._stub.CreateSearch(api.CreateSearchRequest(spec=spec, search_id="s"))

    def behave(self, **manner: object) -> None:
        """Tell all agents how to work."""
        self._all(do="behave", **manner)

    def flow(self, *, on: bool) -> None:
        """Let all agents take work, or none."""
        self._all(do="flow", on=on)

    def trace(self, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
        """Return when outcomes were sent and leases came in some seconds of all agents' work."""
        self.flow(on=True)
        time.sleep(seconds / 4)
        self._all(do="take_trace")
        time.sleep(seconds)
        sent: dict[str, float] = {}
        came: dict[str, float] = {}
        for answer in self._all(do="take_trace"):
            sent |= answer["sent"]
            came |= answer["came"]
        self.flow(on=False)
        return sent, came

    def trials(self) -> int:
        """Return how many trials the search has."""
        return int(self._stub.GetSearch(api.GetSearchRequest(name="searches/s")).search.trials.succeeded)

    def reach(self, trials: int) -> None:
        """Work at full speed until the search has so many trials."""
        self.behave(in_flight_below=IN_FLIGHT, tracing=False)
        self.flow(on=True)
        while self.trials() < trials:
            time.sleep(0.1)
        self.flow(on=False)

    def kill_and_return(self) -> dict[str, float]:
        """Kill the scheduler, start it again, and wait for all agents."""
        self.scheduler.kill()
        began = time.monotonic()
        self.scheduler.start()
        serving = time.monotonic()
        back = self._all(do="connected", since=serving, timeout_s=BACK_S)
        refusals: dict[str, int] = {}
        for answer in back:
            for why, count in answer["refusals"].items():
                refusals[why] = refusals.get(why, 0) + count
        for why, count in refusals.items():
            print(f"  refused after serving: {count} x {why}")
        return {
            "agents_restart_to_serving_s": serving - began,
            "agents_all_back_s": max(answer["at"] for answer in back) - began,
            "agents_away_after_restart": sum(answer["away"] for answer in back),
            "agents_refused_after_serving": sum(refusals.values()),
        }

    def _connect(self, agents: Sequence[Any], loads: Sequence[Worker]) -> None:
        for number, load in enumerate(loads):
            load.tell(do="connect", address=self.scheduler.address, agents=agents[number :: len(loads)])
        for load in loads:
            load.answer()

    def _all(self, **order: object) -> list[dict[str, Any]]:
        for load in self._loads:
            load.tell(**order)
        return [load.answer() for load in self._loads]


def smallest(root: Path, rows: list[Sequence[object]], figures: dict[str, float], seconds: float) -> None:
    """Measure the limit: from an agent's outcome to its next lease, of a scheduler that decides nothing."""
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(Program("benchmarks.smallest_scheduler", root))
        load = stack.enter_context(python_worker("benchmarks.load", root, name="load-smallest"))
        load.ask(do="behave", tracing=True, ahead=False)
        agents = [[f"agent-{number:05d}", [noop.TRAIN]] for number in range(IN_FLIGHT)]
        load.ask(do="connect", address=program.address, agents=agents)
        for name, label, first in (("idle", "one at a time", 1), ("loaded", f"{IN_FLIGHT} in flight", IN_FLIGHT)):
            load.ask(do="flow", on=True, first=first)
            time.sleep(seconds / 4)
            load.ask(do="take_trace")
            time.sleep(seconds)
            rounds = load.ask(do="take_trace")["rounds"]
            load.ask(do="flow", on=False)
            _latency(rows, figures, f"smallest_{name}", f"the smallest scheduler, {label}", rounds)


def dispatch_s(sent: dict[str, float], came: dict[str, float]) -> list[float]:
    """Return the times from a training's outcome to the lease of the evaluation that it queues."""
    trained = {key.removeprefix("train "): at for key, at in sent.items() if key.startswith("train ")}
    return [came[f"evaluate {trial}"] - at for trial, at in trained.items() if f"evaluate {trial}" in came]


def proposal_s(sent: dict[str, float], came: dict[str, float]) -> list[float]:
    """Return the times from a proposal to the lease of its training, where one is in flight at a time."""
    proposed = sorted(at for key, at in sent.items() if key.startswith("generate "))
    leased = sorted(at for key, at in came.items() if key.startswith("train "))
    found = []
    for at in proposed:
        later = next((lease for lease in leased if lease > at), None)
        if later is not None:
            found.append(later - at)
    return found


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter; ends within 50 s")
    parser.add_argument("--agents", type=int, default=5000, help="how many [%(default)s]")
    parser.add_argument("--trials", type=int, default=0, help="trials before the last latency [10000, quick 3000]")
    flags = parser.parse_args()
    flags.trials = flags.trials or (3000 if flags.quick else 10_000)
    raise_open_files()
    seconds = 3.0 if flags.quick else 20.0
    figures: dict[str, float] = {"agents": flags.agents}
    rows: list[Sequence[object]] = []
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        mesh = Mesh(stack, Path(root), flags.agents)
        figures["agents_kib_each"] = mesh.bytes_each / 1024
        figures["agents_connect_s"] = mesh.connect_s
        mesh.behave(tracing=True, at_most=1)
        sent, came = mesh.trace(seconds)
        _latency(rows, figures, "dispatch_idle", "outcome to an idle agent's lease", dispatch_s(sent, came))
        _latency(rows, figures, "proposal_to_lease", "proposal to its lease, first trials", proposal_s(sent, came))
        mesh.behave(tracing=True, in_flight_below=IN_FLIGHT)
        sent, came = mesh.trace(seconds)
        name = f"outcome to its lease, {IN_FLIGHT} in flight at full speed"
        _latency(rows, figures, "dispatch_loaded", name, dispatch_s(sent, came))
        mesh.reach(flags.trials)
        figures["proposal_to_lease_late_trials"] = mesh.trials()
        mesh.behave(tracing=True, at_most=1)
        sent, came = mesh.trace(seconds)
        _latency(rows, figures, "proposal_to_lease_late", f"with {mesh.trials()} trials", proposal_s(sent, came))
        figures |= mesh.kill_and_return()
    with tempfile.TemporaryDirectory() as root:
        smallest(Path(root), rows, figures, seconds)
    print_table(f"{flags.agents} agents, milliseconds", ("path", "p50", "p90", "p99", "max", "samples"), rows)
    for name, value in figures.items():
        if name.startswith("agents_"):
            print(f"  {name:32} {value:.4g}")
    print_figures(figures)


def _latency(
    rows: list[Sequence[object]], figures: dict[str, float], name: str, label: str, times: list[float]
) -> None:
    found = percentiles_ms(times)
    rows.append((label, *(f"{found[key]:.2f}" for key in ("p50", "p90", "p99", "max")), len(times)))
    figures |= {f"{name}_ms_{key}": value for key, value in found.items()}


if __name__ == "__main__":
    main()
