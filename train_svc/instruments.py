"""Reads statistics of values inside a network while it trains. Observers change nothing: their accumulators are no
parameters, are not in the state dict, and stand still in evaluation.

The statistic of ALGORITHMS section 1 (Kamath et al. 2018): sums of x and x^2 over images per position and channel.
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
_SUMS = ("sum", "square", "images")
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


class Observer(nn.Module):
    """Accumulates what passes through one value of the network, counting images.

    `sum` and `square` are float64: per position and channel where a variance is asked for, else one number each.
    """

    sum: Tensor
    square: Tensor
    images: Tensor

    def __init__(self, *, per_position: bool) -> None:
        """Start empty; the shape is taken from the first batch."""
        super().__init__()
        self.per_position = per_position
        self.active = False
        self.elements = 1
        for name in _SUMS:
            self.register_buffer(name, torch.zeros((), dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Add a batch [N, ...] when active and in training mode; returns x."""
        if self.active and self.training:
            values = x.detach().float()
            self.elements = values[0].numel()
            if self.per_position:
                total, squares = values.sum(0), values.square().sum(0)
            else:
                total, squares = values.sum(), torch.linalg.vector_norm(values, dtype=torch.float64).square()
            # Converted first: a float64 scalar plus a float32 tensor would stay float32.
            self.sum = self.sum + total.double()
            self.square = self.square + squares.double()
            self.images += len(x)
        return x

    def take(self) -> "Reading":
        """Return what is accumulated and start anew."""
        reading = Reading(self.sum, self.square, self.images, self.elements)
        self.clear()
        return reading

    def clear(self) -> None:
        """Start anew."""
        for name in _SUMS:
            setattr(self, name, torch.zeros((), dtype=torch.float64, device=self.images.device))


@dataclass(frozen=True, slots=True)
class Reading:
    """Sums over `images` images; `elements` values an image."""

    sum: Tensor
    square: Tensor
    images: Tensor
    elements: int

    def value(self, statistic: pb.Statistic.ValueType) -> float:
        """Return a statistic of ALGORITHMS section 1: mean, true variance, or mean of squares."""
        mean, square = self.sum / self.images, self.square / self.images
        if statistic == pb.STATISTIC_VARIANCE:
            return float((square - mean.square()).clamp(min=0).mean())
        chosen = mean if statistic == pb.STATISTIC_MEAN else square
        return float(chosen.sum() / self.elements)


@dataclass(slots=True)
class _Watch:
    """One observer with its probe; `last` is the last complete window."""

    element: str
    probe: pb.Probe
    cadence: Cadence
    observer: Observer
    last: Reading | None = None


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
                watch.last = watch.observer.take()

    def measurements(self, steps_done: int) -> Iterator[measurement_pb2.Measurement]:
        """Yield what was read by the end of step `steps_done`; nothing for an observer that saw no image."""
        for watch in self._watches:
            observer = watch.observer
            running = Reading(observer.sum, observer.square, observer.images, observer.elements)
            reading = watch.last if watch.cadence.window_steps else running
            if reading is None or not float(reading.images):
                continue
            for statistic in watch.probe.statistics:
                yield _measurement(_METRIC[statistic], reading.value(statistic), watch.element, steps_done)
        for name, parameter in self._scalars.items():
            yield _measurement("value", float(parameter.detach()), name, steps_done)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the accumulators for a checkpoint, by observer."""
        result: dict[str, dict[str, Tensor]] = {}
        for number, watch in enumerate(self._watches):
            observer = watch.observer
            entries = {"sum": observer.sum, "square": observer.square, "images": observer.images}
            if watch.last is not None:
                last = watch.last
                entries |= {"last_sum": last.sum, "last_square": last.square, "last_images": last.images}
            # Checkpoints hold no float64, so the bits travel as integers.
            packed = {name: tensor.view(torch.int64) for name, tensor in entries.items()}
            result[f"{STATE_PREFIX}.{number}"] = {**packed, "elements": torch.tensor(observer.elements)}
        return result

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over the accumulators of an earlier run; raises Invalid (CHECKPOINT_MISMATCH) where they are missing."""
        for number, watch in enumerate(self._watches):
            entries = state.get(f"{STATE_PREFIX}.{number}")
            if entries is None:
                raise Invalid("CHECKPOINT_MISMATCH", "the checkpoint has no such instrumentation", field="resume_from")
            device = watch.observer.images.device
            watch.observer.elements = int(entries["elements"])
            sums = {name: bits.view(torch.float64).to(device) for name, bits in entries.items() if name != "elements"}
            for name in _SUMS:
                setattr(watch.observer, name, sums[name])
            if "last_sum" in sums:
                last = {name: sums[f"last_{name}"] for name in _SUMS}
                watch.last = Reading(last["sum"], last["square"], last["images"], watch.observer.elements)


def _measurement(metric: str, value: float, element: str, step: int) -> measurement_pb2.Measurement:
    return measurement_pb2.Measurement(
        metric=metric, value=value, split=measurement_pb2.SPLIT_TRAIN, step=step, element=element
    )


def attach(module: fx.GraphModule, plan: pb.InstrumentationPlan, *, total_steps: int) -> Instruments:
    """Put observers into the module's graph where the plan says.

    Raises Invalid (PROBE_UNKNOWN_ELEMENT, TRAIN_CONFIG_INVALID) with every probe that names what the network lacks or
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
        observer.to(next((p.device for p in module.parameters()), torch.device("cpu")))
        path = f"{_SCOPE}.o{first + len(watches)}"
        module.add_submodule(path, observer)
        node = nodes[values[known[element]]]
        with module.graph.inserting_after(node):
            module.graph.call_module(path, (node,))
        watches.append(_Watch(element, probe, cadence, observer))
    return watches
