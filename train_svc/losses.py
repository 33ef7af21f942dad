"""What training makes small: the built-in losses, and installed ones by name."""

from collections.abc import Callable
from importlib import metadata
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from nasmesh.data.info import CLASSIFICATION
from nasmesh.data.training_fit import DEFAULT_LOSS, LOSSES, loss_faults
from nasmesh.errors import Invalid
from nasmesh.v1 import dataset_pb2
from nasmesh.v1 import training_pb2 as pb
from train_svc.loss_names import ENTRY_POINTS, check_known

Loss = Callable[[Tensor, Tensor], Tensor]


def _binary(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over samples and classes of one-against-all cross-entropies."""
    hot = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    return functional.binary_cross_entropy_with_logits(outputs, hot)


_FUNCTIONS: dict[str, Loss] = {
    "cross_entropy": functional.cross_entropy,
    "binary_cross_entropy": _binary,
    "mean_squared_error": functional.mse_loss,
    "mean_absolute_error": functional.l1_loss,
    "huber": functional.huber_loss,
}


def loss_of(config: pb.TrainConfig, task: dataset_pb2.LearningTask.ValueType) -> Loss:
    """Return the loss of a training of this task; `config` must be complete.

    Raises Invalid (TRAIN_CONFIG_INVALID) for a loss of the other task, or one that is unknown or cannot be loaded.
    """
    name = config.loss or DEFAULT_LOSS[task or CLASSIFICATION]
    check_known(name)
    if name not in LOSSES:
        return _load(name)
    for field, what in loss_faults(config, task):
        raise Invalid("TRAIN_CONFIG_INVALID", f"config.{field}: {what}", field=f"config.{field}")
    if config.label_smoothing:
        smoothing = config.label_smoothing
        return lambda outputs, labels: functional.cross_entropy(outputs, labels, label_smoothing=smoothing)
    return _FUNCTIONS[name]


def _load(name: str) -> Loss:
    (point, *_) = metadata.entry_points(group=ENTRY_POINTS, name=name)
    try:
        found = point.load()
    except Exception as error:  # whatever a foreign package raises while it is imported
        message = f"config.loss: {name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        raise Invalid("TRAIN_CONFIG_INVALID", message, field="config.loss") from error
    return cast(Loss, found)


def of_batch(loss: Loss, outputs: Tensor, wanted: Tensor, other: Tensor | None, share: float) -> Tensor:
    """Return a batch's mean loss; of mixed samples, `share` of that against `wanted`, the rest against `other`."""
    if other is None:
        return loss(outputs, wanted)
    return share * loss(outputs, wanted) + (1 - share) * loss(outputs, other)


def hits(outputs: Tensor, wanted: Tensor, other: Tensor | None, share: float) -> Tensor:
    """Return how many samples are classified right, on the device; of mixed ones, as what they mostly are.

    Always 0 for regression.
    """
    if wanted.is_floating_point():
        return torch.zeros((), dtype=torch.int64, device=outputs.device)
    mostly = wanted if other is None or share >= 0.5 else other
    return (outputs.argmax(1) == mostly).sum()
