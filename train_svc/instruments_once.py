"""What an instrumentation plan has measured a single time: proxies before the first step, a profile after a few."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nasmesh import metrics
from nasmesh.clock import Clock
from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import training_pb2 as pb
from train_svc import losses
from train_svc.instruments import measured
from train_svc.instruments_profile import blocks_of, profile
from train_svc.proxies import Subject, score
from train_svc.training import Training

PROFILE_STEPS = 3
"""Updates after which blocks are profiled: by then kernels are chosen and memory is warm."""
_PROXIES, _PROFILE = "proxies", "profile"
_MS, _BYTES = "forward_ms", "activation_bytes"


def begin(training: Training, plan: pb.InstrumentationPlan, clock: Clock) -> None:
    """Score the network where the plan asks for it and no earlier attempt did, and arrange for the profile."""
    once = training.instruments.once
    if plan.proxies and _PROXIES not in once and training.step == 0:
        subject = _subject(training)
        scores = [score(proxy, subject) for proxy in plan.proxies]
        once[_PROXIES] = {"scores": torch.tensor(scores, dtype=torch.float64)}
    if plan.profile and _PROFILE not in once:
        due = min(PROFILE_STEPS, training.length.total_steps)

        def look(step: int) -> None:
            if step + 1 >= due and _PROFILE not in once:
                once[_PROFILE] = _profiled(training, clock)

        training.hooks.after_step.append(look)


def measurements(training: Training, plan: pb.InstrumentationPlan) -> Iterator[measurement_pb2.Measurement]:
    """Yield what was measured; a proxy without a finite score is left out."""
    once = training.instruments.once
    scores = once.get(_PROXIES, {}).get("scores", torch.empty(0)).tolist()
    for proxy, value in zip(plan.proxies, scores, strict=False):
        if math.isfinite(value):
            # Tied to no split: it says something of the network, and nothing of how well it does on samples.
            yield measurement_pb2.Measurement(metric=metrics.proxy(proxy), value=value)
    if _PROFILE in once:
        step = min(PROFILE_STEPS, training.length.total_steps)
        for name, unit in ((_MS, "ms"), (_BYTES, "bytes")):
            for block, value in zip(blocks_of(training.module), once[_PROFILE][name].tolist(), strict=True):
                yield measured(name, value, block, step, unit)


def _subject(training: Training) -> Subject:
    """Return the network and the first part of the first batch, which is what fits into memory."""
    feed = training.feed
    parts = training.config.accumulate_batches * training.team.size
    batch = feed.batch(feed.draw(0), 0, part=0, parts=parts)

    def loss(logits: Tensor) -> Tensor:
        return losses.of_batch(training.loss, logits, batch.y, batch.other, batch.share)

    return Subject(training.module, training.choice.arrange(batch.x), loss)


def _profiled(training: Training, clock: Clock) -> dict[str, Tensor]:
    """Profile on a batch of the training's size; its values do not matter, and reading samples would move the feed."""
    size = training.feed.batch_size // (training.config.accumulate_batches * training.team.size)
    x = torch.full((size, *training.splits.samples.dims), 0.5, device=training.device)
    times, sizes = profile(Subject(training.module, x, Tensor.sum), training.choice, clock)
    return {_MS: torch.tensor(times, dtype=torch.float64), _BYTES: torch.tensor(sizes, dtype=torch.float64)}
