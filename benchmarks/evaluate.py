"""Time of scoring 10,000 images through the evaluation service's own path, over that of a PyTorch evaluation loop.

Same networks, same images, one thread, in one process: 10,000 images are scored once by each, in pieces of which each
scores one in turn, so that a busy machine slows all alike; a network that has used up its time leaves the rest of the
pieces out, and the figures say so. Ours is what a job does: rows from the data set,
preprocessing, onnxruntime on the stored bytes, and every score of the report. PyTorch's is what one writes by hand and
tunes: the module in eval mode under inference_mode, channels-last, batches of 64 (256 is slower in PyTorch), images
that are floats already, the argmax compared, nothing else. The target is at most 1.0. The same through our PyTorch
engine, and processor times, are printed too.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import networks
from benchmarks.report import Timing, print_figures, print_table, spread
from evaluate_svc import scoring
from evaluate_svc.subject import Subject, open_engine
from nasmesh import evaluate_config
from nasmesh.data import catalog
from nasmesh.data.load import Splits
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.data.source import ArraySource
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.v1 import evaluation_pb2

TARGET = 1.0
_BATCH = 256
_BATCH_BY_HAND = 64
_IMAGES, _QUICK_IMAGES = 10_000, 192
_FEWEST_PIECES = 4

Rows = NDArray[np.int64]


def _splits(images: int) -> Splits:
    """Return made-up images; a network takes as long over them as over real ones."""
    draw = np.random.default_rng(1)
    info = catalog.describe("datasets/fashion-mnist")
    rows = np.arange(images)
    return Splits(
        samples=ArraySource(draw.integers(0, 256, (images, *networks.INPUT_DIMS), dtype=np.uint8)),
        labels=draw.integers(0, networks.CLASSES, images),
        targets=np.zeros((0, 0), dtype=np.float32),
        train=rows[:0],
        validation=rows,
        test=rows[:0],
        digest="",
        info=info,
    )


def _by_hand(module: nn.Module, splits: Splits) -> Callable[[Rows], float]:
    module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    assert splits.samples.array is not None
    x = torch.from_numpy(splits.samples.array.astype(np.float32) / 255).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(splits.labels)

    def evaluate(rows: Rows) -> float:
        right, begin, end = 0, int(rows[0]), int(rows[-1]) + 1
        with torch.inference_mode():
            for first in range(begin, end, _BATCH_BY_HAND):
                last = min(first + _BATCH_BY_HAND, end)
                right += int((module(x[first:last]).argmax(1) == y[first:last]).sum())
        return right / len(rows)

    return evaluate


def _through_us(
    content: bytes, splits: Splits, engine: evaluation_pb2.EvaluateEngine.ValueType
) -> Callable[[Rows], float]:
    config = evaluate_config.complete(evaluation_pb2.EvaluateConfig(batch_size=_BATCH, engine=engine))
    opened, versions = open_engine(content, onnx.ModelProto.FromString(content), config)
    subject = Subject(opened, Preprocessing(), versions)

    def evaluate(rows: Rows) -> float:
        piece = replace(splits, validation=rows)
        scored = scoring.score(subject.outputs, subject.preprocessing, piece, config, lambda _, __: None)
        return scored.headline()[1]

    return evaluate


def _measure(case: networks.Twin, splits: Splits, *, pieces: int, seconds: float) -> dict[str, list[Timing]]:
    """Return the times of each piece, in seconds an image; fewer pieces, but some, where the time is over."""
    model = lower(case.architecture)
    converted = to_module(model, seed=1)
    case.by_hand.load_state_dict(converted.state_dict(), strict=False)
    content = to_bytes(write_back(model, converted.state_dict()))
    contenders: Mapping[str, Callable[[Rows], float]] = {
        "onnxruntime": _through_us(content, splits, evaluation_pb2.EVALUATE_ENGINE_ONNXRUNTIME),
        "our torch": _through_us(content, splits, evaluation_pb2.EVALUATE_ENGINE_TORCH),
        "by hand": _by_hand(case.by_hand, splits),
    }
    few = splits.validation[:_BATCH]
    accuracies = {name: call(few) for name, call in contenders.items()}
    if max(accuracies.values()) - min(accuracies.values()) > 2 / len(few):
        raise SystemExit(f"{case.name}: not the same network, accuracies are {accuracies}")
    times: dict[str, list[Timing]] = {name: [] for name in contenders}
    order, end = list(contenders), time.perf_counter() + seconds
    for number, rows in enumerate(np.array_split(splits.validation, pieces)):
        if number >= _FEWEST_PIECES and time.perf_counter() > end:
            break
        for name in order:
            begin, spent = time.perf_counter(), time.process_time()
            contenders[name](rows)
            wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - spent
            times[name].append(Timing(wall_s / len(rows), cpu_s / len(rows)))
        order.reverse()  # who is first after a pause is slower
    return times


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="192 images; end within 50 s")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    images, pieces, seconds = (_QUICK_IMAGES, 4, 24.0) if quick else (_IMAGES, 40, 225.0)
    splits, cases, end = _splits(images), networks.twins(), time.perf_counter() + seconds
    rows: list[list[object]] = []
    figures: dict[str, float | int] = {}
    for number, case in enumerate(cases):
        share_s = (end - time.perf_counter()) / (len(cases) - number)  # what one leaves over, those after it have
        times = _measure(case, splits, pieces=pieces, seconds=share_s)
        scored = round(images * len(times["by hand"]) / pieces)
        ours, torchs, hand = times["onnxruntime"], times["our torch"], times["by hand"]
        ratio = spread([a.wall_s / b.wall_s for a, b in zip(ours, hand, strict=True)])
        cpu = spread([a.cpu_s / b.cpu_s for a, b in zip(ours, hand, strict=True)])
        torch_ratio = spread([a.wall_s / b.wall_s for a, b in zip(torchs, hand, strict=True)])
        took, by_hand = (spread([images * one.wall_s for one in found]) for found in (ours, hand))
        rows.append([case.name, scored, took, by_hand, ratio, cpu, torch_ratio])
        figures |= {
            f"{case.name}_evaluate_s": took.median,
            f"{case.name}_by_hand_s": by_hand.median,
            f"{case.name}_evaluate_ratio": ratio.median,
            f"{case.name}_evaluate_processor_ratio": cpu.median,
            f"{case.name}_torch_engine_ratio": torch_ratio.median,
            f"{case.name}_images": scored,
        }
    print_table(
        f"seconds to score {images} images of {list(networks.INPUT_DIMS)}, 1 thread; median [quartiles] of the pieces",
        [
            "network",
            "images",
            "service s",
            "by hand s",
            f"ratio (target <= {TARGET})",
            "of processor time",
            "torch engine ratio",
        ],
        rows,
    )
    worst = max(value for name, value in figures.items() if name.endswith("_evaluate_ratio"))
    print_figures({**figures, "worst_evaluate_ratio": worst, "images": images})


if __name__ == "__main__":
    main()
