"""What a checkpoint costs a training: the part of the time that is lost at the default interval.

Stretches of steps with one checkpoint in each alternate with stretches without. The checkpoint is copied, written on
its own thread and stored with fsync in a directory, as the train server does. What the stretch takes more of the
processor is the most that training can lose, where it would use every core itself; on the wall, other programs' use of
the machine decides. The target is at most 2 % at an interval of 30 s.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks import networks
from benchmarks.report import Timing, print_figures, print_table, spread
from nasmesh import training_config
from nasmesh.clock import SystemClock
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind
from nasmesh.store.open import open_store
from nasmesh.v1 import dataset_pb2, train_service_pb2, training_pb2
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


class _Stretches:
    """Runs stretches of one training, with a checkpoint or without."""

    def __init__(self, training: Training, store: ObjectStore) -> None:
        self._training = training
        self._store = store
        self._update = Update(training)
        self._writer = Writer()
        self.size_bytes = 0
        self.parameters = sum(parameter.numel() for parameter in training.module.parameters())

    def run(self, steps: int, *, checkpoint: bool) -> Timing:
        """Return the seconds of a stretch."""
        begin, spent = time.perf_counter(), time.process_time()
        if checkpoint:
            taken = snapshot.take(self._training, elapsed_s=0.0)
            self._writer.start(lambda: self._store.put(ObjectKind.CHECKPOINT, taken.to_bytes()))
        for _ in range(steps):
            epoch, number = divmod(self._training.step, self._training.length.steps_per_epoch)
            self._update.run(self._training.feed.draw(epoch), number)
        stored = self._writer.collect(wait=True)
        if stored is not None:
            self.size_bytes = stored.size_bytes
        return Timing(time.perf_counter() - begin, time.process_time() - spent)


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    seconds = 8.0 if parser.parse_args().quick else 60.0
    rows, figures = [], {}
    for width in (16, 128):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NASMESH_HOME"] = folder
            store = open_store(str(Path(folder) / "store"))
            stretches = _Stretches(_training(store, width), store)
            steps = max(4, round(1.0 / (stretches.run(4, checkpoint=True).cpu_s / 4)))
            lost: list[Timing] = []
            end = time.perf_counter() + seconds
            while time.perf_counter() < end or len(lost) < 4:
                before = stretches.run(steps, checkpoint=False)
                during = stretches.run(steps, checkpoint=True)
                after = stretches.run(steps, checkpoint=False)
                wall_s = during.wall_s - (before.wall_s + after.wall_s) / 2
                lost.append(Timing(wall_s, during.cpu_s - (before.cpu_s + after.cpu_s) / 2))
        cost, wall = spread([each.cpu_s for each in lost]), spread([each.wall_s for each in lost])
        rows.append([stretches.parameters, stretches.size_bytes, cost, f"{100 * cost.median / INTERVAL_S:.3f} %", wall])
        parameters = stretches.parameters
        figures[f"overhead_{parameters}_parameters"] = cost.median / INTERVAL_S
        figures[f"wall_overhead_{parameters}_parameters"] = wall.median / INTERVAL_S
        figures[f"checkpoint_bytes_{parameters}_parameters"] = stretches.size_bytes
    print_table(
        f"a checkpoint with AdamW and averages; at most {100 * TARGET:g} % at an interval of {INTERVAL_S:g} s",
        ["parameters", "bytes", "processor seconds: median [quartiles]", "of the interval", "on the wall"],
        rows,
    )
    worst = max(value for name, value in figures.items() if name.startswith("overhead"))
    print_figures({**figures, "worst_overhead": worst, "interval_s": INTERVAL_S})


if __name__ == "__main__":
    main()
