"""NORD's three ways to train a population, side by side: one after another, one over many, one each.

`python -m benchmarks.ga_modes [--quick] [--workers N] [--data NAME] [--population N] [--servers]`. NORD (Kyriakides et
al. 2020) timed a genetic search over networks of two convolutions, kernel and filters drawn, with the networks of a
generation trained locally, each over all workers (data-parallel), or one on each worker. Here each is one option of the
same train server: `parallelism` 1; `train.distribution.processes` N; `parallelism` N. The search itself is left out:
its networks are a population drawn with a seed. The ways take turns, and every worker has as many processors in each.
`--servers` adds a fourth, `acrossHosts`: each network over as many train servers, here all of this machine.

A training over many processes waits for the others at each update, which small networks do not win back. The weights it
ends with are those of one process up to rounding, which training makes larger: beside the difference stands that of one
process which only lays its tensors out in another order.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.networks import conv_unit
from benchmarks.report import print_figures, print_table
from nasmesh.clock import seeded_random
from nasmesh.data import catalog
from nasmesh.host import cpu_count, thread_environment
from nasmesh.jobs.table import JobTable
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.model.lower import lower
from nasmesh.settings import read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind
from nasmesh.store.open import open_store
from nasmesh.v1 import architecture_pb2, dataset_pb2, job_pb2, object_pb2, training_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc.address import GangAddress
from train_svc.convert import check_start, slots_of

SEED = 7
# NORD drew both from 1 to 50; here kernels end where the smaller images do, and processors do not have a GPU's time.
MOST_FILTERS = 50
MOST_KERNEL = 7
BATCH = 64


def two_convolutions(dims: Sequence[int], classes: int, *, seed: int) -> architecture_pb2.Architecture:
    """Return a network of two convolution units and a classifier, with kernels and filters drawn."""
    chance = seeded_random(seed)
    sample = architecture_pb2.TensorInput(id="x", data_type=architecture_pb2.DATA_TYPE_FLOAT32, dims=dims)
    network = architecture_pb2.Architecture(inputs=[sample])
    source = "x"
    pool = architecture_pb2.GlobalPool(kind=architecture_pb2.POOL_KIND_AVERAGE)
    operations = {
        "c1": conv_unit(chance.randint(1, MOST_FILTERS), chance.randint(1, MOST_KERNEL)),
        "c2": conv_unit(chance.randint(1, MOST_FILTERS), chance.randint(1, MOST_KERNEL)),
        "pool": architecture_pb2.Operation(global_pool=pool),
        "fc": architecture_pb2.Operation(linear=architecture_pb2.Linear(features=classes, bias=True)),
    }
    for name, operation in operations.items():
        block = network.blocks.add(id=name, operation=operation)
        block.inputs.add(source=source)
        source = name
    network.output = source
    return network


@dataclass(slots=True)
class Server:
    """A train server's table, with a population to train."""

    table: JobTable
    networks: list[object_pb2.ObjectRef]
    data: dataset_pb2.DatasetSpec
    steps: int
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def train(
        self, *, parallelism: int, processes: int, layout: training_pb2.Layout.ValueType = training_pb2.LAYOUT_NHWC
    ) -> list[pb.TrainResult]:
        """Train all, so many at once, each over so many processes; returns the results in order."""
        # Whoever ends first takes the next network, as in a search without a generation barrier.
        with ThreadPoolExecutor(parallelism) as callers:
            return list(callers.map(lambda network: self._train(network, processes, layout), self.networks))

    def _train(
        self, network: object_pb2.ObjectRef, processes: int, layout: training_pb2.Layout.ValueType
    ) -> pb.TrainResult:
        config = training_pb2.TrainConfig(steps=self.steps, batch_size=BATCH, seed=SEED)
        config.distribution.processes = processes
        config.compute.layout = layout
        job = f"t{next(self.numbers)}"
        start = pb.StartTrainingRequest(training_id=job, network=network, config=config, data=self.data)
        self.table.start(job, check_start(start, slots=self.table.slots), slots=slots_of(start))
        return _result(self.table, job)

    def train_over(self, others: Sequence[JobTable], addresses: Sequence[GangAddress]) -> list[pb.TrainResult]:
        """Train all, one after another, each over servers with these tables and addresses."""
        found = []
        for network in self.networks:
            config = training_pb2.TrainConfig(steps=self.steps, batch_size=BATCH, seed=SEED)
            config.distribution.processes, config.distribution.across_hosts = len(others), True
            config.compute.layout = training_pb2.LAYOUT_NHWC
            job = f"t{next(self.numbers)}"
            for rank, (table, address) in enumerate(zip(others, addresses, strict=True)):
                place = pb.GangMember(rank=rank, size=len(others), rendezvous=addresses[0].text)
                start = pb.StartTrainingRequest(
                    training_id=job, network=network, config=config, data=self.data, gang=place
                )
                table.start(job, check_start(start, slots=table.slots, gang_address=address.text))
            first, *_ = [_result(table, job) for table in others]
            found.append(first)
        return found


def _result(table: JobTable, job: str) -> pb.TrainResult:
    *_, view = table.watch(job)
    if view.state != job_pb2.JOB_STATE_SUCCEEDED:
        raise RuntimeError(f"{job}: {view.failure}")
    return pb.TrainResult.FromString(view.result or b"")


def largest_difference(store: ObjectStore, ones: Sequence[pb.TrainResult], others: Sequence[pb.TrainResult]) -> float:
    """Return by how much the weights of two populations differ at most."""
    found = 0.0
    for one, other in zip(ones, others, strict=True):
        mine, theirs = (load_checkpoint(store.get(result.checkpoint)).state for result in (one, other))
        found = max(found, *(float((mine[name] - theirs[name]).abs().max()) for name in mine))
    return found


def _table(directory: Path, store: str, *, slots: int, workers: int = 0, gang_listen: str = "") -> JobTable:
    """Return a server's table; `workers`: how many share the processors [its slots]."""
    settings = read_settings()
    return JobTable(
        work="train_svc.job:run",
        slots=slots,
        directory=directory / "jobs",
        environment={
            "NASMESH_STORE": store,
            "NASMESH_HOME": str(directory),
            "NASMESH_DATA": str(settings.data),
            "NASMESH_GANG_LISTEN": gang_listen,
            **thread_environment(workers or slots),
        },
        noun="training",
    )


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter trainings; ends within 50 s")
    parser.add_argument("--workers", type=int, default=max(2, cpu_count()), help="slots, and processes of one training")
    parser.add_argument("--data", default="digits", help="digits, fashion-mnist, ...")
    parser.add_argument("--servers", action="store_true", help="also each network over as many train servers")
    parser.add_argument("--population", type=int, default=0, help="networks [10; 3 with --quick]")
    asked = parser.parse_args()
    population = asked.population or (3 if asked.quick else 10)
    rounds = 1 if asked.quick else 3
    data = dataset_pb2.DatasetSpec(dataset=f"datasets/{asked.data}")
    info = catalog.describe(data.dataset)
    with tempfile.TemporaryDirectory() as directory:
        address = f"dir:{Path(directory) / 'objects'}"
        store = open_store(address)
        drawn = [two_convolutions(info.sample_dims, info.classes, seed=SEED + number) for number in range(population)]
        networks = [store.put(ObjectKind.NETWORK, to_bytes(lower(network))) for network in drawn]
        steps = 15 if asked.quick else 200
        # Two, since a training of one process ends the others that one of several has left warm.
        tables = [_table(Path(directory) / name, address, slots=asked.workers) for name in ("one", "many")]
        server, wide = (Server(table, networks, data, steps) for table in tables)
        ways: dict[str, Callable[[], list[pb.TrainResult]]] = {
            "local": lambda: server.train(parallelism=1, processes=1),
            "over_many": lambda: wide.train(parallelism=1, processes=asked.workers),
            "one_each": lambda: server.train(parallelism=asked.workers, processes=1),
        }
        if asked.servers:
            addresses = [GangAddress("127.0.0.1:0") for _ in range(asked.workers)]
            for number, own in enumerate(addresses):
                home = Path(directory) / f"server-{number}"
                tables.append(_table(home, address, slots=1, workers=asked.workers, gang_listen=own.text))
            ways["over_servers"] = lambda: server.train_over(tables[2:], addresses)
        try:
            found = _measure(ways, rounds)
            other = server.train(parallelism=1, processes=1, layout=training_pb2.LAYOUT_NCHW)
        finally:
            for one in tables:
                one.close()
        _report(found, other, store, asked.workers)


@dataclass(slots=True)
class Measured:
    """Seconds of each round, and the last round's results."""

    seconds: list[float] = field(default_factory=list)
    results: list[pb.TrainResult] = field(default_factory=list)


def _measure(ways: dict[str, Callable[[], list[pb.TrainResult]]], rounds: int) -> dict[str, Measured]:
    """Let the ways take turns, after one round that starts the processes."""
    found = {name: Measured() for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            found[name].results = way()
            if number:
                found[name].seconds.append(time.perf_counter() - begin)
    return found


def _report(found: dict[str, Measured], other: list[pb.TrainResult], store: ObjectStore, workers: int) -> None:
    """Print what was measured; `other`: the same trainings in another layout."""
    figures: dict[str, float | int | str | bool] = {"workers": workers, "networks": len(other)}
    rows = []
    local = median(found["local"].seconds)
    for name, measured in found.items():
        seconds = median(measured.seconds)
        difference = largest_difference(store, found["local"].results, measured.results)
        figures |= {f"{name}_s": seconds, f"{name}_ratio": seconds / local, f"{name}_max_abs_diff": difference}
        rows.append((name.replace("_", " "), f"{seconds:.2f}", f"{seconds / local:.2f}", f"{difference:.1e}"))
    figures["layout_max_abs_diff"] = difference = largest_difference(store, found["local"].results, other)
    rows.append(("(local, another layout)", "", "", f"{difference:.1e}"))
    title = f"{figures['networks']} networks of two convolutions, {workers} workers"
    print_table(title, ("way", "seconds", "of local", "weights differ by"), rows)
    print_figures(figures)


if __name__ == "__main__":
    main()
