"""A training as one ONNX checkpoint, and back: bit-exact in the middle of an epoch.

Besides the weights it holds the optimiser's tensors, averages, observers' sums and a few scalars. It holds no random
state: all chance here is a function of seed, epoch and step, while the state of torch's own generator tells what else
this process has done, so that two checkpoints of one training would differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import onnx
from torch import Tensor

from nasmesh.model.engine.checkpoint import Checkpoint, Json, save_checkpoint
from train_svc.inheritance import from_scalars, to_scalars
from train_svc.scaling import STATE_NAME
from train_svc.training import SNAPSHOT_VERSION, Tally, Training

_AVERAGE = "ema"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of all that a checkpoint holds, which training on does not change."""

    model: onnx.ModelProto
    state: Mapping[str, Tensor]
    beside: Mapping[str, Mapping[str, Tensor]]
    scalars: dict[str, Json]

    def to_bytes(self) -> bytes:
        """Return the checkpoint's bytes; raises Invalid (CHECKPOINT_TOO_LARGE) beyond what one object can hold."""
        return save_checkpoint(self.model, self.state, optimizer_state=self.beside, rng=None, scalars=self.scalars)


def take(training: Training, *, elapsed_s: float) -> Snapshot:
    """Return the training as it stands."""
    return Snapshot(
        model=training.model,
        state=_copies(training.module.state_dict()),
        beside={name: _copies(roles) for name, roles in _tensors(training).items()},
        scalars={
            "version": SNAPSHOT_VERSION,
            "identity": training.identity,
            "step": training.step,
            "elapsed_s": elapsed_s,
            "precision": training.choice.precision,
            "layout": training.choice.layout,
            "compiled": training.choice.compiled,
            "total_steps": training.length.total_steps,
            "validated": [training.validated[0], dict(training.validated[1])],
            "epoch": _numbers(training.epoch),
            "last_epoch": _numbers(training.last_epoch),
            "data_digest": training.splits.digest,
            "inherited": to_scalars(training.inherited),
        },
    )


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies where the tensors are: on a GPU this is queued behind the last update and waits for nothing."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _tensors(training: Training) -> dict[str, dict[str, Tensor]]:
    result = {name: dict(roles) for name, roles in training.optimizer.state.items()}
    for name, tensor in (training.average.state if training.average else {}).items():
        result.setdefault(name, {})[_AVERAGE] = tensor
    if training.scale is not None:
        result[STATE_NAME] = training.scale.state()
    return {**result, **training.instruments.state()}


def restore(training: Training, checkpoint: Checkpoint) -> None:
    """Put a training that was assembled for this checkpoint at its step; raises Invalid (CHECKPOINT_MISMATCH)."""
    training.module.load_state_dict(checkpoint.state)
    training.optimizer.load(checkpoint.optimizer_state)
    training.instruments.load(checkpoint.optimizer_state, training.device)
    if training.average:
        averages = {name: roles[_AVERAGE] for name, roles in checkpoint.optimizer_state.items() if _AVERAGE in roles}
        training.average.load(averages)
    if training.scale is not None:
        training.scale.load(checkpoint.optimizer_state.get(STATE_NAME, {}))
    step, values = cast(list[Any], checkpoint.scalars["validated"])
    training.validated = (step, values)
    training.step = cast(int, checkpoint.scalars["step"])
    if training.config.max_time_s:  # it was cut to a time then, and stays as it is
        training.length = replace(training.length, total_steps=cast(int, checkpoint.scalars["total_steps"]))
    training.elapsed_s = cast(float, checkpoint.scalars["elapsed_s"])
    training.epoch = _tally(checkpoint.scalars["epoch"])
    training.last_epoch = _tally(checkpoint.scalars["last_epoch"])
    training.inherited = from_scalars(checkpoint.scalars.get("inherited"))


def _numbers(tally: Tally) -> list[Json]:
    return [tally.loss, tally.correct, tally.samples]


def _tally(numbers: Json) -> Tally:
    loss, correct, samples = cast(list[float], numbers)
    return Tally(loss, correct, samples)
