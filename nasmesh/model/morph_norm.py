"""A batch norm that changes nothing, neither in evaluation nor, as far as can be told without data, in training."""

import math
from dataclasses import dataclass

import numpy as np

from nasmesh.v1 import architecture_pb2 as pb

_EPSILON = 1e-5
# Nodes and weights for the mean of a function of a standard normal variable.
_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(200)


@dataclass(frozen=True, slots=True)
class Norm:
    """The norm's rule and parameters; no parameters where the network has none."""

    rule: pb.BatchNorm
    weights: dict[str, np.ndarray]


def steady(operation: pb.Operation, block: str, weights: dict[str, np.ndarray], prefix: str) -> Norm | None:
    """Return the norm for what a convolution unit of this block puts out; None where its own norm says nothing of it.

    A unit that ends in batch norm and activation puts out f(b + g * z), z standardised by the norm and taken as
    normal: the new norm's running statistics are the mean and variance of that, its scale and offset undo them.
    """
    unit = operation.conv_unit
    fits = operation.WhichOneof("kind") == "conv_unit" and unit.order == pb.CONV_ORDER_CONV_NORM_ACT
    if not fits or not unit.HasField("norm"):
        return None
    rule = pb.BatchNorm(scale=True, offset=True, momentum=unit.norm.momentum, epsilon=unit.norm.epsilon)
    if not weights:
        return Norm(rule, {})
    count = unit.conv.channels
    scale = weights[f"{block}.norm.weight"] if unit.norm.scale else np.ones(count)
    offset = weights[f"{block}.norm.bias"] if unit.norm.offset else np.zeros(count)
    values = _activated(unit.activation.kind, offset[:, None] + scale[:, None] * _NODES)
    shares = _SHARES / _SHARES.sum()
    mean = values @ shares
    # Dropout keeps the mean and makes the mean of squares larger.
    square = values**2 @ shares / (1 - unit.dropout.rate)
    variance = np.maximum(square - mean**2, 0.0)
    made = {
        "weight": np.sqrt(variance + (rule.epsilon or _EPSILON)),
        "bias": mean,
        "running_mean": mean,
        "running_var": variance,
    }
    return Norm(rule, {f"{prefix}.{role}": value.astype(np.float32) for role, value in made.items()})


def _activated(kind: int, values: np.ndarray) -> np.ndarray:
    if kind == pb.ACTIVATION_KIND_RELU:
        return np.asarray(np.maximum(values, 0.0))
    if kind == pb.ACTIVATION_KIND_SIGMOID:
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -math.log(1e300), None))))
    raise ValueError(f"no unit ends in activation {kind} here")
