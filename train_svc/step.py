"""One optimiser update: forward and backward over the parts of a batch, averaging, clipping, stepping.

Nothing here waits for the device: what a step has to say stays there until somebody asks.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nasmesh.clock import derive_seed
from nasmesh.model.engine.modules import BatchNorm
from train_svc import losses
from train_svc.compute import OBSERVERS
from train_svc.draws import EpochDraws
from train_svc.schedule import learning_rate
from train_svc.training import Training


class Seen(NamedTuple):
    """An update's mean loss and number of samples classified right; both on the device."""

    loss: Tensor
    hits: Tensor


class Update:
    """Makes the updates of one training."""

    def __init__(self, training: Training) -> None:
        """Work on this training; its `step` grows with each update."""
        self._training = training
        team = training.team
        self._parts = training.config.accumulate_batches * team.size
        # Not one stretch each: what is normalised together must be computed at the same time.
        self._mine = range(team.rank, self._parts, team.size)
        self._norms = [layer for layer in training.module.modules() if isinstance(layer, BatchNorm)]

    def run(self, draws: EpochDraws, number: int) -> Seen:
        """Do one update on batch `number` of the epoch, and return what it saw before it."""
        training = self._training
        config, optimizer, step = training.config, training.optimizer, training.step
        for hook in training.hooks.before_step:
            hook(step)
        if training.paths is not None:
            training.paths.at(step / training.length.total_steps)
        seen = self._gradients(draws, number)
        for hook in training.hooks.after_backward:
            hook(step)
        if config.sam_rho:
            self._sharpen(draws, number)
        if config.clip_norm:
            optimizer.clip(config.clip_norm)
        rate = learning_rate(config, training.length, step)
        if training.scale is None:
            optimizer.step(rate)
        else:
            optimizer.step(rate, skip=training.scale.overflown)
            training.scale.adapt()
        for hook in training.hooks.after_step:
            hook(step)
        training.step += 1
        if training.average:
            training.average.update(training.step)
        return seen

    def _gradients(self, draws: EpochDraws, number: int) -> Seen:
        """Compute the batch's mean gradients, and return its mean loss and hits."""
        training = self._training
        training.optimizer.zero_grad()
        found = [self._part(draws, number, part) for part in self._mine]
        seen = (
            found[0] if len(found) == 1 else Seen(*(torch.stack(column).sum(0) for column in zip(*found, strict=True)))
        )
        if (size := training.team.size) > 1:
            hits = seen.hits.float()
            training.team.average([*training.optimizer.gradients(), seen.loss, hits])
            seen = Seen(seen.loss, (hits * size).round().long())
        if training.scale is not None:
            training.scale.unscale(training.optimizer.gradients())
        return seen

    def _part(self, draws: EpochDraws, number: int, part: int) -> Seen:
        """Add a part's gradients to those before it; it counts by its share of this process's parts."""
        training, config = self._training, self._training.config
        batch = training.feed.batch(draws, number, part=part, parts=self._parts)
        if training.drops_out:
            shared = part // training.team.size  # the same chance for all who have a piece of it
            place = (training.step, shared) if config.accumulate_batches > 1 else (training.step,)
            reseed(training.device, derive_seed(config.seed, "dropout", *place))
        with training.choice.arithmetic(training.device):
            outputs = training.forward(training.choice.arrange(batch.x))
        logits, *auxiliary = (outputs,) if isinstance(outputs, Tensor) else outputs
        logits = logits.float()
        loss = losses.of_batch(training.loss, logits, batch.y, batch.other, batch.share)
        total = loss
        for extra in auxiliary:
            weighed = losses.of_batch(training.loss, extra.float(), batch.y, batch.other, batch.share)
            total = total + config.auxiliary_weight * weighed
        if len(self._mine) > 1:
            total, loss = total / len(self._mine), loss / len(self._mine)
        if training.scale is not None:
            total = training.scale.lift(total)
        total.backward()  # type: ignore[no-untyped-call]
        return Seen(loss.detach(), losses.hits(logits.detach(), batch.y, batch.other, batch.share))

    def _sharpen(self, draws: EpochDraws, number: int) -> None:
        """Replace the gradients by those at the worst point within `sam_rho` (Foret et al. 2021, equation 2).

        The second pass draws the same dropout, leaves running statistics alone and is not observed.
        """
        optimizer = self._training.optimizer
        with torch.no_grad():
            parameters, gradients = optimizer.parameters(), optimizer.gradients()
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            kept = [parameter.detach().clone() for parameter in parameters]
            torch._foreach_add_(
                parameters, torch._foreach_mul(gradients, self._training.config.sam_rho / (norm + 1e-12))
            )
        with self._unrecorded():
            self._gradients(draws, number)
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)

    @contextlib.contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """Let passes inside change no running statistic and be seen by no observer."""
        observers = self._training.module._modules.get(OBSERVERS)
        momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0
        if observers is not None:
            observers.eval()
        try:
            yield
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum
            if observers is not None:
                observers.train()


def reseed(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout draws from (torch.manual_seed does too, for every device, in 0.3 ms)."""
    generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    generator.manual_seed(seed)
