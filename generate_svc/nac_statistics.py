"""What NAC asks trainers to observe, and how it reads the untrusted measurements that come back."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.spaces.envelope_network import EnvelopeNetwork, branch_block, output_block, skip_block
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import space_pb2, training_pb2

_VALUE = "value"
# These are sums of squares: below zero they are not what they say.
_NOT_NEGATIVE = frozenset({"mean_square", "variance"})
_TAPS = {"activation": training_pb2.TAP_ACTIVATION, "output": training_pb2.TAP_OUTPUT}
_ALL = (training_pb2.STATISTIC_MEAN, training_pb2.STATISTIC_VARIANCE, training_pb2.STATISTIC_MEAN_SQUARE)


@dataclass(frozen=True, slots=True)
class Observation:
    """Where and when branches are observed; steps count optimiser updates."""

    tap: str
    every_steps: int
    from_step: int
    window_steps: int


@dataclass(frozen=True, slots=True)
class Readings:
    """The ranking statistic by branch block id, and the skip scalars by (cell id, source entry id)."""

    branches: Mapping[str, float]
    scalars: Mapping[tuple[str, str], float]


def branch_elements(network: EnvelopeNetwork) -> list[str]:
    """Return the ids of all branch blocks in network order."""
    return [branch_block(cell.id, branch) for cell in network.cells() for branch in cell.branches]


def scalar_elements(space: space_pb2.EnvelopeSpace, network: EnvelopeNetwork) -> dict[str, tuple[str, str]]:
    """Return (cell id, source entry id) by the element id under which a skip's scalar is measured."""
    return {
        f"{skip_block(cell.id)}.scale.{output_block(source, space)}": (cell.id, source)
        for cell in network.cells()
        for source in cell.skips
    }


def plan(network: EnvelopeNetwork, observation: Observation) -> training_pb2.InstrumentationPlan:
    """Return the probes for a network: mean, variance and mean of squares per branch, the scalar of each skip."""
    wanted = training_pb2.InstrumentationPlan()
    wanted.probes.add(
        elements=branch_elements(network),
        tap=_TAPS[observation.tap],
        statistics=_ALL,
        every_steps=observation.every_steps,
        from_step=observation.from_step,
        window_steps=observation.window_steps,
    )
    skipping = [skip_block(cell.id) for cell in network.cells() if cell.skips]
    if skipping:
        statistics = [training_pb2.STATISTIC_VALUE]
        wanted.probes.add(elements=skipping, tap=training_pb2.TAP_EDGE_SCALE, statistics=statistics, every_steps=1)
    return wanted


def read(result: pb.Result, space: space_pb2.EnvelopeSpace, network: EnvelopeNetwork, statistic: str) -> Readings:
    """Return the last reading of each element; raises Invalid (STATISTICS_MISSING, STATISTICS_INVALID)."""
    branches = branch_elements(network)
    scalars = scalar_elements(space, network)
    found = _last_readings(result, statistic)
    values = _last_readings(result, _VALUE)
    _require(branches, found, statistic, result.trial)
    _require(scalars, values, _VALUE, result.trial)
    return Readings(
        {branch: found[branch] for branch in branches}, {place: values[element] for element, place in scalars.items()}
    )


def _last_readings(result: pb.Result, metric: str) -> dict[str, float]:
    """Return the value at the highest step by element; of equal steps the later one in the list."""
    steps: dict[str, int] = {}
    values: dict[str, float] = {}
    for measurement in result.measurements:
        element = measurement.element
        if measurement.metric != metric or not element or measurement.step < steps.get(element, 0):
            continue
        steps[element] = measurement.step
        values[element] = measurement.value
    return values


def _require(elements: Iterable[str], values: Mapping[str, float], metric: str, trial: str) -> None:
    missing = [element for element in elements if element not in values]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        what = f"{trial[:120]} has no {metric} of {missing[0]}{more}; train with the proposal's instrumentation plan"
        raise _wrong("STATISTICS_MISSING", missing[0], what)
    for element in elements:
        value = values[element]
        if not math.isfinite(value) or (metric in _NOT_NEGATIVE and value < 0):
            raise _wrong("STATISTICS_INVALID", element, f"{trial[:120]}: {metric} of {element} is {value}")


def _wrong(reason: str, element: str, what: str) -> Invalid:
    field = f"results.measurements[{element}]"
    return Invalid(reason, what, field=field, violations=[FieldViolation(field, what)])
