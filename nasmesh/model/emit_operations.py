"""Turns each typed operation into ONNX nodes. Shapes have been checked: nothing is refused here.

Parameters are "{prefix}.{role}"; an operation's last value is "{prefix}.out".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nasmesh.model.emitter import Emitter
from nasmesh.model.geometry import Dims, onnx_pads
from nasmesh.model.initializers import InitRule
from nasmesh.v1 import architecture_pb2 as pb

_ZEROS = InitRule("zeros")
_ONES = InitRule("ones")
_KAIMING = InitRule("kaiming_normal")
_ALPHA = InitRule("normal", (0.0, 1e-3))  # DARTS, Liu et al. 2019, starts its alphas at 1e-3 * randn
_MOMENTUM = 0.9
_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class _ConvNames:
    """What a plain convolution's and a separable one's parameters start with, and the output's name."""

    plain: str
    parts: str
    output: str


def emit_operation(emit: Emitter, operation: pb.Operation, prefix: str, source: str, dims: Dims) -> str:
    """Append the nodes of an operation on the value `source` of `dims`; returns "{prefix}.out"."""
    kind = operation.WhichOneof("kind") or ""
    return _EMIT[kind](emit, getattr(operation, kind), prefix, source, dims)


def _conv(emit: Emitter, conv: pb.Conv, prefix: str, source: str, dims: Dims) -> str:
    names = _ConvNames(plain=prefix, parts=prefix, output=f"{prefix}.out")
    return _convolve(emit, conv, names, source, dims)


def _convolve(emit: Emitter, conv: pb.Conv, names: _ConvNames, source: str, dims: Dims) -> str:
    kernel = (conv.kernel_h, conv.kernel_w)
    stride, dilation = conv.stride or 1, conv.dilation or 1
    window: dict[str, int | list[int]] = {
        "kernel_shape": list(kernel),
        "strides": [stride, stride],
        "dilations": [dilation, dilation],
        "pads": onnx_pads(dims, kernel, stride, dilation, conv.padding),
    }
    if conv.separable:
        weight = emit.parameter(f"{names.parts}.depthwise.weight", (dims[0], 1, *kernel), _KAIMING)
        source = emit.node("Conv", [source, weight], f"{names.parts}.depthwise", group=dims[0], **window)
        last = f"{names.parts}.pointwise"
        parameters = [emit.parameter(f"{last}.weight", (conv.channels, dims[0], 1, 1), _KAIMING)]
        window = {"kernel_shape": [1, 1], "strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0]}
        groups = 1
    else:
        groups = conv.groups or 1
        last = names.plain
        parameters = [emit.parameter(f"{last}.weight", (conv.channels, dims[0] // groups, *kernel), _KAIMING)]
    if conv.bias:
        parameters.append(emit.parameter(f"{last}.bias", (conv.channels,), _ZEROS))
    return emit.node("Conv", [source, *parameters], names.output, group=groups, **window)


def _normalize(emit: Emitter, norm: pb.BatchNorm, names: tuple[str, str], source: str, channels: int) -> str:
    """Append a batch norm in inference form; `names` are the prefix of its parameters and its output."""
    prefix, output = names
    if norm.scale:
        weight = emit.parameter(f"{prefix}.weight", (channels,), _ONES)
    else:
        weight = emit.constant(f"{prefix}.fixed_weight", np.ones(channels))
    if norm.offset:
        bias = emit.parameter(f"{prefix}.bias", (channels,), _ZEROS)
    else:
        bias = emit.constant(f"{prefix}.fixed_bias", np.zeros(channels))
    mean = emit.parameter(f"{prefix}.running_mean", (channels,), _ZEROS)
    variance = emit.parameter(f"{prefix}.running_var", (channels,), _ONES)
    return emit.node(
        "BatchNormalization",
        [source, weight, bias, mean, variance],
        output,
        epsilon=norm.epsilon or _EPSILON,
        momentum=norm.momentum or _MOMENTUM,
        training_mode=0,
    )


def _conv_unit(emit: Emitter, unit: pb.ConvUnit, prefix: str, source: str, dims: Dims) -> str:
    activate_first = unit.order == pb.CONV_ORDER_ACT_CONV_NORM
    value = source
    if activate_first and unit.HasField("activation"):
        value = emit.activation(unit.activation, value, f"{prefix}.act")
    names = _ConvNames(plain=f"{prefix}.conv", parts=prefix, output=f"{prefix}.conv")
    value = _convolve(emit, unit.conv, names, value, dims)
    if unit.HasField("norm"):
        value = _normalize(emit, unit.norm, (f"{prefix}.norm", f"{prefix}.norm"), value, unit.conv.channels)
    if not activate_first and unit.HasField("activation"):
        value = emit.activation(unit.activation, value, f"{prefix}.act")
    if unit.HasField("dropout"):
        value = emit.dropout(unit.dropout, value, f"{prefix}.drop")
    return emit.node("Identity", [value], f"{prefix}.out")


def _pool(emit: Emitter, pool: pb.Pool, prefix: str, source: str, dims: Dims) -> str:
    kernel, stride = (pool.kernel, pool.kernel), pool.stride or 1
    window = {
        "kernel_shape": list(kernel),
        "strides": [stride, stride],
        "pads": onnx_pads(dims, kernel, stride, 1, pool.padding),
    }
    if pool.kind == pb.POOL_KIND_MAX:
        return emit.node("MaxPool", [source], f"{prefix}.out", **window)
    return emit.node("AveragePool", [source], f"{prefix}.out", count_include_pad=0, **window)


def _global_pool(emit: Emitter, pool: pb.GlobalPool, prefix: str, source: str, _: Dims) -> str:
    op_type = "GlobalMaxPool" if pool.kind == pb.POOL_KIND_MAX else "GlobalAveragePool"
    pooled = emit.node(op_type, [source], f"{prefix}.pooled")
    return emit.node("Flatten", [pooled], f"{prefix}.out", axis=1)


def _linear(emit: Emitter, linear: pb.Linear, prefix: str, source: str, dims: Dims) -> str:
    parameters = [emit.parameter(f"{prefix}.weight", (linear.features, dims[0]), InitRule("xavier_uniform"))]
    if linear.bias:
        parameters.append(emit.parameter(f"{prefix}.bias", (linear.features,), _ZEROS))
    return emit.node("Gemm", [source, *parameters], f"{prefix}.out", transB=1)


def _batch_norm(emit: Emitter, norm: pb.BatchNorm, prefix: str, source: str, dims: Dims) -> str:
    return _normalize(emit, norm, (prefix, f"{prefix}.out"), source, dims[0])


def _layer_norm(emit: Emitter, norm: pb.LayerNorm, prefix: str, source: str, dims: Dims) -> str:
    weight = emit.parameter(f"{prefix}.weight", dims, _ONES)
    bias = emit.parameter(f"{prefix}.bias", dims, _ZEROS)
    epsilon = norm.epsilon or _EPSILON
    return emit.node("LayerNormalization", [source, weight, bias], f"{prefix}.out", axis=1, epsilon=epsilon)


def _activation(emit: Emitter, rule: pb.Activation, prefix: str, source: str, _: Dims) -> str:
    return emit.activation(rule, source, f"{prefix}.out")


def _dropout(emit: Emitter, rule: pb.Dropout, prefix: str, source: str, _: Dims) -> str:
    return emit.dropout(rule, source, f"{prefix}.out")


def _local_response_norm(emit: Emitter, norm: pb.LocalResponseNorm, prefix: str, source: str, _: Dims) -> str:
    return emit.node("LRN", [source], f"{prefix}.out", size=norm.size, alpha=norm.alpha, beta=norm.beta, bias=norm.bias)


def _identity(emit: Emitter, _: pb.Identity, prefix: str, source: str, __: Dims) -> str:
    return emit.node("Identity", [source], f"{prefix}.out")


def _zero(emit: Emitter, _: pb.Zero, prefix: str, source: str, __: Dims) -> str:
    # A product, because an operator whose output shape comes from data is not admitted.
    return emit.node("Mul", [source, emit.constant(f"{prefix}.zero", np.array(0.0))], f"{prefix}.out")


def _flatten(emit: Emitter, _: pb.Flatten, prefix: str, source: str, __: Dims) -> str:
    return emit.node("Flatten", [source], f"{prefix}.out", axis=1)


def _mixed(emit: Emitter, mixed: pb.MixedOp, prefix: str, source: str, dims: Dims) -> str:
    count = len(mixed.candidates)
    alpha = emit.parameter(f"{prefix}.alpha", (count,), _ALPHA)
    weights = emit.node("Softmax", [alpha], f"{prefix}.weights", axis=0)
    shares = [f"{prefix}.weights.{candidate.id}" for candidate in mixed.candidates]
    emit.split(weights, shares)
    terms = []
    for candidate, share in zip(mixed.candidates, shares, strict=True):
        inner = f"{prefix}.{candidate.id}"
        value = emit_operation(emit, candidate.operation, inner, source, dims)
        terms.append(emit.node("Mul", [value, share], f"{inner}.weighted"))
    return emit.node("Sum" if count > 2 else "Add", terms, f"{prefix}.out")


_EMIT: dict[str, Callable[..., str]] = {
    "conv_unit": _conv_unit,
    "conv": _conv,
    "pool": _pool,
    "global_pool": _global_pool,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "activation": _activation,
    "dropout": _dropout,
    "local_response_norm": _local_response_norm,
    "identity": _identity,
    "zero": _zero,
    "mixed": _mixed,
    "flatten": _flatten,
}
