"""Time of an epoch of Fashion-MNIST through the train server's loop, divided by that of a typical script.

The typical script is what tutorials show: a Dataset that transforms one sample at a time (random crop, mirror,
normalise), a DataLoader with two worker processes, float32, and `loss.item()` every step. The server holds the samples
as bytes, augments whole batches, probes the number format (AUTO), and has its process keep memory as the train
server's children do. The same network (a residual network of eight layers), batch and optimiser; as many threads as
there are processors, one with --quick. Both take turns a stretch of batches at a time, each in a process of its own.
The target is at most 0.45 on the wall; the ratio of processor time, workers included, is printed too, which other
programs' use of the machine disturbs less. Without --quick the server may also compile (AUTO).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks import networks
from benchmarks.report import Timing, print_figures, print_table, spread
from benchmarks.turns import Contender, take_turns
from nasmesh.clock import SystemClock
from nasmesh.data import catalog
from nasmesh.data.load import Splits, load
from nasmesh.host import thread_environment
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import architecture_pb2, dataset_pb2, train_service_pb2, training_pb2
from train_svc.heap import heap_environment
from train_svc.step import Update
from train_svc.training import Training, assemble

TARGET = 0.45
_DATA = dataset_pb2.DatasetSpec(dataset="datasets/fashion-mnist")
_BATCH, _QUICK_BATCH, _RATE, _PAD = 128, 64, 0.05, 4


class _OneByOne(Dataset[tuple[Tensor, int]]):
    """Samples as a tutorial has them."""

    def __init__(self, splits: Splits) -> None:
        self._images = splits.samples.rows(splits.train)
        self._labels = splits.labels[splits.train]
        self._mean, self._std = splits.info.mean[0], splits.info.std[0]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self._images[index]).float() / 255
        padded = functional.pad(image, (_PAD,) * 4)
        top, left = torch.randint(2 * _PAD + 1, (2,)).tolist()
        image = padded[:, top : top + 28, left : left + 28]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image - self._mean) / self._std, int(self._labels[index])


def _typical(model: torch.nn.Module, splits: Splits, batch: int) -> Callable[[], object]:
    loader = DataLoader(_OneByOne(splits), batch_size=batch, shuffle=True, num_workers=2, drop_last=True)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    steps = batches()
    running = [0.0]

    def step() -> None:
        x, y = next(steps)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        running[0] += loss.item()

    return step


def _architecture() -> architecture_pb2.Architecture:
    result = networks.resnet8_architecture()
    info = catalog.describe(_DATA.dataset)
    result.inputs[0].dims[:] = info.sample_dims
    result.preprocessing.mean.extend(info.mean)
    result.preprocessing.std.extend(info.std)
    return result


def _assembled(threads: int, batch: int, *, compiling: bool) -> Training:
    store = MemoryStore()
    config = training_pb2.TrainConfig(
        epochs=50,
        batch_size=batch,
        optimizer=training_pb2.OptimizerConfig(
            kind=training_pb2.OPTIMIZER_KIND_NESTEROV, learning_rate=_RATE, weight_decay=5e-4
        ),
        augmentation=training_pb2.AugmentationConfig(crop_padding=_PAD, flip=True),
        compute=training_pb2.ComputePolicy(
            precision=training_pb2.PRECISION_AUTO,
            threads=threads,
            compile=training_pb2.COMPILE_MODE_AUTO if compiling else training_pb2.COMPILE_MODE_NEVER,
        ),
    )
    network = store.put(ObjectKind.NETWORK, to_bytes(lower(_architecture())))
    request = train_service_pb2.StartTrainingRequest(network=network, config=config, data=_DATA)
    return assemble(request, store, SystemClock())


def _ours(training: Training) -> Callable[[], object]:
    update = Update(training)
    training.module.train()

    def steps() -> Iterator[None]:
        for epoch in range(10**9):
            draws = training.feed.draw(epoch)
            for number in range(training.length.steps_per_epoch):
                update.run(draws, number)
                yield

    walk = steps()
    return lambda: next(walk)


def _contend(name: str, threads: int, batch: int, *, compiling: bool) -> None:
    """Be one of the two, in this process."""
    if name == "typical":
        torch.set_num_threads(threads)
        take_turns(_typical(to_module(lower(_architecture()), seed=1), load(_DATA), batch), {})
        return
    with tempfile.TemporaryDirectory() as home:
        os.environ["NASMESH_HOME"] = home
        begin = time.perf_counter()
        training = _assembled(threads, batch, compiling=compiling)
        choice = training.choice
        about = {
            "assemble_s": time.perf_counter() - begin,
            "batches": training.length.steps_per_epoch,
            "arithmetic": f"{choice.precision} {choice.layout}{' compiled' if choice.compiled else ''}",
        }
        take_turns(_ours(training), about)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="batches of 64, a few; end within 50 s")
    parser.add_argument("--threads", type=int, default=0, help="threads of either loop [processors; quick: 1]")
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, then the JSON object."""
    flags = _flags()
    quick = flags.quick
    # Threads that wait for each other at every operation take minutes where other programs use the processors.
    threads = flags.threads or (1 if quick else os.cpu_count() or 1)
    batch, stretch, seconds = (_QUICK_BATCH, 3, 8.0) if quick else (_BATCH, 20, 150.0)
    if flags.contender:
        _contend(flags.contender, threads, batch, compiling=not quick)
        return
    arguments = [f"--threads={threads}", *(["--quick"] if quick else [])]
    # Threads of either wait in the same way: by itself OpenMP turns round meanwhile, which costs who has workers more.
    waiting = thread_environment(1)
    as_children = {**waiting, **heap_environment(os.environ)}
    with (
        Contender("benchmarks.epoch", [*arguments, "--contender=ours"], as_children) as ours,
        Contender("benchmarks.epoch", [*arguments, "--contender=typical"], waiting) as typical,
    ):
        pairs = _alternate(ours, typical, stretch=stretch, seconds=seconds)
    batches, arithmetic = int(ours.about["batches"]), str(ours.about["arithmetic"])
    rows = []
    for name, times in (
        ("the server's loop", [mine for mine, _ in pairs]),
        ("typical script", [theirs for _, theirs in pairs]),
    ):
        wall, processor = (spread([batches * one[place] for one in map(astuple, times)]) for place in (0, 1))
        rows.append((name, wall, processor))
    ratio = spread([mine.wall_s / theirs.wall_s for mine, theirs in pairs])
    cpu_ratio = spread([mine.cpu_s / theirs.cpu_s for mine, theirs in pairs])
    print_table(
        f"an epoch of Fashion-MNIST, batch {batch}, {threads} threads, {arithmetic} chosen; median [quartiles]",
        ["loop", "seconds an epoch", "processor seconds"],
        rows,
    )
    print(f"ratio {ratio} (target <= {TARGET}); of processor time {cpu_ratio}")
    figures = {
        "epoch_ratio": ratio.median,
        "epoch_cpu_ratio": cpu_ratio.median,
        "epoch_s": rows[0][1].median,
        "typical_epoch_s": rows[1][1].median,
        "assemble_s": float(ours.about["assemble_s"]),
    }
    print_figures({**figures, "arithmetic": arithmetic})


def _alternate(ours: Contender, typical: Contender, *, stretch: int, seconds: float) -> list[tuple[Timing, Timing]]:
    """Return the times of a step in each stretch, the two taking turns; the first stretch of each is not counted."""
    ours.steps(stretch)
    typical.steps(stretch)
    pairs: list[tuple[Timing, Timing]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < 2:
        pairs.append((ours.steps(stretch), typical.steps(stretch)))
    return pairs


if __name__ == "__main__":
    main()
