"""Control parameters of a training: defaults, overrides, checks. Protobuf only, so the scheduler uses it too."""

import math
from collections.abc import Callable, Iterator

from google.protobuf.message import Message

from nasmesh.errors import FieldViolation, Invalid
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
_MOST_STEPS = 10**9  # an int64 that large is a typing error, not a training
_LARGEST_BATCH = 65_536


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
    result.augmentation.SetInParent()
    return result


def _fill(message: Message, defaults: dict[str, float | int | bool] | dict[str, float]) -> None:
    for name, value in defaults.items():
        if not message.HasField(name):
            setattr(message, name, value)


def check(config: pb.TrainConfig, field_prefix: str = "config") -> None:
    """Raise Invalid (TRAIN_CONFIG_INVALID) with every field that is wrong; unset fields stand for their defaults."""
    filled = complete(config)
    found = [
        FieldViolation(f"{field_prefix}.{name}", f"{field_prefix}.{name}: {what}") for name, what in _faults(filled)
    ]
    if found:
        raise Invalid("TRAIN_CONFIG_INVALID", found[0].description, violations=found)


Fault = tuple[str, str]
Test = Callable[[float], bool]


def _require(name: str, value: float, test: Test, rule: str) -> Iterator[Fault]:
    """Yield a fault where `value` is not finite or does not pass."""
    if not math.isfinite(value) or not test(value):
        yield name, f"{rule}, not {value:g}"


def _faults(config: pb.TrainConfig) -> Iterator[Fault]:
    yield from _budget_faults(config)
    yield from _require(
        "batch_size", config.batch_size, lambda v: 1 <= v <= _LARGEST_BATCH, f"must be 1 to {_LARGEST_BATCH}"
    )
    yield from _require("clip_norm", config.clip_norm, lambda v: v >= 0, "must be at least 0 (0: no clipping)")
    yield from _require("label_smoothing", config.label_smoothing, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from _require("dropout_rate", config.dropout_rate, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from _require("ema_decay", config.ema_decay, lambda v: 0 <= v < 1, "must be in [0, 1) (0: none)")
    yield from _require("checkpoint_interval_s", config.checkpoint_interval_s, lambda v: v > 0, "must be above 0")
    yield from _require("data_fraction", config.data_fraction, lambda v: 0 < v <= 1, "must be in (0, 1]")
    yield from _optimizer_faults(config.optimizer)
    yield from _schedule_faults(config)
    yield from _augmentation_faults(config.augmentation)
    yield from _compute_faults(config.compute)


def _budget_faults(config: pb.TrainConfig) -> Iterator[Fault]:
    budget = config.WhichOneof("budget")
    if budget is None:
        yield "budget", "set how long to train: steps or epochs"
    elif budget == "steps":
        yield from _require("steps", config.steps, lambda v: 1 <= v <= _MOST_STEPS, f"must be 1 to {_MOST_STEPS}")
    else:
        yield from _require("epochs", config.epochs, lambda v: 0 < v <= 1e6, "must be above 0, at most 1e6")


def _optimizer_faults(optimizer: pb.OptimizerConfig) -> Iterator[Fault]:
    if optimizer.kind not in pb.OptimizerKind.values():
        yield "optimizer.kind", f"{optimizer.kind} is unknown; use one of {_names(pb.OptimizerKind.keys())}"
    yield from _require("optimizer.learning_rate", optimizer.learning_rate, lambda v: v > 0, "must be above 0")
    yield from _require("optimizer.weight_decay", optimizer.weight_decay, lambda v: v >= 0, "must be at least 0")
    yield from _require("optimizer.momentum", optimizer.momentum, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from _require("optimizer.beta1", optimizer.beta1, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from _require("optimizer.beta2", optimizer.beta2, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from _require("optimizer.epsilon", optimizer.epsilon, lambda v: v > 0, "must be above 0")
    if optimizer.kind == pb.OPTIMIZER_KIND_NESTEROV and optimizer.momentum == 0:
        yield "optimizer.momentum", "NESTEROV needs a momentum above 0; use SGD without"


def _schedule_faults(config: pb.TrainConfig) -> Iterator[Fault]:
    schedule = config.schedule
    if schedule.kind not in pb.ScheduleKind.values():
        yield "schedule.kind", f"{schedule.kind} is unknown; use one of {_names(pb.ScheduleKind.keys())}"
    yield from _require("schedule.warmup_steps", schedule.warmup_steps, lambda v: v >= 0, "must be at least 0")
    yield from _require("schedule.decay", schedule.decay, lambda v: 0 < v <= 1, "must be in (0, 1]")
    yield from _require("schedule.decay_epochs", schedule.decay_epochs, lambda v: v > 0, "must be above 0")
    yield from _require(
        "schedule.min_learning_rate",
        schedule.min_learning_rate,
        lambda v: 0 <= v <= config.optimizer.learning_rate,
        "must be at least 0 and at most the learning rate",
    )
    yield from _require(
        "schedule.period_epochs", schedule.period_epochs, lambda v: v >= 0, "must be at least 0 (0: the whole training)"
    )
    yield from _require("schedule.period_factor", schedule.period_factor, lambda v: v >= 1, "must be at least 1")
    if config.WhichOneof("budget") == "steps" and schedule.warmup_steps >= config.steps > 0:
        yield "schedule.warmup_steps", f"must be below the {config.steps} steps of the training"


def _augmentation_faults(augmentation: pb.AugmentationConfig) -> Iterator[Fault]:
    yield from _require(
        "augmentation.crop_padding", augmentation.crop_padding, lambda v: 0 <= v <= 64, "must be 0 to 64"
    )
    yield from _require("augmentation.cutout", augmentation.cutout, lambda v: 0 <= v <= 1024, "must be 0 to 1024")
    yield from _require("augmentation.brightness", augmentation.brightness, lambda v: 0 <= v <= 1, "must be in [0, 1]")
    yield from _require("augmentation.contrast", augmentation.contrast, lambda v: 0 <= v < 1, "must be in [0, 1)")


def _compute_faults(compute: pb.ComputePolicy) -> Iterator[Fault]:
    if compute.precision not in pb.Precision.values():
        yield "compute.precision", f"{compute.precision} is unknown; use one of {_names(pb.Precision.keys())}"
    if compute.layout not in pb.Layout.values():
        yield "compute.layout", f"{compute.layout} is unknown; use one of {_names(pb.Layout.keys())}"
    yield from _require("compute.threads", compute.threads, lambda v: 0 <= v <= 1024, "must be 0 to 1024 (0: default)")


def _names(keys: list[str]) -> str:
    return ", ".join(key for key in keys if not key.endswith("UNSPECIFIED"))


def check_instrumentation(plan: pb.InstrumentationPlan, field_prefix: str = "instrumentation") -> None:
    """Raise Invalid (TRAIN_CONFIG_INVALID) with every field of a plan that is wrong whatever the network."""
    found = [
        FieldViolation(f"{field_prefix}.probes[{index}].{name}", f"{field_prefix}.probes[{index}].{name}: {what}")
        for index, probe in enumerate(plan.probes)
        for name, what in _probe_faults(probe)
    ]
    if found:
        raise Invalid("TRAIN_CONFIG_INVALID", found[0].description, violations=found)


def _probe_faults(probe: pb.Probe) -> Iterator[Fault]:
    if probe.tap not in pb.Tap.values() or probe.tap == pb.TAP_UNSPECIFIED:
        yield "tap", f"set one of {_names(pb.Tap.keys())}"
    if not probe.statistics:
        yield "statistics", f"name at least one of {_names(pb.Statistic.keys())}"
    for statistic in probe.statistics:
        if statistic not in pb.Statistic.values() or statistic == pb.STATISTIC_UNSPECIFIED:
            yield "statistics", f"{statistic} is unknown; use {_names(pb.Statistic.keys())}"
        elif (statistic == pb.STATISTIC_VALUE) != (probe.tap == pb.TAP_EDGE_SCALE):
            yield "statistics", "STATISTIC_VALUE goes with TAP_EDGE_SCALE, and nothing else does"
    for name in ("every_steps", "from_step", "window_steps"):
        yield from _require(name, getattr(probe, name), lambda v: 0 <= v <= _MOST_STEPS, "must be at least 0")
    if probe.window_steps and probe.every_steps > probe.window_steps:
        yield "every_steps", f"observes nothing in a window of {probe.window_steps} steps"
