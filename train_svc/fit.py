"""The loop: one optimiser update after another, reporting, checkpointing and stopping between any two."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from nasmesh.clock import Clock, derive_seed
from nasmesh.errors import Invalid
from nasmesh.jobs.context import JobContext
from nasmesh.v1 import object_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc.feed import EpochDraws
from train_svc.schedule import learning_rate
from train_svc.training import Tally, Training

MARK_INTERVAL_S = 0.25
_MOST_PENDING = 512  # losses wait on the device for the next mark; this bounds them where a mark is far away

Save = Callable[[float, pb.TrainProgress, bool], object_pb2.ObjectRef | None]


@dataclass(slots=True)
class _Pace:
    """When things last happened, in monotonic seconds."""

    begin: float
    mark: float
    save: float
    marked_step: int
    since_mark: Tally = field(default_factory=Tally)


class Fit:
    """Runs one training to its end."""

    def __init__(self, training: Training, context: JobContext, clock: Clock, save: Save) -> None:
        """`save(elapsed_s, progress, last)` stores a checkpoint and returns its reference.

        While the store is down it returns None, but for the last one, which it waits for.
        """
        self._training = training
        self._context = context
        self._clock = clock
        self._save = save
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        now = clock.monotonic()
        self._pace = _Pace(begin=now, mark=now, save=now, marked_step=training.step)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, over all attempts."""
        return self._training.elapsed_s + self._clock.monotonic() - self._pace.begin

    def run(self) -> tuple[object_pb2.ObjectRef, pb.TrainProgress]:
        """Train to the end and return the last checkpoint, and how far that is.

        Raises Invalid (NETWORK_DIVERGED) with step and rate, and Cancelled after a checkpoint when asked to stop.
        """
        training = self._training
        training.module.train()
        per_epoch, total = training.length.steps_per_epoch, training.length.total_steps
        while training.step < total:
            epoch, first = divmod(training.step, per_epoch)
            draws = training.feed.draw(epoch)
            for number in range(first, min(per_epoch, total - epoch * per_epoch)):
                if self._context.cancelled:
                    self._checkpoint()
                    self._context.raise_if_cancelled()
                self._update(draws, number)
                if number + 1 == per_epoch:
                    self._close_epoch()
                self._keep_pace()
        self._settle()
        self._check_weights()
        progress = self._progress()
        ref = self._save(self.elapsed_s, progress, True)
        if ref is None:
            raise ValueError("the last checkpoint is waited for")
        self._context.report(progress, checkpoint=ref)
        return ref, progress

    def _update(self, draws: EpochDraws, number: int) -> None:
        """Do one optimiser update on batch `number` of the epoch."""
        training, config = self._training, self._training.config
        x, y = training.feed.batch(draws, number)
        if training.drops_out:
            _reseed(training.device, derive_seed(config.seed, "dropout", training.step))
        training.instruments.before_step(training.step)
        with training.choice.arithmetic(training.device):
            logits = training.module(training.choice.arrange(x))
        logits = logits.float()
        loss = functional.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
        training.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if config.clip_norm:
            training.optimizer.clip(config.clip_norm)
        training.optimizer.step(learning_rate(config, training.length, training.step))
        training.instruments.after_step(training.step)
        training.step += 1
        if training.average:
            training.average.update(training.step)
        self._losses.append(loss.detach())
        self._hits.append((logits.detach().argmax(1) == y).sum())
        if len(self._losses) >= _MOST_PENDING:
            self._settle()

    def _settle(self) -> None:
        """Read the losses that wait on the device; raises Invalid (NETWORK_DIVERGED) at the first that is no number."""
        if not self._losses:
            return
        training = self._training
        losses: list[float] = torch.stack(self._losses).tolist()
        hits = int(torch.stack(self._hits).sum())
        first = training.step - len(losses)
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise self._diverged(first + offset, "the loss is not finite")
        self._losses.clear()
        self._hits.clear()
        size = training.feed.batch_size
        seen = Tally(loss=math.fsum(losses) * size, correct=hits, samples=len(losses) * size)
        training.epoch.add(seen)
        self._pace.since_mark.add(seen)

    def _diverged(self, step: int, what: str) -> Invalid:
        rate = learning_rate(self._training.config, self._training.length, step)
        message = f"{what} at step {step} with learning rate {rate:.3g}; lower the rate, warm up, or clip gradients"
        return Invalid("NETWORK_DIVERGED", message, metadata={"step": str(step), "learning_rate": repr(rate)})

    def _check_weights(self) -> None:
        """Raise Invalid (NETWORK_DIVERGED) where a weight or running statistic is no number, or a variance negative."""
        for name, tensor in self._training.module.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self._diverged(self._training.step - 1, f"{name} is not finite")
            if name.endswith("running_var") and bool((tensor < 0).any()):
                raise self._diverged(self._training.step - 1, f"{name} is negative")

    def _close_epoch(self) -> None:
        self._settle()
        self._training.last_epoch, self._training.epoch = self._training.epoch, Tally()

    def _keep_pace(self) -> None:
        """Report and store a checkpoint when it is time."""
        now = self._clock.monotonic()
        if now - self._pace.save >= self._training.config.checkpoint_interval_s:
            self._checkpoint()
        elif now - self._pace.mark >= MARK_INTERVAL_S:
            self._context.report(self._progress())

    def _checkpoint(self) -> None:
        progress = self._progress()
        ref = self._save(self.elapsed_s, progress, False)
        self._context.report(progress, checkpoint=ref)
        self._pace.save = self._clock.monotonic()

    def _progress(self) -> pb.TrainProgress:
        """Return how far the training is, and begin to count anew."""
        self._settle()
        training, pace, now = self._training, self._pace, self._clock.monotonic()
        done = training.step - pace.marked_step
        progress = pb.TrainProgress(
            step=training.step,
            total_steps=training.length.total_steps,
            epoch=training.step / training.length.steps_per_epoch,
            loss=pace.since_mark.mean_loss,
            accuracy=pace.since_mark.accuracy,
            learning_rate=learning_rate(training.config, training.length, max(0, training.step - 1)),
            steps_per_s=done / (now - pace.mark) if now > pace.mark else 0.0,
            elapsed_s=self.elapsed_s,
        )
        pace.mark, pace.marked_step, pace.since_mark = now, training.step, Tally()
        return progress


def _reseed(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout draws from (torch.manual_seed does too, for every device, in 0.3 ms)."""
    generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    generator.manual_seed(seed)
