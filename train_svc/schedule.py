"""The learning rate of every update: a pure function of its number."""

import math
from dataclasses import dataclass

from nasmesh.v1 import training_pb2 as pb

_ONE_CYCLE_START = 25.0
_ONE_CYCLE_END = 250_000.0


@dataclass(frozen=True, slots=True)
class Length:
    """How long a training is, in optimiser updates."""

    steps_per_epoch: int
    total_steps: int


def training_length(config: pb.TrainConfig, *, samples: int, batch_size: int) -> Length:
    """Return the length of a training over `samples`; a surplus smaller than a batch is left out of each epoch."""
    steps_per_epoch = max(1, samples // batch_size)
    if config.WhichOneof("budget") == "steps":
        return Length(steps_per_epoch, config.steps)
    return Length(steps_per_epoch, max(1, round(config.epochs * steps_per_epoch)))


def learning_rate(config: pb.TrainConfig, length: Length, step: int) -> float:
    """Return the rate of update number `step` (from 0).

    Warm-up rises linearly from 0 (before the first update) to the base rate at update `warmup_steps`, where the
    schedule begins. `config` must be complete and checked.
    """
    base = config.optimizer.learning_rate
    schedule = config.schedule
    warmup = schedule.warmup_steps
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    if schedule.by_epoch:
        # The rate that the epoch's first update has; what warm-up covers of it counts as passed.
        step = max(warmup, step - step % length.steps_per_epoch)
    after = step - warmup
    if schedule.kind == pb.SCHEDULE_KIND_EXPONENTIAL:
        # The tolerance keeps a product such as 0.1 * 30 from landing just above the step it stands for.
        return base * schedule.decay ** math.floor(after / (schedule.decay_epochs * length.steps_per_epoch) + 1e-9)
    if schedule.kind == pb.SCHEDULE_KIND_COSINE:
        return _cosine(schedule, base, after, length)
    if schedule.kind == pb.SCHEDULE_KIND_STEP:
        passed = sum(after >= stone * length.steps_per_epoch - 1e-9 for stone in schedule.milestones)
        return base * schedule.step_factor**passed
    if schedule.kind == pb.SCHEDULE_KIND_ONE_CYCLE:
        return _one_cycle(schedule.rise_share, base, after, length)
    return base


def _one_cycle(rise_share: float, base: float, step: int, length: Length) -> float:
    """Return the rate of torch's OneCycleLR with its defaults: half cosines from base/25 to base to base/250,000."""
    top = rise_share * length.total_steps - 1
    last = max(length.total_steps - 1, top + 1)
    if step <= top:
        return _half_cosine(base / _ONE_CYCLE_START, base, step / top if top > 0 else 1.0)
    return _half_cosine(base, base / _ONE_CYCLE_END, (step - top) / (last - top))


def _half_cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))


def _cosine(schedule: pb.ScheduleConfig, base: float, after: int, length: Length) -> float:
    """Return SGDR's rate (Loshchilov and Hutter 2017, equation 5) `after` updates from the end of warm-up."""
    low = schedule.min_learning_rate
    if schedule.period_epochs == 0:
        phase = after / max(1, length.total_steps - schedule.warmup_steps)
    else:
        phase = _phase(after, schedule.period_epochs * length.steps_per_epoch, schedule.period_factor)
    return low + (base - low) / 2 * (1 + math.cos(math.pi * phase))


def _phase(after: float, period: float, factor: float) -> float:
    """Return how far into its period, 0..1, a step lies when each period is `factor` times the one before."""
    if factor == 1:
        return (after % period) / period
    # Periods before number n last period * (factor^n - 1) / (factor - 1) in all.
    number = math.floor(math.log1p(after * (factor - 1) / period) / math.log(factor) + 1e-9)
    start = period * (factor**number - 1) / (factor - 1)
    return min(max(after - start, 0.0) / (period * factor**number), 1.0)
