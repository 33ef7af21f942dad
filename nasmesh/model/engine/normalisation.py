"""Normalisation and dropout: ONNX node → fx nodes."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from nasmesh.model.engine.build import Builder, Operator
from nasmesh.model.engine.modules import BatchNorm, Dropout


def _batch_norm(operator: Operator) -> fx.Node:
    if operator.integer("training_mode", 0):
        operator.refuse("training_mode must be 0; the trainer decides the mode")
    operator.only_first_output()
    # 1 - 0.9 is 0.09999999999999998; a network written by hand says 0.1, and both must train alike to the last bit.
    momentum = round(1.0 - operator.number("momentum", 0.9), 9)
    norm = BatchNorm(operator.number("epsilon", 1e-5), momentum)
    return operator.module(
        norm,
        operator.tensor(0),
        _fixed_or_tensor(operator, 1, 1.0),
        _fixed_or_tensor(operator, 2, 0.0),
        operator.tensor(3),
        operator.tensor(4),
    )


def _fixed_or_tensor(operator: Operator, index: int, neutral: float) -> fx.Node | None:
    """Return a scale or offset; None where it is fixed at the value that changes nothing, which costs no arithmetic."""
    constant = operator.constant(index)
    if constant is not None and bool((constant == neutral).all()):
        return None
    return operator.tensor(index)


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float) -> Tensor:
    """Normalise over the axes from `axis` on (Ba et al. 2016); scale and bias broadcast."""
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    y = F.layer_norm(x, shape, None, None, epsilon) * scale
    return y if bias is None else y + bias


def _layer_norm(operator: Operator) -> fx.Node:
    operator.only_first_output()
    operator.ignore("stash_type")
    axis, epsilon = operator.integer("axis", -1), operator.number("epsilon", 1e-5)
    return operator.call(layer_norm, operator.tensor(0), operator.tensor(1), operator.optional(2), axis, epsilon)


def rms_norm(x: Tensor, scale: Tensor, axis: int, epsilon: float) -> Tensor:
    """Divide by the root mean square over the axes from `axis` on (Zhang and Sennrich 2019); scale broadcasts."""
    return F.rms_norm(x, x.shape[axis:], None, epsilon) * scale


def _rms_norm(operator: Operator) -> fx.Node:
    operator.ignore("stash_type")
    axis, epsilon = operator.integer("axis", -1), operator.number("epsilon", 1e-5)
    return operator.call(rms_norm, operator.tensor(0), operator.tensor(1), axis, epsilon)


def group_norm(x: Tensor, groups: int, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalise within channel groups (Wu and He 2018); scale and bias are per channel or per group."""
    channels = x.shape[1]
    if scale.shape[0] != channels:
        scale, bias = (part.repeat_interleave(channels // groups) for part in (scale, bias))
    return F.group_norm(x, groups, scale, bias, epsilon)


def _group_norm(operator: Operator) -> fx.Node:
    groups, epsilon = operator.integer("num_groups", 0), operator.number("epsilon", 1e-5)
    operator.ignore("stash_type")
    if groups < 1:
        operator.refuse("num_groups must be at least 1")
    x, scale, bias = operator.tensor(0), operator.tensor(1), operator.tensor(2)
    return operator.call(group_norm, x, groups, scale, bias, epsilon)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalise each channel of each sample (Ulyanov et al. 2016)."""
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)


def _instance_norm(operator: Operator) -> fx.Node:
    epsilon = operator.number("epsilon", 1e-5)
    return operator.call(instance_norm, operator.tensor(0), operator.tensor(1), operator.tensor(2), epsilon)


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    """Divide by a power of the sum of squares over neighbouring channels (Krizhevsky et al. 2012, section 3.3).

    Not torch's own: it puts the odd neighbour of an even size on the other side, and its 3-D pooling is slow.
    """
    channels = x.shape[1]
    before, after = (min(reach, channels - 1) for reach in ((size - 1) // 2, size // 2))
    squares = F.pad(x * x, [0, 0] * (x.dim() - 2) + [before, after])
    total = squares.narrow(1, 0, channels)
    for offset in range(1, before + after + 1):
        total = total + squares.narrow(1, offset, channels)
    return x * (total * (alpha / size) + bias).pow(-beta)


def _local_response_norm(operator: Operator) -> fx.Node:
    size = operator.integer("size", 0)
    if size < 1:
        operator.refuse("size must be at least 1")
    alpha, beta, bias = operator.number("alpha", 1e-4), operator.number("beta", 0.75), operator.number("bias", 1.0)
    return operator.call(local_response_norm, operator.tensor(0), size, alpha, beta, bias)


def lp_norm(x: Tensor, axis: int, order: int) -> Tensor:
    """Divide by the norm along an axis; zero where the norm is zero."""
    norm = torch.linalg.vector_norm(x, order, dim=axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


def _lp_norm(operator: Operator) -> fx.Node:
    axis, order = operator.integer("axis", -1), operator.integer("p", 2)
    return operator.call(lp_norm, operator.tensor(0), axis, order)


def _dropout(operator: Operator) -> fx.Node:
    operator.only_first_output()
    operator.ignore("seed")  # the trainer seeds; training_mode (input 2) is the module's mode
    rate = operator.static_float(1, "ratio")
    rate = 0.5 if rate is None else rate
    if not 0.0 <= rate < 1.0:
        operator.refuse(f"ratio {rate} is not in [0, 1)")
    return operator.module(Dropout(rate), operator.tensor(0))


BUILDERS: dict[str, Builder] = {
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "RMSNormalization": _rms_norm,
}
