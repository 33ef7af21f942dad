"""What a TrainConfig may say, field by field, whatever the network and the data. Protobuf only."""

import itertools
import math
import re
from collections.abc import Callable, Iterator

from nasmesh.v1 import training_pb2 as pb

MOST_STEPS = 10**9  # an int64 that large is a typing error, not a training
MOST_PROCESSES = 64
_LARGEST_BATCH = 65_536
_MOST_ACCUMULATED = 4096
_LOSS_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
# The losses that spread a target over all classes; the others have nothing to smooth.
_SMOOTHED = ("", "cross_entropy")

Fault = tuple[str, str]
"""Field below the configuration, and what is wrong with it."""
Test = Callable[[float], bool]


def require(name: str, value: float, test: Test, rule: str) -> Iterator[Fault]:
    """Yield a fault where `value` is not finite or does not pass."""
    if not math.isfinite(value) or not test(value):
        yield name, f"{rule}, not {value:g}"


def faults(config: pb.TrainConfig) -> Iterator[Fault]:
    """Yield every fault of a configuration whose defaults are filled in."""
    yield from _budget_faults(config)
    yield from require(
        "batch_size", config.batch_size, lambda v: 1 <= v <= _LARGEST_BATCH, f"must be 1 to {_LARGEST_BATCH}"
    )
    yield from require("clip_norm", config.clip_norm, lambda v: v >= 0, "must be at least 0 (0: no clipping)")
    yield from require("label_smoothing", config.label_smoothing, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from require("dropout_rate", config.dropout_rate, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from require("ema_decay", config.ema_decay, lambda v: 0 <= v < 1, "must be in [0, 1) (0: none)")
    yield from require("checkpoint_interval_s", config.checkpoint_interval_s, lambda v: v > 0, "must be above 0")
    yield from require("data_fraction", config.data_fraction, lambda v: 0 < v <= 1, "must be in (0, 1]")
    yield from require("max_time_s", config.max_time_s, lambda v: v >= 0, "must be at least 0 (0: no bound)")
    yield from _loss_faults(config)
    yield from _step_faults(config)
    yield from _distribution_faults(config)
    yield from _optimizer_faults(config.optimizer)
    yield from _schedule_faults(config)
    yield from _schedule_kind_faults(config.schedule)
    yield from _augmentation_faults(config.augmentation)
    yield from _compute_faults(config.compute)


def _budget_faults(config: pb.TrainConfig) -> Iterator[Fault]:
    budget = config.WhichOneof("budget")
    if budget is None:
        yield "budget", "set how long to train: steps or epochs"
    elif budget == "steps":
        yield from require("steps", config.steps, lambda v: 1 <= v <= MOST_STEPS, f"must be 1 to {MOST_STEPS}")
    else:
        yield from require("epochs", config.epochs, lambda v: 0 < v <= 1e6, "must be above 0, at most 1e6")


def _loss_faults(config: pb.TrainConfig) -> Iterator[Fault]:
    if config.loss and not _LOSS_NAME.fullmatch(config.loss):
        yield "loss", f"{config.loss[:64]!r} is no name of a loss: [a-z][a-z0-9_.-]{{0,63}}"
    if config.label_smoothing > 0 and config.loss not in _SMOOTHED:
        yield "label_smoothing", f"goes with cross_entropy only, not with {config.loss[:64]}"
    yield from require("auxiliary_weight", config.auxiliary_weight, lambda v: 0 <= v <= 100, "must be 0 to 100")


def _step_faults(config: pb.TrainConfig) -> Iterator[Fault]:
    """Yield what is wrong with how one update is made."""
    parts = config.accumulate_batches
    yield from require(
        "accumulate_batches", parts, lambda v: 1 <= v <= _MOST_ACCUMULATED, f"must be 1 to {_MOST_ACCUMULATED}"
    )
    if 1 <= parts <= _MOST_ACCUMULATED and config.batch_size % parts:
        yield "accumulate_batches", f"{parts} does not divide the batch_size of {config.batch_size}"
    yield from require("drop_path_rate", config.drop_path_rate, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from require("sam_rho", config.sam_rho, lambda v: 0 <= v <= 10, "must be 0 to 10 (0: off)")
    if config.sam_rho > 0 and config.compute.precision == pb.PRECISION_FLOAT16:
        yield "sam_rho", "does not go with FLOAT16, whose scaled gradients it would read; use BFLOAT16"
    yield from require(
        "validate_every_steps",
        config.validate_every_steps,
        lambda v: 0 <= v <= MOST_STEPS,
        f"must be 0 to {MOST_STEPS} (0: none)",
    )


def _distribution_faults(config: pb.TrainConfig) -> Iterator[Fault]:
    processes, parts = config.distribution.processes, config.accumulate_batches
    yield from require(
        "distribution.processes", processes, lambda v: 1 <= v <= MOST_PROCESSES, f"must be 1 to {MOST_PROCESSES}"
    )
    if 1 < processes <= MOST_PROCESSES:
        if parts > 0 and config.batch_size % (parts * processes):
            among = f"{parts} parts of {processes} processes" if parts > 1 else f"{processes} processes"
            yield "distribution.processes", f"the batch_size of {config.batch_size} does not divide into {among}"
        if config.max_time_s:
            yield "max_time_s", "goes with one process only; leave distribution unset"
        if config.compute.compile == pb.COMPILE_MODE_ALWAYS:
            yield "compute.compile", "ALWAYS does not go with several processes; use AUTO or NEVER"
    if config.distribution.across_hosts and processes == 1:
        yield "distribution.across_hosts", "goes with processes of at least 2, each on a server of its own"


def _optimizer_faults(optimizer: pb.OptimizerConfig) -> Iterator[Fault]:
    if optimizer.kind not in pb.OptimizerKind.values():
        yield "optimizer.kind", f"{optimizer.kind} is unknown; use one of {names_of(pb.OptimizerKind.keys())}"
    yield from require("optimizer.learning_rate", optimizer.learning_rate, lambda v: v > 0, "must be above 0")
    yield from require("optimizer.weight_decay", optimizer.weight_decay, lambda v: v >= 0, "must be at least 0")
    yield from require("optimizer.momentum", optimizer.momentum, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from require("optimizer.beta1", optimizer.beta1, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from require("optimizer.beta2", optimizer.beta2, lambda v: 0 <= v < 1, "must be in [0, 1)")
    yield from require("optimizer.epsilon", optimizer.epsilon, lambda v: v > 0, "must be above 0")
    if optimizer.kind == pb.OPTIMIZER_KIND_NESTEROV and optimizer.momentum == 0:
        yield "optimizer.momentum", "NESTEROV needs a momentum above 0; use SGD without"


def _schedule_faults(config: pb.TrainConfig) -> Iterator[Fault]:
    schedule = config.schedule
    if schedule.kind not in pb.ScheduleKind.values():
        yield "schedule.kind", f"{schedule.kind} is unknown; use one of {names_of(pb.ScheduleKind.keys())}"
    yield from require("schedule.warmup_steps", schedule.warmup_steps, lambda v: v >= 0, "must be at least 0")
    yield from require("schedule.decay", schedule.decay, lambda v: 0 < v <= 1, "must be in (0, 1]")
    yield from require("schedule.decay_epochs", schedule.decay_epochs, lambda v: v > 0, "must be above 0")
    yield from require(
        "schedule.min_learning_rate",
        schedule.min_learning_rate,
        lambda v: 0 <= v <= config.optimizer.learning_rate,
        "must be at least 0 and at most the learning rate",
    )
    yield from require(
        "schedule.period_epochs", schedule.period_epochs, lambda v: v >= 0, "must be at least 0 (0: the whole training)"
    )
    yield from require("schedule.period_factor", schedule.period_factor, lambda v: v >= 1, "must be at least 1")
    if config.WhichOneof("budget") == "steps" and schedule.warmup_steps >= config.steps > 0:
        yield "schedule.warmup_steps", f"must be below the {config.steps} steps of the training"


def _schedule_kind_faults(schedule: pb.ScheduleConfig) -> Iterator[Fault]:
    """Yield what is wrong with the fields of STEP and ONE_CYCLE, and where they are set for another kind."""
    stones = list(schedule.milestones)
    if schedule.kind == pb.SCHEDULE_KIND_STEP:
        if not stones or not all(math.isfinite(stone) and stone > 0 for stone in stones):
            yield "schedule.milestones", "STEP needs at least one epoch, each above 0"
        elif any(late <= early for early, late in itertools.pairwise(stones)):
            yield "schedule.milestones", f"must ascend, not {stones}"
        yield from require("schedule.step_factor", schedule.step_factor, lambda v: 0 < v <= 1, "must be in (0, 1]")
    elif stones:
        yield "schedule.milestones", "goes with STEP only"
    elif schedule.HasField("step_factor"):
        yield "schedule.step_factor", "goes with STEP only"
    if schedule.kind == pb.SCHEDULE_KIND_ONE_CYCLE:
        yield from require("schedule.rise_share", schedule.rise_share, lambda v: 0 < v < 1, "must be above 0, below 1")
        if schedule.warmup_steps:
            yield "schedule.warmup_steps", "ONE_CYCLE rises by itself; set rise_share"
    elif schedule.HasField("rise_share"):
        yield "schedule.rise_share", "goes with ONE_CYCLE only"
    if schedule.by_epoch and schedule.kind == pb.SCHEDULE_KIND_CONSTANT:
        yield "schedule.by_epoch", "a CONSTANT rate never changes"


def _augmentation_faults(augmentation: pb.AugmentationConfig) -> Iterator[Fault]:
    yield from require(
        "augmentation.crop_padding", augmentation.crop_padding, lambda v: 0 <= v <= 64, "must be 0 to 64"
    )
    yield from require("augmentation.cutout", augmentation.cutout, lambda v: 0 <= v <= 1024, "must be 0 to 1024")
    yield from require("augmentation.brightness", augmentation.brightness, lambda v: 0 <= v <= 1, "must be in [0, 1]")
    for name in ("contrast", "saturation", "shift"):
        value = getattr(augmentation, name)
        yield from require(f"augmentation.{name}", value, lambda v: 0 <= v < 1, "must be in [0, 1)")
    for name in ("mixup", "cutmix"):
        value = getattr(augmentation, name)
        yield from require(f"augmentation.{name}", value, lambda v: 0 <= v <= 100, "must be 0 to 100 (0: none)")
    yield from require("augmentation.noise", augmentation.noise, lambda v: 0 <= v <= 10, "must be 0 to 10")
    operations = augmentation.rand_augment_operations
    yield from require("augmentation.rand_augment_operations", operations, lambda v: 0 <= v <= 16, "must be 0 to 16")
    if operations:
        strength = augmentation.rand_augment_magnitude
        yield from require("augmentation.rand_augment_magnitude", strength, lambda v: 0 <= v <= 30, "must be 0 to 30")
    elif augmentation.HasField("rand_augment_magnitude"):
        yield "augmentation.rand_augment_magnitude", "set rand_augment_operations too; without any this does nothing"


def _compute_faults(compute: pb.ComputePolicy) -> Iterator[Fault]:
    if compute.precision not in pb.Precision.values():
        yield "compute.precision", f"{compute.precision} is unknown; use one of {names_of(pb.Precision.keys())}"
    if compute.layout not in pb.Layout.values():
        yield "compute.layout", f"{compute.layout} is unknown; use one of {names_of(pb.Layout.keys())}"
    if compute.compile not in pb.CompileMode.values():
        yield "compute.compile", f"{compute.compile} is unknown; use one of {names_of(pb.CompileMode.keys())}"
    yield from require("compute.threads", compute.threads, lambda v: 0 <= v <= 1024, "must be 0 to 1024 (0: default)")


def processes_here(config: pb.TrainConfig) -> int:
    """Return how many processes of a training one server runs: all, or one of those that are spread over servers."""
    return 1 if config.distribution.across_hosts else max(1, config.distribution.processes)


def names_of(keys: list[str]) -> str:
    """Return the values of an enum that may be written."""
    return ", ".join(key for key in keys if not key.endswith("UNSPECIFIED"))
