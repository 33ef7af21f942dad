"""What reading costs beside a bare echo, and how soon watchers hear of a change, idle and under full load.

`python -m benchmarks.queries [--quick]`. The scheduler is `python -m scheduler` (SQLite, synchronous=FULL). Clients
live in another process: 16 with a connection each make one call at a time, of GetTrial, of ListTrials with a page of
100, and of a server that answers at once with as many bytes. 100 clients watch a search with two trials a second, some
six changes each, beside nothing else and beside 64 agents at full speed on another search; as many listen to a server
that only tells the time, beside the same.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from benchmarks import bare, noop
from benchmarks.processes import Program, python_worker
from benchmarks.report import percentiles_ms, print_figures, print_table, spread
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc

CLIENTS = 16
WATCHERS = 100
TRIALS = 1000
PAGE = 100
AGENTS = 64
PARALLELISM = 512
IN_FLIGHT = 320
# One trial of the watched search at a time, each of its two works about this long.
WATCHED_WORK_S = 0.25
MOST_TRIALS = 10_000_000
SERVICE = "/nasmesh.v1.SchedulerService"


class Mesh:
    """A scheduler with a search that is loaded, one that is watched, and clients."""

    def __init__(self, stack: contextlib.ExitStack, root: Path) -> None:
        """Start everything."""
        self.scheduler = stack.enter_context(Program("scheduler", root))
        self.load = stack.enter_context(python_worker("benchmarks.load", root, name="load"))
        self.slow = stack.enter_context(python_worker("benchmarks.load", root, name="slow"))
        self.clients = stack.enter_context(python_worker("benchmarks.calls", root))
        self._stub = rpc.SchedulerServiceStub(stack.enter_context(grpc.insecure_channel(self.scheduler.address)))

    def fill(self) -> None:
        """Run a search until it has enough trials to page through."""
        self.load.ask(do="behave", in_flight_below=IN_FLIGHT)
        kinds = [[noop.GENERATE], *([noop.TRAIN], [noop.EVALUATE]) * (AGENTS // 2)]
        agents = [[f"a{number}", kind] for number, kind in enumerate(kinds)]
        self.load.ask(do="connect", address=self.scheduler.address, agents=agents)
        self._create("loaded", PARALLELISM)
        self.load.ask(do="flow", on=True)
        while self._stub.GetSearch(api.GetSearchRequest(name="searches/loaded")).search.trials.succeeded < TRIALS:
            time.sleep(0.1)
        self.load.ask(do="flow", on=False)

    def watch(self) -> None:
        """Let clients watch a search of its own data set, with agents of its own."""
        self.slow.ask(do="behave", mean_s=WATCHED_WORK_S, dataset=noop.OTHER_DATASET, at_most=1)
        kinds = [noop.GENERATE, noop.TRAIN, noop.EVALUATE]
        self.slow.ask(do="connect", address=self.scheduler.address, agents=[["slow", kinds]])
        self._create("watched", 1, noop.OTHER_DATASET)
        self.slow.ask(do="flow", on=True)
        self.clients.ask(do="watch", address=self.scheduler.address, search="searches/watched", clients=WATCHERS)

    def _create(self, name: str, parallelism: int, dataset: str = noop.DATASET) -> None:
        spec = noop.spec(max_trials=MOST_TRIALS, parallelism=parallelism, dataset=dataset)
        self._stub.CreateSearch(api.CreateSearchRequest(spec=spec, search_id=name))


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds; ends within 50 s")
    quick = parser.parse_args().quick
    rounds, seconds = (3, 1.0) if quick else (9, 3.0)
    figures: dict[str, float] = {"queries_clients": CLIENTS, "queries_watchers": WATCHERS}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        mesh = Mesh(stack, root)
        mesh.fill()
        (root / "bare").mkdir()
        echo = stack.enter_context(Program("benchmarks.bare", root / "bare"))
        _queries(mesh, echo.address, figures, rounds=rounds, seconds=seconds)
        rows: list[Sequence[object]] = []
        mesh.clients.ask(do="listen", address=echo.address, clients=WATCHERS)
        _fan_outs(mesh, figures, rows, "watch_bare", "bare ticks", rounds * seconds)
        mesh.clients.ask(do="turn_away")
        mesh.watch()
        _fan_outs(mesh, figures, rows, "watch", "changes", rounds * seconds)
    header = ("messages", "p50 ms", "p90 ms", "p99 ms", "max ms", "messages/s")
    print_table(f"from a change to each of {WATCHERS} watchers", header, rows)
    print_figures(figures)


def _queries(mesh: Mesh, bare_address: str, figures: dict[str, float], *, rounds: int, seconds: float) -> None:
    """Measure reads beside echoes of the same size, taking turns."""
    address, rows = mesh.scheduler.address, []
    asked = {
        "get_trial": api.GetTrialRequest(name=f"searches/loaded/trials/{TRIALS // 2}"),
        "list_trials": api.ListTrialsRequest(parent="searches/loaded", page_size=PAGE),
    }
    methods = {"get_trial": f"{SERVICE}/GetTrial", "list_trials": f"{SERVICE}/ListTrials"}
    for name, request in asked.items():
        ours = {"address": address, "method": methods[name], "request": request.SerializeToString().hex()}
        size = mesh.clients.ask(do="size", **ours)["bytes"]
        echo = {"address": bare_address, "method": bare.UNARY, "request": str(size).encode().hex()}
        rates: dict[str, list[float]] = {"ours": [], "echo": []}
        times: list[float] = []
        for _ in range(rounds):
            for which, call in (("ours", ours), ("echo", echo)):
                found = mesh.clients.ask(do="unary", seconds=seconds, clients=CLIENTS, **call)
                rates[which].append(found["per_s"])
                times += found["seconds"] if which == "ours" else []
        ratio = spread([mine / other for mine, other in zip(rates["ours"], rates["echo"], strict=True)])
        rows.append((name, size, spread(rates["ours"]), spread(rates["echo"]), ratio))
        figures[f"{name}_per_s"] = spread(rates["ours"]).median
        figures[f"{name}_echo_per_s"] = spread(rates["echo"]).median
        figures[f"{name}_ratio_to_echo"] = ratio.median
        figures |= {f"{name}_ms_{key}": value for key, value in percentiles_ms(times).items()}
    header = ("query", "bytes", "calls/s", "bare echo of that size/s", "ratio")
    print_table(f"{CLIENTS} clients, medians of {rounds} [quartiles]", header, rows)


def _fan_outs(
    mesh: Mesh, figures: dict[str, float], rows: list[Sequence[object]], name: str, label: str, seconds: float
) -> None:
    """Measure beside nothing else, and beside agents at full speed."""
    rows.append(_fan_out(mesh, figures, f"{name}_idle", f"{label}, beside nothing else", seconds))
    mesh.load.ask(do="flow", on=True)
    time.sleep(1.0)
    mesh.load.tell(do="watch", seconds=seconds)
    rows.append(_fan_out(mesh, figures, f"{name}_loaded", f"{label}, beside {AGENTS} agents at full speed", seconds))
    done = mesh.load.answer()
    figures[f"{name}_loaded_tasks_per_s"] = done["tasks"] / done["seconds"]
    mesh.load.ask(do="flow", on=False)


def _fan_out(mesh: Mesh, figures: dict[str, float], name: str, label: str, seconds: float) -> Sequence[object]:
    late = mesh.clients.ask(do="watched", seconds=seconds)["seconds"]
    found = percentiles_ms(late)
    figures |= {f"{name}_ms_{key}": value for key, value in found.items()}
    return (label, *(f"{found[key]:.2f}" for key in ("p50", "p90", "p99", "max")), f"{len(late) / seconds:.0f}")


if __name__ == "__main__":
    main()
