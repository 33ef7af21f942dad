"""How many tasks a second the control plane carries, beside the smallest durable scheduler and other services.

`python -m benchmarks.control_plane [--quick]`. A task is: recorded, leased, sent, its outcome received and recorded,
all durable (SQLite, synchronous=FULL). The scheduler is `python -m scheduler`; 64 agents in a process of their own do
work that is nothing: 32 train and 32 evaluate what a generator agent proposes, each with a connection of its own.
"""

import argparse
import contextlib
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks import bare, noop
from benchmarks.peers import PEERS, PeerAbsentError
from benchmarks.processes import Program, Worker, python_worker
from benchmarks.report import Spread, print_figures, print_table, spread
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from scheduler import compiled

AGENTS = 64
PARALLELISM = 512
# The generator is asked again while fewer trials than this are in flight, so that no agent ever waits for it.
IN_FLIGHT = 320
MOST_TRIALS = 10_000_000
# About what a journal event and a message of the whole path have.
EVENT_BYTES = 400
# What our rate is to be at least, as a multiple of others'. Theirs are trials, ours tasks; a trial of ours has two.
TARGETS = {"smallest": 0.4, "optuna_memory": 1.0, "optuna_sqlite": 100.0, "optuna_journal": 20.0, "vizier": 40.0}


@dataclass(frozen=True, slots=True)
class Part:
    """A contender: what it is called, and how many it does in some seconds."""

    label: str
    rate: Callable[[float], float]


class Ours:
    """A real scheduler with its agents."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path, *arguments: str) -> None:
        """Start it, with more arguments if there are any, and let the agents connect."""
        directory.mkdir()
        self.scheduler = stack.enter_context(Program("scheduler", directory, *arguments))
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
        before, began = self.scheduler.processor_s(), time.perf_counter()
        done = self._load.ask(do="run", seconds=seconds)
        self.load_share.append(done["processor_s"] / done["seconds"])
        # Over the warm-up too, in which it works as well.
        self.own_share.append((self.scheduler.processor_s() - before) / (time.perf_counter() - began))
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


def bare_commit_rate(directory: Path, seconds: float) -> float:
    """Return events a second that SQLite takes alone, 64 in each transaction, synchronous=FULL."""
    db = sqlite3.connect(directory / "bare.db", isolation_level=None)
    with contextlib.closing(db):
        db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS e (body BLOB);")
        rows, written, start = [(bytes(EVENT_BYTES),)] * AGENTS, 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds:
            db.execute("BEGIN")
            db.executemany("INSERT INTO e VALUES (?)", rows)
            db.execute("COMMIT")
            written += AGENTS
    return written / took


def bare_parts(stack: contextlib.ExitStack, directory: Path) -> dict[str, Part]:
    """Return the physical limits: echoes over gRPC, and commits."""
    directory.mkdir()
    address = stack.enter_context(Program("benchmarks.bare", directory)).address
    calls = stack.enter_context(python_worker("benchmarks.calls", directory))
    request = str(EVENT_BYTES).encode().hex()
    order = {"address": address, "request": request, "clients": AGENTS}

    def stream(seconds: float) -> float:
        return float(calls.ask(do="stream", seconds=seconds, **order)["per_s"])

    def unary(seconds: float) -> float:
        return float(calls.ask(do="unary", method=bare.UNARY, seconds=seconds, **order)["per_s"])

    return {
        "bare_stream": Part("bare gRPC echo in streams, nothing durable", stream),
        "bare_unary": Part("bare gRPC echo, unary, nothing durable", unary),
        "bare_commit": Part("bare SQLite events, 64 a commit, no gRPC", lambda s: bare_commit_rate(directory, s)),
    }


def peer_rates(root: Path, seconds: float) -> tuple[dict[str, float], list[Sequence[object]]]:
    """Return the trials a second of peers, and their rows; one that does not run here is left out, with the reason."""
    rates: dict[str, float] = {}
    rows: list[Sequence[object]] = []
    for peer in PEERS:
        directory = root / peer.name
        directory.mkdir()
        try:
            rates[peer.name] = peer.rate(directory, AGENTS, seconds)
        except (PeerAbsentError, subprocess.TimeoutExpired) as error:
            rows.append((peer.label, f"left out: {error}"))
        else:
            rows.append((peer.label, f"{rates[peer.name]:.4g}"))
    return rates, rows


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds; ends within 50 s")
    parser.add_argument("--no-peers", action="store_true", help="ours and the limits alone")
    flags = parser.parse_args()
    rounds, seconds, peer_s = (3, 1.0, 1.5) if flags.quick else (7, 5.0, 15.0)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        ours = Ours(stack, root / "ours")
        parts = {
            "control_plane": Part("NASMesh, whole path", ours.rate),
            "smallest": Part("smallest durable scheduler", Smallest(stack, root / "smallest").rate),
            **bare_parts(stack, root / "bare"),
        }
        rates = interleaved(parts, rounds=rounds, seconds=seconds)
        peers, peer_rows = ({}, []) if flags.no_peers else peer_rates(root, peer_s)
        trials = ours.trials()
    rows: list[Sequence[object]] = [(part.label, rates[name]) for name, part in parts.items()]
    print_table(f"no-op tasks a second, {AGENTS} agents, median of {rounds} [quartiles]", ("what", "per second"), rows)
    if peer_rows:
        print_table(f"no-op trials a second, {AGENTS} clients, {peer_s:g} s each", ("peer", "per second"), peer_rows)
    mine = rates["control_plane"].median
    figures: dict[str, float] = {"control_plane_agents": AGENTS, "control_plane_trials": trials}
    figures["control_plane_compiled"] = compiled.is_built()
    figures |= {f"{name}_per_s": rate.median for name, rate in rates.items()}
    figures |= {f"{name}_trials_per_s": rate for name, rate in peers.items()}
    figures["control_plane_scheduler_cores"] = spread(ours.own_share).median
    figures["control_plane_load_cores"] = spread(ours.load_share).median
    found = {"smallest": rates["smallest"].median, **peers}
    ratios = {name: mine / found[name] for name in TARGETS if found.get(name)}
    rows = [(name, f"{ratio:.3g}", f"{TARGETS[name]:g}") for name, ratio in ratios.items()]
    print_table("our tasks a second over theirs", ("over", "ratio", "to reach"), rows)
    print_figures(figures | {f"ratio_to_{name}": ratio for name, ratio in ratios.items()})


if __name__ == "__main__":
    main()
