"""Reads statistics of values inside a network while it trains. Observers change nothing: their sums are no parameters,
are not in the state dict, and stand still in evaluation.

The statistic of NAC (Kamath et al. 2018): sums of x and x^2 over images per position and channel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import training_pb2 as pb

STATE_PREFIX = "observer"
_SCOPE = "_observers"
_TAP_SUFFIX = {pb.TAP_ACTIVATION: ".act", pb.TAP_OUTPUT: ".out"}
_METRIC = {
    pb.STATISTIC_MEAN: "mean",
    pb.STATISTIC_VARIANCE: "variance",
    pb.STATISTIC_MEAN_SQUARE: "mean_square",
    pb.STATISTIC_VALUE: "value",
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


@dataclass(slots=True)
class Sums:
    """Sums of x and x^2 over `images` images of `elements` values, float64.

    Per position and channel where a variance is asked for, else one number each.
    """

    first: Tensor
    second: Tensor
    elements: int
    images: int = 0

    @staticmethod
    def of(image: Tensor, *, per_position: bool) -> "Sums":
        """Return empty sums for values like those of one image."""
        shape = image.shape if per_position else ()
        first, second = (torch.zeros(shape, dtype=torch.float64, device=image.device) for _ in range(2))
        return Sums(first, second, image.numel())

    def add(self, values: Tensor) -> None:
        """Add a batch [N, ...] of float32 values."""
        if self.first.dim():
            self.first.add_(values.sum(0))
            self.second.add_(values.square().sum(0))
        else:
            self.first.add_(values.sum())
            self.second.add_(torch.linalg.vector_norm(values, dtype=torch.float64).square())
        self.images += len(values)

    def value(self, statistic: pb.Statistic.ValueType) -> float:
        """Return a statistic of NAC: mean, true variance, or mean of squares."""
        mean, square = self.first / self.images, self.second / self.images
        if statistic == pb.STATISTIC_VARIANCE:
            return float((square - mean.square()).clamp(min=0).mean())
        chosen = mean if statistic == pb.STATISTIC_MEAN else square
        return float(chosen.sum() / self.elements)

    def pack(self) -> dict[str, Tensor]:
        """Return the numbers as a checkpoint holds them: it has no float64, so the bits travel as integers."""
        counts = torch.tensor([self.elements, self.images])
        return {"sum": self.first.view(torch.int64), "square": self.second.view(torch.int64), "counts": counts}

    @staticmethod
    def unpack(entries: Mapping[str, Tensor], device: torch.device) -> "Sums":
        """Return what `pack` packed."""
        first, second = (entries[name].view(torch.float64).to(device) for name in ("sum", "square"))
        elements, images = entries["counts"].tolist()
        return Sums(first, second, elements, images)


class Observer(nn.Module):
    """Adds up what passes through one value of the network."""

    def __init__(self, *, per_position: bool) -> None:
        """Start empty; the shape is taken from the first batch."""
        super().__init__()
        self.per_position = per_position
        self.active = False
        self.sums: Sums | None = None

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Add a batch [N, ...] when active and in training mode; returns x."""
        if self.active and self.training:
            if self.sums is None:
                self.sums = Sums.of(x[0], per_position=self.per_position)
            self.sums.add(x.detach().float())
        return x


@dataclass(slots=True)
class _Watch:
    """One observer with its probe; `last` is the last complete window."""

    element: str
    probe: pb.Probe
    cadence: Cadence
    observer: Observer
    last: Sums | None = None


class Instruments:
    """All observers and scalar readings of one training."""

    def __init__(self, watches: list[_Watch], scalars: dict[str, nn.Parameter]) -> None:
        """Keep what `attach` made."""
        self._watches = watches
        self._scalars = scalars

    def before_step(self, step: int) -> None:
        """Switch the observers on or off for step number `step`."""
        for watch in self._watches:
            watch.observer.active = watch.cadence.observes(step)

    def after_step(self, step: int) -> None:
        """Close the windows that end with step number `step`."""
        for watch in self._watches:
            if watch.cadence.ends_window(step):
                watch.last, watch.observer.sums = watch.observer.sums, None

    def measurements(self, steps_done: int) -> Iterator[measurement_pb2.Measurement]:
        """Yield what was read by the end of step `steps_done`; nothing for an observer that saw no image."""
        for watch in self._watches:
            sums = watch.last if watch.cadence.window_steps else watch.observer.sums
            if sums is None:
                continue
            for statistic in watch.probe.statistics:
                yield _measurement(_METRIC[statistic], sums.value(statistic), watch.element, steps_done)
        for name, parameter in self._scalars.items():
            yield _measurement("value", float(parameter.detach()), name, steps_done)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the sums for a checkpoint, by observer; nothing for one that has seen no image."""
        kept: dict[str, dict[str, Tensor]] = {}
        for number, watch in enumerate(self._watches):
            for name, sums in (("now", watch.observer.sums), ("last", watch.last)):
                if sums is not None:
                    kept[f"{STATE_PREFIX}.{number}.{name}"] = sums.pack()
        return kept

    def load(self, state: Mapping[str, Mapping[str, Tensor]], device: torch.device) -> None:
        """Take over the sums of an earlier run of the same plan."""
        for number, watch in enumerate(self._watches):
            now, last = (state.get(f"{STATE_PREFIX}.{number}.{name}") for name in ("now", "last"))
            watch.observer.sums = Sums.unpack(now, device) if now is not None else None
            watch.last = Sums.unpack(last, device) if last is not None else None


def _measurement(metric: str, value: float, element: str, step: int) -> measurement_pb2.Measurement:
    return measurement_pb2.Measurement(
        metric=metric, value=value, split=measurement_pb2.SPLIT_TRAIN, step=step, element=element
    )


def attach(module: fx.GraphModule, plan: pb.InstrumentationPlan, *, total_steps: int) -> Instruments:
    """Put observers into the module's graph where the plan says.

    Raises Invalid (INSTRUMENTATION_INVALID) with every probe that names what the network lacks or
    steps that never come.
    """
    watches: list[_Watch] = []
    scalars: dict[str, nn.Parameter] = {}
    faults: list[FieldViolation] = []
    for index, probe in enumerate(plan.probes):
        field = f"instrumentation.probes[{index}]"
        cadence = Cadence(max(1, probe.every_steps), probe.from_step, probe.window_steps)
        if cadence.from_step + max(1, cadence.window_steps) > total_steps:
            what = f"{field}: the training has only {total_steps} steps; nothing would be observed"
            faults.append(FieldViolation(f"{field}.from_step", what))
        elif probe.tap == pb.TAP_EDGE_SCALE:
            scalars |= _edge_scales(module, probe, field, faults)
        else:
            watches += _watch(module, probe, cadence, field, faults)
    if faults:
        raise Invalid("INSTRUMENTATION_INVALID", faults[0].description, violations=faults)
    module.recompile()
    return Instruments(watches, scalars)


def _edge_scales(
    module: nn.Module, probe: pb.Probe, field: str, faults: list[FieldViolation]
) -> dict[str, nn.Parameter]:
    """Return the trainable scalars of the blocks that a probe names, or of all blocks."""
    found = {name: parameter for name, parameter in module.named_parameters() if ".scale." in name}
    if not probe.elements:
        return found
    wanted = set(probe.elements)
    missing = wanted - {name.partition(".")[0] for name in found}
    faults += [FieldViolation(f"{field}.elements", f"{field}: {one!r} has no scaled edge") for one in sorted(missing)]
    return {name: parameter for name, parameter in found.items() if name.partition(".")[0] in wanted}


def _watch(
    module: fx.GraphModule, probe: pb.Probe, cadence: Cadence, field: str, faults: list[FieldViolation]
) -> list[_Watch]:
    """Insert an observer behind each value that a probe names."""
    suffix = _TAP_SUFFIX[probe.tap]
    values: dict[str, str] = module.meta["values"]
    # A block's own values have two parts; deeper ones belong to the candidates of a mixed operation.
    known = {name[: -len(suffix)]: name for name in values if name.endswith(suffix) and name.count(".") == 1}
    nodes = {node.name: node for node in module.graph.nodes}
    missing = [element for element in probe.elements if element not in known]
    tap = pb.Tap.Name(probe.tap)
    faults += [FieldViolation(f"{field}.elements", f"{field}: no block {one!r} has {tap}") for one in missing]
    watches: list[_Watch] = []
    first = sum(node.op == "call_module" and str(node.target).startswith(_SCOPE) for node in nodes.values())
    for element in (e for e in (probe.elements or known) if e in known):
        observer = Observer(per_position=pb.STATISTIC_VARIANCE in probe.statistics)
        path = f"{_SCOPE}.o{first + len(watches)}"
        module.add_submodule(path, observer)
        node = nodes[values[known[element]]]
        with module.graph.inserting_after(node):
            module.graph.call_module(path, (node,))
        watches.append(_Watch(element, probe, cadence, observer))
    return watches
