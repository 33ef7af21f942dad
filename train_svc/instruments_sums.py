"""Sums that statistics are made of: over the images that pass a value, and over the steps at which weights are read.

The statistics of NAC (Kamath et al. 2018): means and variances over images per position and channel.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nasmesh.v1 import training_pb2 as pb
from train_svc.hooks import Alone, Team

_COUNTS = "counts"
_CHUNK_BYTES = 1 << 20
# Which sums a statistic is made of.
_PARTS: dict[int, tuple[str, ...]] = {
    pb.STATISTIC_MEAN: ("sum",),
    pb.STATISTIC_VARIANCE: ("sum", "square"),
    pb.STATISTIC_MEAN_SQUARE: ("square",),
    pb.STATISTIC_SPARSITY: ("zeros",),
    pb.STATISTIC_NORM: ("norms",),
}


@dataclass(frozen=True, slots=True)
class Cadence:
    """Which steps are observed, and which of them count together."""

    every_steps: int
    from_step: int
    window_steps: int

    def observes(self, step: int) -> bool:
        """Return whether step number `step` (from 0) is observed."""
        return step >= self.from_step and (step - self.from_step) % self.every_steps == 0

    def ends_window(self, step: int) -> bool:
        """Return whether `step` is the last of a window."""
        if not self.window_steps or step < self.from_step:
            return False
        return (step - self.from_step + 1) % self.window_steps == 0


class Scratch:
    """Memory that observers take turns with: asking for new memory at every step would cost as much as the sums."""

    def __init__(self) -> None:
        """Begin with none."""
        self._floats = torch.empty(0)
        self._ones = torch.empty(0)

    def like(self, rows: Tensor, count: int) -> Tensor:
        """Return a tensor for `count` of these rows, with anything in it, until somebody else asks."""
        size = count * rows.shape[1]
        if self._floats.numel() < size or self._floats.device != rows.device:
            self._floats = rows.new_empty(size)
        return self._floats[:size].view(count, rows.shape[1])

    def ones(self, rows: Tensor, count: int) -> Tensor:
        """Return ones [1, count]."""
        if self._ones.numel() < count or self._ones.device != rows.device:
            self._ones = rows.new_ones(count)
        return self._ones[:count].view(1, count)


@dataclass(slots=True)
class Sums:
    """Sums over `images` images of `elements` values, float64, by name.

    "sum" of x, per position and channel where a variance is asked for; "square" of x^2, of which a mean variance needs
    the total only; "zeros": how many values are zero; "norms" of the images' Euclidean norms. Positions come in the
    order in which memory has them: channels last where `nhwc`.
    """

    parts: dict[str, Tensor]
    elements: int
    nhwc: bool
    images: int = 0

    @staticmethod
    def of(batch: Tensor, statistics: Iterable[int]) -> "Sums":
        """Return empty sums for images like those of a batch [N, ...]."""
        wanted = list(statistics)
        spread = ("sum",) if pb.STATISTIC_VARIANCE in wanted else ()
        size = batch[0].numel()
        parts = {
            name: torch.zeros(size if name in spread else (), dtype=torch.float64, device=batch.device)
            for name in sorted({name for statistic in wanted for name in _PARTS[statistic]})
        }
        nhwc = batch.dim() == 4 and batch.is_contiguous(memory_format=torch.channels_last)
        return Sums(parts, size, nhwc)

    def add(self, values: Tensor, scratch: Scratch) -> None:
        """Add a batch [N, ...]. A few passes over memory that is warm: what is read at every step must cost little."""
        parts = self.parts
        # Where the batch is in the same order, as ever, this copies nothing.
        rows = (values.permute(0, 2, 3, 1) if self.nhwc else values).reshape(len(values), -1).float()
        if "sum" in parts and parts["sum"].dim():
            # As a product with ones: several times as fast as a sum over rows.
            parts["sum"].add_(torch.mm(scratch.ones(rows, len(rows)), rows)[0])
        elif "sum" in parts:
            parts["sum"].add_(rows.sum(1).sum(dtype=torch.float64))
        if parts.keys() & {"square", "norms"}:
            norms = torch.linalg.vector_norm(rows, dim=1).double()
            if "square" in parts:
                parts["square"].add_(norms.square().sum())
            if "norms" in parts:
                parts["norms"].add_(norms.sum())
        if "zeros" in parts:
            for part in torch.split(rows, _chunk(rows)):
                # As floats: sums of those are ten times as fast as counting booleans, and exact within a row.
                alike = torch.eq(part, 0.0, out=scratch.like(rows, len(part)))
                parts["zeros"].add_(alike.sum(1).sum(dtype=torch.float64))
        self.images += len(values)

    def join(self, values: Tensor, statistics: Iterable[int], team: Team, scratch: Scratch) -> None:
        """Add this process's part of a batch, and those of the others: all members end with the sums of all images."""
        own = Sums.of(values, statistics)
        own.nhwc = self.nhwc
        own.add(values, scratch)
        team.total(list(own.parts.values()))
        for name, part in own.parts.items():
            self.parts[name].add_(part)
        self.images += own.images * team.size

    def value(self, statistic: pb.Statistic.ValueType) -> float:
        """Return a statistic: mean, true variance, mean of squares, share of zeros, mean norm of an image."""
        mean = {name: part / self.images for name, part in self.parts.items()}
        if statistic == pb.STATISTIC_VARIANCE:
            return max(0.0, float(mean["square"] - mean["sum"].square().sum()) / self.elements)
        if statistic == pb.STATISTIC_NORM:
            return float(mean["norms"])
        (name,) = _PARTS[statistic]
        return float(mean[name].sum() / self.elements)

    def pack(self) -> dict[str, Tensor]:
        """Return the numbers as a checkpoint holds them: it has no float64, so the bits travel as integers."""
        packed = {name: part.view(torch.int64) for name, part in self.parts.items()}
        return {**packed, _COUNTS: torch.tensor([self.elements, self.images, self.nhwc])}

    @staticmethod
    def unpack(entries: Mapping[str, Tensor], device: torch.device) -> "Sums":
        """Return what `pack` packed."""
        parts = {name: bits.view(torch.float64).to(device) for name, bits in entries.items() if name != _COUNTS}
        elements, images, nhwc = entries[_COUNTS].tolist()
        return Sums(parts, elements, bool(nhwc), images)


def _chunk(rows: Tensor) -> int:
    """Return how many rows are worked on at a time: on a GPU all of them."""
    if rows.device.type != "cpu":
        return len(rows)
    return max(1, _CHUNK_BYTES // (4 * rows.shape[1]))


class Observer(nn.Module):
    """Adds up what passes through one value of the network."""

    def __init__(self, statistics: Iterable[int], scratch: Scratch) -> None:
        """Start empty; the shape is taken from the first batch."""
        super().__init__()
        self._scratch = scratch
        self.statistics = tuple(statistics)
        self.active = False
        self.sums: Sums | None = None
        self.team: Team = Alone()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Add a batch [N, ...] when active and in training mode; returns x."""
        if self.active and self.training:
            if self.sums is None:
                self.sums = Sums.of(x, self.statistics)
            if self.team.size == 1:
                self.sums.add(x.detach(), self._scratch)
            else:
                self.sums.join(x.detach(), self.statistics, self.team, self._scratch)
        return x


@dataclass(slots=True)
class StepSums:
    """Statistics of several elements' tensors, summed over steps: `total` [statistics, elements], float64.

    `steps` stays on the device: a step whose gradients overflowed is left out there, without anybody waiting for it.
    """

    total: Tensor
    steps: Tensor

    @staticmethod
    def of(statistics: int, elements: int, device: torch.device) -> "StepSums":
        """Return empty sums."""
        total = torch.zeros(statistics, elements, dtype=torch.float64, device=device)
        return StepSums(total, torch.zeros((), dtype=torch.int64, device=device))

    def add(self, figures: Tensor) -> None:
        """Add one step's figures [statistics, elements]."""
        sound = torch.isfinite(figures).all()
        self.total.add_(torch.where(sound, figures, torch.zeros_like(figures)))
        self.steps.add_(sound)

    def means(self) -> list[list[float]]:
        """Return the means over the steps, by statistic; nothing before the first step."""
        found: list[list[float]] = (self.total / self.steps).tolist() if int(self.steps) else []
        return found

    def pack(self) -> dict[str, Tensor]:
        """Return the numbers as a checkpoint holds them."""
        return {"total": self.total.view(torch.int64), "steps": self.steps}

    @staticmethod
    def unpack(entries: Mapping[str, Tensor], device: torch.device) -> "StepSums":
        """Return what `pack` packed."""
        return StepSums(entries["total"].view(torch.float64).to(device), entries["steps"].to(device))


@dataclass(slots=True)
class Reading:
    """One probe's view of the weights of some blocks, or of their gradients; `last` is the last complete window."""

    elements: list[str]
    parameters: list[nn.Parameter]
    owners: list[int]  # of each parameter, the place of its block in `elements`
    probe: pb.Probe
    cadence: Cadence
    now: StepSums | None = None
    last: StepSums | None = None
    _index: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def read(self) -> None:
        """Add this moment's figures."""
        device = self.parameters[0].device
        if self.now is None:
            self.now = StepSums.of(len(self.probe.statistics), len(self.elements), device)
        if self._index is None:
            self._index = torch.tensor(self.owners, device=device)
        self.now.add(self._figures(self._tensors(), self._index))

    def _tensors(self) -> list[Tensor]:
        if self.probe.tap == pb.TAP_WEIGHT:
            return [parameter.detach() for parameter in self.parameters]
        return [
            # What no loss depends on has no gradient, which is a zero one.
            parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            for parameter in self.parameters
        ]

    def _figures(self, tensors: Sequence[Tensor], owner: Tensor) -> Tensor:
        """Return the statistics [statistics, elements], each block's tensors taken as one."""

        def by_block(numbers: Tensor) -> Tensor:
            found = torch.zeros(len(self.elements), dtype=torch.float64, device=owner.device)
            return found.index_add_(0, owner, numbers.double())

        wanted = set(self.probe.statistics)
        sizes = by_block(torch.tensor([tensor.numel() for tensor in tensors], device=owner.device))
        found: dict[int, Tensor] = {}
        if wanted & {pb.STATISTIC_NORM, pb.STATISTIC_MEAN_SQUARE, pb.STATISTIC_VARIANCE}:
            norms = torch.stack(torch._foreach_norm(list(tensors)))
            squares = by_block(norms.double().square())
            found[pb.STATISTIC_NORM] = squares.sqrt()
            found[pb.STATISTIC_MEAN_SQUARE] = squares / sizes
        if wanted & {pb.STATISTIC_MEAN, pb.STATISTIC_VARIANCE}:
            found[pb.STATISTIC_MEAN] = by_block(torch.stack([tensor.sum() for tensor in tensors])) / sizes
        if pb.STATISTIC_VARIANCE in wanted:
            spread = found[pb.STATISTIC_MEAN_SQUARE] - found[pb.STATISTIC_MEAN].square()
            found[pb.STATISTIC_VARIANCE] = spread.clamp(min=0)
        if pb.STATISTIC_SPARSITY in wanted:
            zeros = torch.stack([tensor.numel() - torch.count_nonzero(tensor) for tensor in tensors])
            found[pb.STATISTIC_SPARSITY] = by_block(zeros) / sizes
        return torch.stack([found[statistic] for statistic in self.probe.statistics])
