"""The loop: one optimiser update after another, reporting, checkpointing and stopping between any two."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from nasmesh.clock import Clock
from nasmesh.errors import Invalid
from nasmesh.jobs.context import JobContext
from nasmesh.v1 import object_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import validation
from train_svc.schedule import learning_rate
from train_svc.step import Seen, Update
from train_svc.training import Tally, Training
from train_svc.writer import Write, Writer

MARK_INTERVAL_S = 0.25
_MOST_PENDING = 512  # losses wait on the device for the next mark; this bounds them where a mark is far away
# With float16 a few updates overflow while the loss scale finds its size; a network that diverged stays so.
_MOST_OVERFLOWN = 32

Prepare = Callable[[float, pb.TrainProgress, bool], Write]


@dataclass(slots=True)
class _Pace:
    """When things last happened, in monotonic seconds."""

    begin: float
    mark: float
    save: float
    marked_step: int
    since_mark: Tally = field(default_factory=Tally)


class Fit:
    """Runs one training to its end, or to an update before that."""

    def __init__(
        self, training: Training, context: JobContext, clock: Clock, prepare: Prepare, *, until_step: int = 0
    ) -> None:
        """`prepare(elapsed_s, progress, last)` keeps the training's state and returns what stores it.

        While the store is down that returns None, but for the last one, which waits for the store. 0: to the end.
        """
        self._training = training
        self._context = context
        self._clock = clock
        self._prepare = prepare
        self._end = min(until_step or training.length.total_steps, training.length.total_steps)
        self._update = Update(training)
        self._writer = Writer()
        self._pending: list[Seen] = []
        self._overflown = 0
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
        try:
            return self._run()
        finally:
            # However it ends: nothing of this training is written once it is over.
            self._writer.close()

    def _run(self) -> tuple[object_pb2.ObjectRef, pb.TrainProgress]:
        training = self._training
        training.module.train()
        try:
            self._steps()
        finally:
            training.feed.close()
        self._settle()
        self._check_weights()
        self._writer.collect(wait=True)
        progress = self._progress()
        ref = self._prepare(self.elapsed_s, progress, True)()
        if ref is None:
            raise ValueError("the last checkpoint is waited for")
        self._context.report(progress, checkpoint=ref)
        return ref, progress

    def _steps(self) -> None:
        training = self._training
        per_epoch = training.length.steps_per_epoch
        while training.step < self._end:
            epoch, first = divmod(training.step, per_epoch)
            draws = training.feed.draw(epoch)
            for number in range(first, min(per_epoch, self._end - epoch * per_epoch)):
                if self._context.cancelled:
                    self._stop()
                self._pending.append(self._update.run(draws, number))
                if len(self._pending) >= _MOST_PENDING:
                    self._settle()
                if number + 1 == per_epoch:
                    self._close_epoch()
                if validation.due(training):
                    self._validate()
                self._keep_pace()

    def _settle(self) -> None:
        """Read the losses that wait on the device; raises Invalid (NETWORK_DIVERGED) at the first that is no number."""
        if not self._pending:
            return
        training = self._training
        losses: list[float] = torch.stack([seen.loss for seen in self._pending]).tolist()
        hits = int(torch.stack([seen.hits for seen in self._pending]).sum())
        first = training.step - len(losses)
        for offset, loss in enumerate(losses):
            self._overflown = 0 if math.isfinite(loss) else self._overflown + 1
            if self._overflown > (_MOST_OVERFLOWN if training.scale else 0):
                raise self._diverged(first + offset, "the loss is not finite")
        self._pending.clear()
        size = training.feed.batch_size
        finite = [loss for loss in losses if math.isfinite(loss)]
        seen = Tally(loss=math.fsum(finite) * size, correct=hits, samples=len(finite) * size)
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

    def _validate(self) -> None:
        found = validation.validate(self._training)
        self._training.validated = (found.step, found.values)
        self._context.report(self._progress())

    def _keep_pace(self) -> None:
        """Report, tell of a checkpoint that has been stored, and begin one, each when it is time."""
        now = self._clock.monotonic()
        stored = self._writer.collect()
        if stored is not None:
            self._context.report(self._progress(), checkpoint=stored)
        elif now - self._pace.mark >= MARK_INTERVAL_S:
            self._context.report(self._progress())
        if now - self._pace.save >= self._training.config.checkpoint_interval_s and not self._writer.busy:
            self._settle()  # what waits on the device belongs into the checkpoint's tallies
            self._writer.start(self._prepare(self.elapsed_s, self._progress(), False))
            self._pace.save = self._clock.monotonic()

    def _stop(self) -> None:
        """Store a checkpoint of this very step and end."""
        self._writer.collect(wait=True)
        progress = self._progress()
        ref = self._prepare(self.elapsed_s, progress, False)()
        self._context.report(progress, checkpoint=ref)
        self._context.raise_if_cancelled()

    def _progress(self) -> pb.TrainProgress:
        """Return how far the training is, and begin to count anew."""
        self._settle()
        training, pace, now = self._training, self._pace, self._clock.monotonic()
        done = training.step - pace.marked_step
        step, values = training.validated
        progress = pb.TrainProgress(
            step=training.step,
            total_steps=training.length.total_steps,
            epoch=training.step / training.length.steps_per_epoch,
            loss=pace.since_mark.mean_loss,
            accuracy=pace.since_mark.accuracy,
            learning_rate=learning_rate(training.config, training.length, max(0, training.step - 1)),
            steps_per_s=done / (now - pace.mark) if now > pace.mark else 0.0,
            elapsed_s=self.elapsed_s,
            validation=validation.Validated(step, values).measurements(),
            validated_step=step,
        )
        pace.mark, pace.marked_step, pace.since_mark = now, training.step, Tally()
        return progress
