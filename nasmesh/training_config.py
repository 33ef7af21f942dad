"""Control parameters of a training: defaults, overrides, checks. Protobuf only, so the scheduler uses it too."""

from collections.abc import Iterator

from google.protobuf.message import Message

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.training_rules import MOST_STEPS, Fault, faults, names_of, require
from nasmesh.v1 import training_pb2 as pb

# The defaults that the comments of training.proto promise.
_DEFAULTS: dict[str, float | int | bool] = {
    "batch_size": 64,
    "clip_norm": 0.0,
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
    "seed": 0,
    "checkpoint_interval_s": 30.0,
    "data_fraction": 1.0,
    "include_validation": False,
    "accumulate_batches": 1,
    "auxiliary_weight": 0.4,
    "drop_path_rate": 0.0,
    "sam_rho": 0.0,
}
_OPTIMIZER_DEFAULTS = {
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
}
_SCHEDULE_DEFAULTS = {
    "warmup_steps": 0,
    "decay": 0.999,
    "decay_epochs": 2.0,
    "min_learning_rate": 0.0,
    "period_epochs": 0.0,
    "period_factor": 2.0,
}


def merge(base: pb.TrainConfig, overrides: pb.TrainConfig) -> pb.TrainConfig:
    """Return `base` with every field that `overrides` sets put in its place.

    Top-level messages (optimizer, schedule, augmentation, compute) are replaced whole, as training.proto says, and so
    is the budget: steps take the place of epochs and the other way round.
    """
    result = pb.TrainConfig()
    result.CopyFrom(base)
    for descriptor, value in overrides.ListFields():
        if isinstance(value, Message):
            getattr(result, descriptor.name).CopyFrom(value)
        else:
            setattr(result, descriptor.name, value)
    return result


def complete(config: pb.TrainConfig) -> pb.TrainConfig:
    """Return a copy with every default filled in; the budget and the dropout rate have none and stay as they are."""
    result = pb.TrainConfig()
    result.CopyFrom(config)
    _fill(result, _DEFAULTS)
    _fill(result.optimizer, _OPTIMIZER_DEFAULTS)
    _fill(result.schedule, _SCHEDULE_DEFAULTS)
    result.optimizer.kind = result.optimizer.kind or pb.OPTIMIZER_KIND_SGD
    result.schedule.kind = result.schedule.kind or pb.SCHEDULE_KIND_CONSTANT
    result.compute.precision = result.compute.precision or pb.PRECISION_FLOAT32
    result.compute.layout = result.compute.layout or pb.LAYOUT_AUTO
    result.compute.compile = result.compute.compile or pb.COMPILE_MODE_NEVER
    result.distribution.processes = result.distribution.processes or 1
    result.augmentation.SetInParent()
    # What only one kind reads is filled in for that kind alone, so that it is refused elsewhere and never ignored.
    if result.schedule.kind == pb.SCHEDULE_KIND_STEP:
        _fill(result.schedule, {"step_factor": 0.1})
    if result.schedule.kind == pb.SCHEDULE_KIND_ONE_CYCLE:
        _fill(result.schedule, {"rise_share": 0.3})
    if result.augmentation.rand_augment_operations:
        _fill(result.augmentation, {"rand_augment_magnitude": 9.0})
    return result


def _fill(message: Message, defaults: dict[str, float | int | bool] | dict[str, float]) -> None:
    for name, value in defaults.items():
        if not message.HasField(name):
            setattr(message, name, value)


def check(config: pb.TrainConfig, field_prefix: str = "config") -> None:
    """Raise Invalid (TRAIN_CONFIG_INVALID) with every field that is wrong; unset fields stand for their defaults."""
    filled = complete(config)
    found = [
        FieldViolation(f"{field_prefix}.{name}", f"{field_prefix}.{name}: {what}") for name, what in faults(filled)
    ]
    if found:
        raise Invalid("TRAIN_CONFIG_INVALID", found[0].description, violations=found)


def check_instrumentation(plan: pb.InstrumentationPlan, field_prefix: str = "instrumentation") -> None:
    """Raise Invalid (TRAIN_CONFIG_INVALID) with every field of a plan that is wrong whatever the network."""
    found = [
        FieldViolation(f"{field_prefix}.probes[{index}].{name}", f"{field_prefix}.probes[{index}].{name}: {what}")
        for index, probe in enumerate(plan.probes)
        for name, what in _probe_faults(probe)
    ]
    for index, proxy in enumerate(plan.proxies):
        what = ""
        if proxy not in pb.ZeroCostProxy.values() or proxy == pb.ZERO_COST_PROXY_UNSPECIFIED:
            what = f"{proxy} is unknown; use {names_of(pb.ZeroCostProxy.keys())}"
        elif proxy in plan.proxies[:index]:
            what = f"{pb.ZeroCostProxy.Name(proxy)} is there twice"
        if what:
            field = f"{field_prefix}.proxies[{index}]"
            found.append(FieldViolation(field, f"{field}: {what}"))
    if found:
        raise Invalid("TRAIN_CONFIG_INVALID", found[0].description, violations=found)


def _probe_faults(probe: pb.Probe) -> Iterator[Fault]:
    if probe.tap not in pb.Tap.values() or probe.tap == pb.TAP_UNSPECIFIED:
        yield "tap", f"set one of {names_of(pb.Tap.keys())}"
    if not probe.statistics:
        yield "statistics", f"name at least one of {names_of(pb.Statistic.keys())}"
    for statistic in probe.statistics:
        if statistic not in pb.Statistic.values() or statistic == pb.STATISTIC_UNSPECIFIED:
            yield "statistics", f"{statistic} is unknown; use {names_of(pb.Statistic.keys())}"
        elif (statistic == pb.STATISTIC_VALUE) != (probe.tap == pb.TAP_EDGE_SCALE):
            yield "statistics", "STATISTIC_VALUE goes with TAP_EDGE_SCALE, and nothing else does"
    for name in ("every_steps", "from_step", "window_steps"):
        yield from require(name, getattr(probe, name), lambda v: 0 <= v <= MOST_STEPS, "must be at least 0")
    if probe.window_steps and probe.every_steps > probe.window_steps:
        yield "every_steps", f"observes nothing in a window of {probe.window_steps} steps"
