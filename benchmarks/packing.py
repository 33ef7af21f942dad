"""Networks trained in an hour by one train server with 1, 2, 4 and 8 slots.

`python -m benchmarks.packing [--quick] [--memory SIZE]`. A real server for each number of slots, over gRPC, and as many
callers as slots, each with its next training ready. The networks are small (below a million parameters), of two
built-in spaces, the same for every number of slots; rounds take turns between the servers, so that a busy machine
slows all alike. Start-up and the first training of every child are not counted. The server trains on a GPU where there
is one; on processors its slots share the cores. To reach on a GPU: three times the networks of one slot.
"""

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import grpc

from benchmarks.processes import Program
from benchmarks.report import print_figures, print_table
from nasmesh import spaces
from nasmesh.host import compute_device, cpu_count
from nasmesh.memory import show_bytes
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import architecture_pb2, job_pb2, object_pb2, space_pb2
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1.train_service_pb2_grpc import TrainServiceStub

SLOTS = (1, 2, 4, 8)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Workload:
    """What one round trains: so many networks, each for so many updates."""

    networks: Sequence[object_pb2.ObjectRef]
    steps: int


@dataclass(slots=True)
class Running:
    """A server with so many slots, and what its trainings held and were foretold to hold."""

    slots: int
    stub: TrainServiceStub
    held: list[tuple[int, int]]

    def train(self, network: object_pb2.ObjectRef, steps: int) -> None:
        """Train one network to its end; raises RuntimeError where it ends in another way."""
        request = pb.StartTrainingRequest(training_id=f"benchmark-{next(_numbers)}", network=network)
        request.data.dataset = "datasets/digits"
        request.config.steps, request.config.batch_size = steps, 64
        self.stub.StartTraining(request)
        last = pb.Training()
        for response in self.stub.WatchTraining(pb.WatchTrainingRequest(training_id=request.training_id)):
            last = response.training
        if last.state != job_pb2.JOB_STATE_SUCCEEDED:
            raise RuntimeError(f"{last.failure.reason}: {last.failure.message}")
        self.held.append((last.result.predicted_memory_bytes, last.result.peak_memory_bytes))


def small_networks(store: DirectoryStore, count: int) -> list[object_pb2.ObjectRef]:
    """Store random networks of a cell space and of a chain space, in turn."""
    cells = spaces.complete(space_pb2.Space(cell=space_pb2.CellSpace(cells=[1, 1, 1])))
    chains = spaces.complete(
        space_pb2.Space(chain=space_pb2.ChainSpace(min_layers=3, max_layers=6, kernels=[3], channels=[16, 32]))
    )
    refs = []
    for number in range(count):
        space = (cells, chains)[number % 2]
        values = spaces.sample(space, Random(number))
        built = spaces.build(
            space, values, input_dims=(1, 8, 8), classes=10, preprocessing=architecture_pb2.Preprocessing()
        )
        refs.append(store.put(ObjectKind.NETWORK, to_bytes(lower(built))))
    return refs


@contextmanager
def serving(directory: Path, slots: int, memory: str) -> Iterator[Running]:
    """Run a train server with so many slots on loopback."""
    home = directory / f"slots-{slots}"
    home.mkdir()
    flags = [
        "--slots",
        str(slots),
        "--store",
        f"dir:{directory / 'objects'}",
        *(["--memory", memory] if memory else []),
    ]
    with Program("train_svc", home, *flags) as program, grpc.insecure_channel(program.address) as channel:
        yield Running(slots, TrainServiceStub(channel), [])


def train_round(server: Running, workload: Workload) -> float:
    """Return the seconds in which the server trains every network of the workload."""
    waiting = iter(workload.networks)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def caller() -> None:
        while not failures:
            with lock:
                network = next(waiting, None)
            if network is None:
                return
            try:
                server.train(network, workload.steps)
            except BaseException as error:  # noqa: BLE001 - raised where the round is waited for
                failures.append(error)

    # One more than the slots: the next training waits in the server when a slot falls free.
    callers = [threading.Thread(target=caller) for _ in range(server.slots + 1)]
    begin = time.monotonic()
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    if failures:
        raise failures[0]
    return time.monotonic() - begin


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter trainings; ends within 50 s")
    parser.add_argument("--memory", default="", help="what trainings may hold together [the server's default]")
    asked = parser.parse_args()
    count, steps, rounds = (8, 10, 1) if asked.quick else (32, 200, 3)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        workload = Workload(small_networks(DirectoryStore(directory / "objects"), count), steps)
        servers = [stack.enter_context(serving(directory, slots, asked.memory)) for slots in SLOTS]
        for server in servers:  # every child trains once, unmeasured
            train_round(server, Workload([workload.networks[0]] * server.slots, 2))
            server.held.clear()
        seconds: dict[int, list[float]] = {slots: [] for slots in SLOTS}
        for turn in range(rounds):
            for server in servers if turn % 2 == 0 else reversed(servers):
                seconds[server.slots].append(train_round(server, workload))
    _report(servers, seconds, count)


def _report(servers: Sequence[Running], seconds: dict[int, list[float]], count: int) -> None:
    per_hour = {slots: 3600 * count / statistics.median(times) for slots, times in seconds.items()}
    rows = []
    for server in servers:
        rate = per_hour[server.slots]
        held = max((peak for _, peak in server.held), default=0)
        rows.append((server.slots, f"{rate:.0f}", f"{rate / per_hour[1]:.2f}", show_bytes(held)))
    device = compute_device()
    title = f"networks trained in an hour on {device.model} ({cpu_count()} processors), {count} networks a round"
    print_table(title, ("slots", "networks/hour", "over one slot", "most held by one"), rows)
    figures: dict[str, float | int | str | bool] = {"packing_device": device.model, "packing_processors": cpu_count()}
    figures.update({f"packing_networks_per_hour_{slots}": rate for slots, rate in per_hour.items()})
    figures["packing_best_over_one_slot"] = max(per_hour.values()) / per_hour[1]
    figures["packing_slots_of_best"] = max(per_hour, key=lambda slots: per_hour[slots])
    print_figures(figures)


if __name__ == "__main__":
    main()
