"""Time of one training step through the train server's loop, divided by that of the same network by hand.

Both do all of a step: samples on the device as bytes, cropped and mirrored a batch at a time, normalised, channels
last, forward, backward, fused Nesterov SGD with weight decay, a cosine rate, the loss kept for later. The loop by hand
holds its images padded and crops with one flat index: the fastest form that we know. Same weights, same data, one
thread, taking turns in one process. The target is at most 1.02.

The ratio is of processor time, which with one thread is the wall time of an idle machine; on the wall, other programs'
use of the machine adds several percent to either side. The wall's ratio is printed too.
"""

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import networks
from benchmarks.report import Spread, interleave, print_figures, print_table, spread
from nasmesh.clock import SystemClock
from nasmesh.data.adding.add import add
from nasmesh.data.adding.options import Options
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dataset_pb2, object_pb2, train_service_pb2, training_pb2
from train_svc import compute
from train_svc.step import Update
from train_svc.training import Training, assemble

TARGET = 1.02
_SAMPLES = 2000
_STEPS = 100_000
_RATE, _DECAY, _MOMENTUM, _PAD = 0.01, 5e-4, 0.9, 4


def random_images(store: MemoryStore, folder: Path) -> dataset_pb2.DatasetSpec:
    """Add random images with random labels."""
    draw = np.random.default_rng(1)
    images = draw.integers(0, 256, (_SAMPLES, *networks.INPUT_DIMS), dtype=np.uint8)
    labels = np.arange(_SAMPLES) % networks.CLASSES
    np.savez(folder / "random.npz", x=images, y=labels)

    def put(content: bytes) -> object_pb2.ObjectRef:
        return store.put(ObjectKind.DATASET, content, extension="bin")

    _, ref = add(folder / "random.npz", Options(kind="image", layout="nchw"), put)
    return dataset_pb2.DatasetSpec(dataset="datasets/random", manifest=ref)


def through_the_server(training: Training) -> Callable[[], object]:
    """Return what does the next step of a training, as the train server's loop does."""
    update = Update(training)
    training.module.train()

    def places() -> Iterator[Callable[[], object]]:
        for epoch in range(_STEPS):
            draws = training.feed.draw(epoch)
            for number in range(training.length.steps_per_epoch):
                yield lambda draws=draws, number=number: update.run(draws, number)  # type: ignore[misc]

    steps = places()
    return lambda: next(steps)()


def _by_hand(module: nn.Module, training: Training, batch: int) -> Callable[[], object]:
    """Return what does the next step of a loop as a careful person writes it."""
    splits, (channels, height, width) = training.splits, networks.INPUT_DIMS
    images = torch.from_numpy(splits.samples.rows(splits.train))
    labels = torch.from_numpy(splits.labels[splits.train])
    high, wide = height + 2 * _PAD, width + 2 * _PAD
    flat = functional.pad(images, (_PAD,) * 4).view(-1)
    plane = (torch.arange(channels) * (high * wide))[None, :, None, None]
    module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in module.parameters() if p.dim() > 1]
    spared = [p for p in module.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": _DECAY}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=_RATE, momentum=_MOMENTUM, nesterov=True, fused=True)
    losses: list[Tensor] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            order = torch.randperm(len(images))
            for first in range(0, len(order) - batch + 1, batch):
                rows = order[first : first + batch]
                corner = torch.randint(2 * _PAD + 1, (2, batch, 1))
                mirrored = torch.rand(batch, 1) < 0.5
                x = torch.arange(width).expand(batch, width)
                x = torch.where(mirrored, width - 1 - x, x) + corner[0]
                y = torch.arange(height) + corner[1]
                at = (rows * (channels * high * wide))[:, None, None, None] + plane
                at = at + (y * wide)[:, None, :, None] + x[:, None, None, :]
                pixels = flat.index_select(0, at.view(-1)).view(at.shape)
                yield training.feed.normaliser.stored(pixels), labels[rows]

    steps = batches()

    def step() -> None:
        x, y = next(steps)
        loss = functional.cross_entropy(module(x.contiguous(memory_format=torch.channels_last)), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = _RATE / 2 * (1 + math.cos(math.pi * len(losses) / _STEPS))
        optimizer.step()
        losses.append(loss.detach())

    return step


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Processor milliseconds of a step, and ratios of neighbouring steps."""

    ours_ms: Spread
    by_hand_ms: Spread
    ratio: Spread
    wall_ratio: Spread


def _measure(
    case: networks.Twin, store: MemoryStore, data: dataset_pb2.DatasetSpec, *, batch: int, seconds: float
) -> _Outcome:
    config = training_pb2.TrainConfig(
        steps=_STEPS,
        batch_size=batch,
        optimizer=training_pb2.OptimizerConfig(
            kind=training_pb2.OPTIMIZER_KIND_NESTEROV, learning_rate=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY
        ),
        schedule=training_pb2.ScheduleConfig(kind=training_pb2.SCHEDULE_KIND_COSINE),
        augmentation=training_pb2.AugmentationConfig(crop_padding=_PAD, flip=True),
        compute=training_pb2.ComputePolicy(layout=training_pb2.LAYOUT_NHWC, threads=1),
    )
    network = store.put(ObjectKind.NETWORK, to_bytes(lower(case.architecture)))
    request = train_service_pb2.StartTrainingRequest(network=network, config=config, data=data)
    training = assemble(request, store, SystemClock())
    case.by_hand.load_state_dict(training.module.state_dict(), strict=False)
    x = training.feed.batch(training.feed.draw(0), 0).x
    with torch.no_grad():
        difference = float((training.module.eval()(x) - case.by_hand.eval()(x)).abs().max())
    if difference > 1e-5:
        raise SystemExit(f"{case.name}: not the same network, outputs differ by {difference}")
    contenders = {"ours": through_the_server(training), "by hand": _by_hand(case.by_hand, training, batch)}
    times = interleave(contenders, seconds=seconds)
    pairs = list(zip(times["ours"], times["by hand"], strict=True))
    return _Outcome(
        ours_ms=spread([1e3 * ours.cpu_s for ours, _ in pairs]),
        by_hand_ms=spread([1e3 * theirs.cpu_s for _, theirs in pairs]),
        ratio=spread([ours.cpu_s / theirs.cpu_s for ours, theirs in pairs]),
        wall_ratio=spread([ours.wall_s / theirs.wall_s for ours, theirs in pairs]),
    )


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    quick = parser.parse_args().quick
    batch, seconds = (16, 5.0) if quick else (64, 60.0)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NASMESH_HOME"] = folder
        store = MemoryStore()
        data = random_images(store, Path(folder))
        for case in networks.twins():
            found = _measure(case, store, data, batch=batch, seconds=seconds)
            rows.append([case.name, found.ours_ms, found.by_hand_ms, found.ratio, found.wall_ratio])
            figures[f"{case.name}_step_ratio"] = found.ratio.median
            figures[f"{case.name}_step_wall_ratio"] = found.wall_ratio.median
            figures[f"{case.name}_step_ms"] = found.ours_ms.median
    print_table(
        f"training step, batch {batch}, 1 thread, {compute.best_device()}; median [quartiles]",
        ["network", "through the server's loop, ms", "by hand ms", f"ratio (target <= {TARGET})", "on the wall"],
        rows,
    )
    worst = max(value for name, value in figures.items() if name.endswith("step_ratio"))
    print_figures({**figures, "worst_step_ratio": worst, "batch": batch})


if __name__ == "__main__":
    main()
