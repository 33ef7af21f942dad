"""Time of one training step through our converter, divided by that of the same network written by hand in PyTorch.

Same weights, same data, one thread, channels-last both, taking turns in one process. The target is at most 1.02.
The ratio is of processor time, which with one thread is the wall time of an idle machine; on the wall, other programs'
use of the machine adds several percent to either side. The wall's ratio is printed too.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from benchmarks import networks
from benchmarks.report import Spread, interleave, print_figures, print_table, spread
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.v1 import architecture_pb2 as pb

TARGET = 1.02


@dataclass(frozen=True, slots=True)
class _Case:
    """One network twice."""

    name: str
    architecture: pb.Architecture
    by_hand: nn.Module


def _cases() -> list[_Case]:
    return [
        _Case("resnet8", networks.resnet8_architecture(), networks.ResNet8()),
        _Case("nac", networks.nac_architecture(), networks.Nac()),
        _Case("depthwise", networks.depthwise_architecture(), networks.Depthwise()),
    ]


def _stepper(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, nesterov=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _pair(case: _Case) -> tuple[nn.Module, nn.Module]:
    """Return (converted, by hand) with the same weights, in training mode and channels-last."""
    converted = to_module(lower(case.architecture), seed=1)
    case.by_hand.load_state_dict(converted.state_dict(), strict=False)
    pair = (converted, case.by_hand)
    for module in pair:
        module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return pair


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Processor milliseconds of a step, and ratios of neighbouring steps."""

    converted_ms: Spread
    by_hand_ms: Spread
    ratio: Spread
    wall_ratio: Spread


def _measure(case: _Case, *, batch: int, seconds: float) -> _Outcome:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *networks.INPUT_DIMS, generator=draw).to(memory_format=torch.channels_last)
    y = torch.randint(networks.CLASSES, (batch,), generator=draw)
    converted, by_hand = _pair(case)
    with torch.no_grad():
        difference = float((converted.eval()(x) - by_hand.eval()(x)).abs().max())
    if difference > 1e-5:
        raise SystemExit(f"{case.name}: not the same network, outputs differ by {difference}")
    converted.train(), by_hand.train()
    times = interleave({"converted": _stepper(converted, x, y), "by hand": _stepper(by_hand, x, y)}, seconds=seconds)
    pairs = list(zip(times["converted"], times["by hand"], strict=True))
    return _Outcome(
        converted_ms=spread([1e3 * ours.cpu_s for ours, _ in pairs]),
        by_hand_ms=spread([1e3 * theirs.cpu_s for _, theirs in pairs]),
        ratio=spread([ours.cpu_s / theirs.cpu_s for ours, theirs in pairs]),
        wall_ratio=spread([ours.wall_s / theirs.wall_s for ours, theirs in pairs]),
    )


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    batch, seconds = (16, 8.0) if quick else (64, 60.0)
    rows, figures = [], {}
    for case in _cases():
        found = _measure(case, batch=batch, seconds=seconds)
        rows.append([case.name, found.converted_ms, found.by_hand_ms, found.ratio, found.wall_ratio])
        figures[f"{case.name}_step_ratio"] = found.ratio.median
        figures[f"{case.name}_step_wall_ratio"] = found.wall_ratio.median
        figures[f"{case.name}_step_ms"] = found.converted_ms.median
    print_table(
        f"training step, batch {batch}, 1 thread, channels-last; median [quartiles]",
        ["network", "converted ms", "by hand ms", f"ratio (target <= {TARGET})", "on the wall"],
        rows,
    )
    worst = max(value for name, value in figures.items() if name.endswith("step_ratio"))
    print_figures({**figures, "worst_step_ratio": worst, "batch": batch})


if __name__ == "__main__":
    main()
