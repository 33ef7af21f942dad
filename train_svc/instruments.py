"""Reads statistics of values inside a network while it trains. Observers change nothing: their sums are no parameters,
are not in the state dict, and stand still in evaluation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from nasmesh import metrics
from nasmesh.errors import FieldViolation, Invalid
from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import training_pb2 as pb
from train_svc.compute import OBSERVERS
from train_svc.instruments_sums import Cadence, Observer, Reading, Scratch, StepSums, Sums

STATE_PREFIX = "observer"
_TAP_SUFFIX = {pb.TAP_ACTIVATION: ".act", pb.TAP_OUTPUT: ".out"}
_OF_WEIGHTS = (pb.TAP_WEIGHT, pb.TAP_GRADIENT)


@dataclass(slots=True)
class _Watch:
    """One observer with its probe; `last` is the last complete window."""

    element: str
    probe: pb.Probe
    cadence: Cadence
    observer: Observer
    last: Sums | None = None


@dataclass(slots=True)
class _Found:
    """What the probes of a plan come to, and what is wrong with them."""

    watches: list[_Watch] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    scalars: dict[str, nn.Parameter] = field(default_factory=dict)
    faults: list[FieldViolation] = field(default_factory=list)
    scratch: Scratch = field(default_factory=Scratch)


class Instruments:
    """All observers and readings of one training.

    `once` holds what is measured a single time, by name and in the order of the plan or of the network; it is no
    business of this class how.
    """

    def __init__(self, watches: list[_Watch], readings: list[Reading], scalars: dict[str, nn.Parameter]) -> None:
        """Keep what `attach` made."""
        self._watches = watches
        self._readings = readings
        self._scalars = scalars
        self.once: dict[str, dict[str, Tensor]] = {}

    def before_step(self, step: int) -> None:
        """Switch the observers on or off for step number `step`."""
        for watch in self._watches:
            watch.observer.active = watch.cadence.observes(step)

    def after_backward(self, step: int) -> None:
        """Read the gradients of step number `step`."""
        self._read(pb.TAP_GRADIENT, step)

    def after_step(self, step: int) -> None:
        """Read the weights that step number `step` made, and close the windows that end with it."""
        self._read(pb.TAP_WEIGHT, step)
        for watch in self._watches:
            if watch.cadence.ends_window(step):
                watch.last, watch.observer.sums = watch.observer.sums, None
        for reading in self._readings:
            if reading.cadence.ends_window(step):
                reading.last, reading.now = reading.now, None

    def _read(self, tap: pb.Tap.ValueType, step: int) -> None:
        for reading in self._readings:
            if reading.probe.tap == tap and reading.cadence.observes(step):
                reading.read()

    def measurements(self, steps_done: int) -> Iterator[measurement_pb2.Measurement]:
        """Yield what was read by the end of step `steps_done`; nothing for an observer that saw no image."""
        for watch in self._watches:
            sums = watch.last if watch.cadence.window_steps else watch.observer.sums
            if sums is None:
                continue
            for statistic in watch.probe.statistics:
                metric = metrics.reading(watch.probe.tap, statistic)
                yield measured(metric, sums.value(statistic), watch.element, steps_done)
        for reading in self._readings:
            yield from _figures(reading, steps_done)
        for name, parameter in self._scalars.items():
            yield measured("value", float(parameter.detach()), name, steps_done)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the sums for a checkpoint, by observer; nothing for one that has seen no image."""
        kept: dict[str, dict[str, Tensor]] = {}
        for number, watch in enumerate(self._watches):
            for name, sums in (("now", watch.observer.sums), ("last", watch.last)):
                if sums is not None:
                    kept[f"{STATE_PREFIX}.{number}.{name}"] = sums.pack()
        for number, reading in enumerate(self._readings):
            for name, steps in (("now", reading.now), ("last", reading.last)):
                if steps is not None:
                    kept[f"{STATE_PREFIX}.reading{number}.{name}"] = steps.pack()
        for name, figures in self.once.items():
            packed = {key: values.view(torch.int64) for key, values in figures.items()}
            kept[f"{STATE_PREFIX}.once.{name}"] = packed
        return kept

    def load(self, state: Mapping[str, Mapping[str, Tensor]], device: torch.device) -> None:
        """Take over the sums of an earlier run of the same plan."""
        for number, watch in enumerate(self._watches):
            now, last = (state.get(f"{STATE_PREFIX}.{number}.{name}") for name in ("now", "last"))
            watch.observer.sums = Sums.unpack(now, device) if now is not None else None
            watch.last = Sums.unpack(last, device) if last is not None else None
        for number, reading in enumerate(self._readings):
            now, last = (state.get(f"{STATE_PREFIX}.reading{number}.{name}") for name in ("now", "last"))
            reading.now = StepSums.unpack(now, device) if now is not None else None
            reading.last = StepSums.unpack(last, device) if last is not None else None
        scope = f"{STATE_PREFIX}.once."
        self.once = {
            name.removeprefix(scope): {key: bits.view(torch.float64) for key, bits in packed.items()}
            for name, packed in state.items()
            if name.startswith(scope)
        }


def _figures(reading: Reading, steps_done: int) -> Iterator[measurement_pb2.Measurement]:
    sums = reading.last if reading.cadence.window_steps else reading.now
    means = sums.means() if sums is not None else []
    for statistic, values in zip(reading.probe.statistics, means, strict=False):
        metric = metrics.reading(reading.probe.tap, statistic)
        for element, value in zip(reading.elements, values, strict=True):
            yield measured(metric, value, element, steps_done)


def measured(metric: str, value: float, element: str, step: int, unit: str = "") -> measurement_pb2.Measurement:
    """Return a measurement of a training."""
    return measurement_pb2.Measurement(
        metric=metric, value=value, unit=unit, split=measurement_pb2.SPLIT_TRAIN, step=step, element=element
    )


def attach(module: fx.GraphModule, plan: pb.InstrumentationPlan, *, total_steps: int) -> Instruments:
    """Put observers into the module's graph where the plan says.

    Raises Invalid (INSTRUMENTATION_INVALID) with every probe that names what the network lacks or
    steps that never come.
    """
    found = _Found()
    for index, probe in enumerate(plan.probes):
        place = f"instrumentation.probes[{index}]"
        cadence = Cadence(max(1, probe.every_steps), probe.from_step, probe.window_steps)
        if cadence.from_step + max(1, cadence.window_steps) > total_steps:
            what = f"{place}: the training has only {total_steps} steps; nothing would be observed"
            found.faults.append(FieldViolation(f"{place}.from_step", what))
        elif probe.tap == pb.TAP_EDGE_SCALE:
            _edge_scales(module, probe, place, found)
        elif probe.tap in _OF_WEIGHTS:
            _weights(module, probe, cadence, place, found)
        else:
            _watch(module, probe, cadence, place, found)
    if found.faults:
        raise Invalid("INSTRUMENTATION_INVALID", found.faults[0].description, violations=found.faults)
    if plan.probes:
        module.recompile()
    return Instruments(found.watches, found.readings, found.scalars)


def _edge_scales(module: nn.Module, probe: pb.Probe, place: str, found: _Found) -> None:
    """Add the trainable scalars of the blocks that a probe names, or of all blocks."""
    scales = {name: parameter for name, parameter in module.named_parameters() if ".scale." in name}
    wanted = _wanted(probe, {_block(name) for name in scales}, place, found, "has no scaled edge")
    found.scalars |= {name: parameter for name, parameter in scales.items() if _block(name) in wanted}


def _weights(module: nn.Module, probe: pb.Probe, cadence: Cadence, place: str, found: _Found) -> None:
    """Add a reading of the trainable weights of the blocks that a probe names, or of all that have some."""
    weights = [(_block(name), parameter) for name, parameter in module.named_parameters() if ".scale." not in name]
    known = list(dict.fromkeys(block for block, _ in weights))
    wanted = _wanted(probe, set(known), place, found, "has trainable weights", negated=True)
    elements = [element for element in dict.fromkeys(probe.elements or known) if element in wanted]
    if not elements:
        return
    kept = [(elements.index(block), parameter) for block, parameter in weights if block in wanted]
    owners, parameters = [owner for owner, _ in kept], [parameter for _, parameter in kept]
    found.readings.append(Reading(elements, parameters, owners, probe, cadence))


def _block(name: str) -> str:
    return name.partition(".")[0]


def _wanted(
    probe: pb.Probe, known: set[str], place: str, found: _Found, what: str, *, negated: bool = False
) -> set[str]:
    """Return which blocks a probe means; those that it names and that are not known are faults."""
    for missing in sorted(set(probe.elements) - known):
        said = f"no block {missing!r} {what}" if negated else f"{missing!r} {what}"
        found.faults.append(FieldViolation(f"{place}.elements", f"{place}: {said}"))
    return set(probe.elements) & known if probe.elements else known


def _watch(module: fx.GraphModule, probe: pb.Probe, cadence: Cadence, place: str, found: _Found) -> None:
    """Insert an observer behind each value that a probe names."""
    suffix = _TAP_SUFFIX[probe.tap]
    values: dict[str, str] = module.meta["values"]
    # A block's own values have two parts; deeper ones belong to the candidates of a mixed operation.
    known = {name[: -len(suffix)]: name for name in values if name.endswith(suffix) and name.count(".") == 1}
    nodes = {node.name: node for node in module.graph.nodes}
    wanted = _wanted(probe, set(known), place, found, f"has {pb.Tap.Name(probe.tap)}", negated=True)
    first = sum(node.op == "call_module" and str(node.target).startswith(OBSERVERS) for node in nodes.values())
    for element in (e for e in (probe.elements or known) if e in wanted):
        observer = Observer(probe.statistics, found.scratch)
        path = f"{OBSERVERS}.o{first}"
        first += 1
        module.add_submodule(path, observer)
        node = nodes[values[known[element]]]
        with module.graph.inserting_after(node):
            module.graph.call_module(path, (node,))
        found.watches.append(_Watch(element, probe, cadence, observer))
