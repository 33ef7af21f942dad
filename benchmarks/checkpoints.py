"""What a checkpoint costs a training: the part of the time that is lost at the default interval.

While a training makes its steps, checkpoints are taken between two of them, written on their own thread and stored with
fsync in a directory, as the train server does. Counted is the processor time of both threads for it: the most that a
training can lose, where it would use every core itself. The target is at most 2 % at an interval of 30 s.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import networks
from benchmarks.report import print_figures, print_table, spread
from nasmesh import training_config
from nasmesh.clock import SystemClock
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind
from nasmesh.store.open import open_store
from nasmesh.v1 import dataset_pb2, object_pb2, train_service_pb2, training_pb2
from train_svc import snapshot
from train_svc.step import Update
from train_svc.training import Training, assemble
from train_svc.writer import Writer

TARGET = 0.02
_DATA = dataset_pb2.DatasetSpec(dataset="datasets/digits")
INTERVAL_S = training_config.complete(training_pb2.TrainConfig()).checkpoint_interval_s


def _training(store: ObjectStore, width: int) -> Training:
    architecture = networks.resnet8_architecture(width)
    architecture.inputs[0].dims[:] = (1, 8, 8)
    network = store.put(ObjectKind.NETWORK, to_bytes(lower(architecture)))
    config = training_pb2.TrainConfig(
        steps=10**8,
        batch_size=64,
        ema_decay=0.99,
        optimizer=training_pb2.OptimizerConfig(kind=training_pb2.OPTIMIZER_KIND_ADAMW),
    )
    request = train_service_pb2.StartTrainingRequest(network=network, config=config, data=_DATA)
    training = assemble(request, store, SystemClock())
    training.module.train()
    return training


class _Costs(NamedTuple):
    """Processor seconds of one checkpoint: between two steps, and on its own thread."""

    take_s: float
    write_s: float


def _checkpoint(training: Training, update: Update, store: ObjectStore) -> tuple[_Costs, int]:
    """Take and write one checkpoint while the training goes on; return its costs and its size in bytes."""
    spent = time.thread_time()
    taken = snapshot.take(training, elapsed_s=0.0)
    take_s = time.thread_time() - spent
    writer, written = Writer(), []

    def write() -> object_pb2.ObjectRef:
        began = time.thread_time()
        ref = store.put(ObjectKind.CHECKPOINT, taken.to_bytes())
        written.append(time.thread_time() - began)
        return ref

    writer.start(write)
    ref = None
    while ref is None:
        epoch, number = divmod(training.step, training.length.steps_per_epoch)
        update.run(training.feed.draw(epoch), number)
        ref = writer.collect()
    return _Costs(take_s, written[0]), ref.size_bytes


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    seconds = 6.0 if parser.parse_args().quick else 45.0
    rows, figures = [], {}
    for width in (16, 128):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NASMESH_HOME"] = folder
            store = open_store(str(Path(folder) / "store"))
            training = _training(store, width)
            update = Update(training)
            costs: list[_Costs] = []
            end, size = time.perf_counter() + seconds, 0
            while time.perf_counter() < end or len(costs) < 4:
                found, size = _checkpoint(training, update, store)
                costs.append(found)
        whole = spread([sum(each) for each in costs])
        parameters = sum(parameter.numel() for parameter in training.module.parameters())
        parts = [spread([each.take_s for each in costs]), spread([each.write_s for each in costs])]
        rows.append([parameters, size, *parts, f"{100 * whole.median / INTERVAL_S:.3f} %"])
        figures[f"overhead_{parameters}_parameters"] = whole.median / INTERVAL_S
        figures[f"bytes_{parameters}_parameters"] = size
    print_table(
        f"a checkpoint with AdamW and averages, processor seconds: median [quartiles]; at most {100 * TARGET:g} %",
        ["parameters", "bytes", "between steps", "on its own thread", f"of {INTERVAL_S:g} s"],
        rows,
    )
    worst = max(value for name, value in figures.items() if name.startswith("overhead"))
    print_figures({**figures, "worst_overhead": worst, "interval_s": INTERVAL_S})


if __name__ == "__main__":
    main()
