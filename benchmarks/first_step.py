"""Time from the start of a training to its first update, in the warm child process of a train server.

`python -m benchmarks.first_step [--quick]`. As in a search: one slot, the data set used before, and every training of a
network that this server has not seen, so it is fetched, weighed against the memory, admitted and converted (all
defaults; 1,000 updates asked for, ended after one). Measured from the call that starts the job, on the machine's
monotonic clock, to the beginning of the first update, which is the figure (at most 300 ms); the end of that update,
which chooses kernels, is printed too, and the processor time from the job's begin in its process, which other programs'
use of the machine adds less to. Fashion-MNIST, batches of 64, three kinds of networks.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

from benchmarks import networks
from benchmarks.report import print_figures, print_table, spread
from nasmesh.clock import SystemClock, thread_processor_s
from nasmesh.data import catalog
from nasmesh.host import thread_environment
from nasmesh.jobs.context import JobContext
from nasmesh.jobs.room import Memory
from nasmesh.jobs.table import JobTable
from nasmesh.limits import MIB
from nasmesh.memory import METRIC
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.settings import read_settings
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import architecture_pb2, object_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import fit, job
from train_svc.draws import EpochDraws
from train_svc.heap import heap_environment
from train_svc.job import warm as warm  # the child asks this module for it
from train_svc.job import weigh as weigh  # likewise
from train_svc.step import Seen, Update

TARGET_MS = 300.0
_DATA = "datasets/fashion-mnist"
_STEPS = 1000
_KINDS = {
    "resnet8": networks.resnet8_architecture,
    "nac": networks.nac_architecture,
    "depthwise": networks.depthwise_architecture,
}
_WIDTHS = {"resnet8": 8, "nac": 8, "depthwise": 8}
_PARTS = ("job", "update", "updated")
_clock = SystemClock()


def run(request: bytes, context: JobContext) -> bytes:
    """Train, and note when the job was begun here, its first update begun, and ended."""
    moments = {"job": _clock.monotonic()}
    spent = thread_processor_s()

    class Noted(Update):
        def run(self, draws: EpochDraws, number: int) -> Seen:
            moments.setdefault("processor", thread_processor_s() - spent)
            moments.setdefault("update", _clock.monotonic())
            seen = super().run(draws, number)
            moments.setdefault("updated", _clock.monotonic())
            return seen

    with patch.object(fit, "Update", Noted):
        result = pb.TrainResult.FromString(job.run(request, context))
    for name, moment in moments.items():
        result.measurements.add(metric=name, value=moment)
    return result.SerializeToString()


def _architectures(kind: str, count: int) -> Iterator[architecture_pb2.Architecture]:
    """Yield networks of one kind, all of another width."""
    info = catalog.describe(_DATA)
    for number in range(count):
        drawn = _KINDS[kind](_WIDTHS[kind] + 4 * number)
        drawn.inputs[0].dims[:] = info.sample_dims
        drawn.preprocessing.mean.extend(info.mean)
        drawn.preprocessing.std.extend(info.std)
        yield drawn


def _milliseconds(table: JobTable, name: str, network: object_pb2.ObjectRef) -> dict[str, float]:
    """Train one update and return when each part was reached, since the job was asked for."""
    request = pb.StartTrainingRequest(training_id=name, network=network, until_step=1)
    request.data.dataset = _DATA
    request.config.steps = _STEPS
    began = _clock.monotonic()
    table.start(name, request)
    view = list(table.watch(name))[-1]
    if view.failure is not None:
        raise RuntimeError(view.failure.message)
    found = {one.metric: one.value for one in pb.TrainResult.FromString(view.result).measurements}
    reached = {part: 1000 * (found[part] - began) for part in _PARTS}
    return {**reached, "processor": 1000 * found["processor"]}


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer networks; ends within 50 s")
    count = 4 if parser.parse_args().quick else 25
    figures: dict[str, float | int] = {"networks": len(_KINDS) * count}
    rows: list[Sequence[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        store = DirectoryStore(directory / "objects")
        table = JobTable(
            work="benchmarks.first_step:run",
            slots=1,
            directory=directory / "jobs",
            environment={
                "NASMESH_STORE": f"dir:{directory / 'objects'}",
                "NASMESH_HOME": str(directory / "home"),
                "NASMESH_DATA": str(read_settings().data),
                **thread_environment(1),
                **heap_environment(os.environ),
            },
            memory=Memory(8192 * MIB, METRIC),  # 2 GiB refuse the largest of the depthwise networks that are drawn
        )
        try:
            for kind in _KINDS:
                drawn = [to_bytes(lower(one)) for one in _architectures(kind, count + 1)]
                stored = [store.put(ObjectKind.NETWORK, content) for content in drawn]
                found = [_milliseconds(table, f"{kind}-{number}", ref) for number, ref in enumerate(stored)][1:]
                spreads = {part: spread([one[part] for one in found]) for part in (*_PARTS, "processor")}
                rows.append((kind, *spreads.values()))
                figures[f"{kind}_first_step_ms"] = spreads["update"].median
                figures[f"{kind}_first_step_done_ms"] = spreads["updated"].median
                figures[f"{kind}_processor_ms"] = spreads["processor"].median
        finally:
            table.close()
    print_table(
        f"milliseconds from starting a job, {count} networks of each kind; median [quartiles]",
        ("network", "job begins", f"first update begins (target <= {TARGET_MS:.0f})", "and ends", "processor between"),
        rows,
    )
    worst = max(value for name, value in figures.items() if name.endswith("_first_step_ms"))
    print_figures({**figures, "worst_first_step_ms": worst})


if __name__ == "__main__":
    main()
