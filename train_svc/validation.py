"""Measures the validation split while training, without leaving a trace in it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nasmesh.data.info import REGRESSION
from nasmesh.v1 import measurement_pb2
from train_svc import losses
from train_svc.feed import learned
from train_svc.training import Training

_ROWS = 256


@dataclass(frozen=True, slots=True)
class Validated:
    """What was measured after `step` updates: values by metric."""

    step: int
    values: dict[str, float]

    def measurements(self) -> Iterator[measurement_pb2.Measurement]:
        """Yield them as messages."""
        for metric, value in self.values.items():
            yield measurement_pb2.Measurement(
                metric=metric,
                value=value,
                unit="ratio" if metric == "accuracy" else "",
                split=measurement_pb2.SPLIT_VALIDATION,
                step=self.step,
            )


def due(training: Training) -> bool:
    """Say whether it is time after the update just made; never where the validation split is trained on."""
    every = training.config.validate_every_steps
    return bool(every) and not training.config.include_validation and training.step % every == 0


@torch.no_grad()
def validate(training: Training) -> Validated:
    """Return loss and accuracy (of classes) on the validation split, of the averaged weights where they are on."""
    rows = training.splits.validation
    wanted = learned(training.splits, rows, training.device)
    total, right = 0.0, 0
    with _as_published(training):
        for first in range(0, len(rows), _ROWS):
            stored = torch.from_numpy(training.splits.samples.rows(rows[first : first + _ROWS])).to(training.device)
            here = wanted[first : first + _ROWS]
            with training.choice.arithmetic(training.device):
                # Not the compiled form: it would be compiled once more for evaluation.
                outputs = training.module(training.choice.arrange(training.feed.normaliser.stored(stored)))
            logits = (outputs if isinstance(outputs, Tensor) else outputs[0]).float()
            total += float(losses.of_batch(training.loss, logits, here, None, 1.0)) * len(here)
            right += int(losses.hits(logits, here, None, 1.0))
    values = {"loss": total / len(rows)}
    if training.splits.info.task != REGRESSION:
        values["accuracy"] = right / len(rows)
    return Validated(training.step, values)


@contextlib.contextmanager
def _as_published(training: Training) -> Iterator[None]:
    """Put the module into evaluation, with averaged weights where they are on; afterwards all is as it was."""
    state = training.module.state_dict()
    average = training.average.state if training.average else {}
    kept = {name: state[name].clone() for name in average}
    training.module.eval()
    try:
        for name, tensor in average.items():
            state[name].copy_(tensor)
        yield
    finally:
        for name, tensor in kept.items():
            state[name].copy_(tensor)
        training.module.train()
