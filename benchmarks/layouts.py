"""What either memory layout costs: a forward and backward pass channels first, divided by the same channels last.

`python -m benchmarks.layouts [--quick]`. A training whose layout is not asked for is channels last, always: what is
chosen by the clock differs from host to host, and with it a result's last bits. This says what having no choice costs:
where the ratio is below 1, channels first would have been faster. Three kinds of networks, and random ones of each
built-in space; images of 28x28 with one channel and 32x32 with three; float32, one thread, batches of 32, in turns, in
processor time.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from random import Random

import torch
from torch import Tensor

from benchmarks import networks
from benchmarks.report import interleave, print_figures, print_table, spread
from nasmesh import spaces
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.v1 import architecture_pb2, space_pb2
from train_svc.compute import Choice, best_device, finish

CLASSES, BATCH = 10, 32
IMAGES = ((1, 28, 28), (3, 32, 32))
LAYOUTS = ("nchw", "nhwc")
_KINDS = {
    "resnet8": networks.resnet8_architecture,
    "nac": networks.nac_architecture,
    "depthwise": networks.depthwise_architecture,
}


def _spaces() -> Iterator[tuple[str, space_pb2.Space]]:
    stages = [space_pb2.EnvelopeStage(initial_cells=1, max_cells=3, construct=True) for _ in range(2)]
    stem = space_pb2.EnvelopeStem(width=16)
    yield "envelope", space_pb2.Space(envelope=space_pb2.EnvelopeSpace(stages=stages, stem=stem))
    yield "cell", space_pb2.Space(cell=space_pb2.CellSpace(width=16, cells=[1, 1, 1]))
    yield (
        "chain",
        space_pb2.Space(
            chain=space_pb2.ChainSpace(
                min_layers=1, max_layers=5, kernels=[1, 3, 5], channels=[8, 16, 32], pooling=True
            )
        ),
    )


def _architectures(dims: Sequence[int], count: int) -> Iterator[tuple[str, architecture_pb2.Architecture]]:
    """Yield the three kinds of networks, and so many random ones of each space, for images of these dims."""
    for name, make in _KINDS.items():
        drawn = make(16)
        drawn.inputs[0].dims[:] = dims
        yield name, drawn
    for name, space in _spaces():
        whole, rng = spaces.complete(space), Random(name)
        for number in range(count):
            values = spaces.sample(whole, rng)
            plain = architecture_pb2.Preprocessing()
            yield (
                f"{name} {number}",
                spaces.build(whole, values, input_dims=dims, classes=CLASSES, preprocessing=plain),
            )


def _passes(architecture: architecture_pb2.Architecture, dims: Sequence[int], layout: str) -> Callable[[], object]:
    device, choice = best_device(), Choice("float32", layout)
    module = to_module(lower(architecture), seed=1).train().to(device)
    choice.place(module)
    x = torch.rand(BATCH, *dims, generator=torch.Generator().manual_seed(1)).to(device)

    def once() -> None:
        outputs = module(choice.arrange(x))
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        module.zero_grad()
        logits.square().mean().backward()
        finish(device)

    return once


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one network of each space; end within 50 s")
    count, seconds = (1, 2.0) if parser.parse_args().quick else (5, 6.0)
    torch.set_num_threads(1)
    on_processor = best_device().type == "cpu"
    rows: list[Sequence[object]] = []
    ratios: list[float] = []
    for dims in IMAGES:
        for name, architecture in _architectures(dims, count):
            times = interleave({layout: _passes(architecture, dims, layout) for layout in LAYOUTS}, seconds=seconds)
            first, last = ([one.cpu_s if on_processor else one.wall_s for one in times[layout]] for layout in LAYOUTS)
            ratio = spread([a / b for a, b in zip(first, last, strict=True)])
            rows.append((name, list(dims), spread([1e3 * one for one in last]), ratio))
            ratios.append(ratio.median)
    print_table(
        f"a pass of {BATCH} images, 1 thread, {best_device()}; median [quartiles]",
        ("network", "images", "channels last, ms", "channels first / channels last"),
        rows,
    )
    below = sum(ratio < 1 for ratio in ratios)
    print_figures(
        {"least_ratio": min(ratios), "median_ratio": spread(ratios).median, "below_1": below, "networks": len(ratios)}
    )


if __name__ == "__main__":
    main()
