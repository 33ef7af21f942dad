"""What each typed operation of an architecture accepts and the shape it gives; everything else is refused."""

import math
from collections.abc import Callable, Sequence

from google.protobuf.message import Message

from nasmesh.ids import BLOCK_ID
from nasmesh.limits import ADMISSION_DILATION, ADMISSION_DIM, ADMISSION_KERNEL, ADMISSION_STRIDE
from nasmesh.model.geometry import Dims, window_output
from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb

MAX_DIM = ADMISSION_DIM
MAX_KERNEL = ADMISSION_KERNEL
MAX_STRIDE = ADMISSION_STRIDE
MAX_DILATION = ADMISSION_DILATION
MAX_CANDIDATES = 64
# Names that a mixed block uses itself: a candidate of that id would make one parameter both a leaf and a prefix.
RESERVED_CANDIDATES = frozenset({"alpha", "scale", "from", "merged", "weights"})

_ALPHA_KINDS = frozenset({pb.ACTIVATION_KIND_LEAKY_RELU, pb.ACTIVATION_KIND_ELU})


def operation_dims(operation: pb.Operation, dims: Dims, *, where: str) -> Dims:
    """Return the output dims, without batch, of an operation on an input of `dims`.

    Raises Rejected with field `where` for an unset operation, an unspecified enum, a number out of range and an input
    that the operation does not take.
    """
    kind = operation.WhichOneof("kind")
    if kind is None:
        raise rejected(Reason.OPERATION_MISSING, "no operation is set", where=where)
    result = _SHAPES[kind](getattr(operation, kind), dims, where)
    for size in result:
        check_range(size, 1, MAX_DIM, "an output dimension", where)
    return result


def check_range(value: float, low: float, high: float, what: str, where: str) -> None:
    """Refuse a number outside [low, high], NaN included."""
    if not low <= value <= high:
        raise rejected(Reason.VALUE_OUT_OF_RANGE, f"{what} is {value:g}; use {low:g} to {high:g}", where=where)


def check_enum(value: int, known: Sequence[int], what: str, where: str) -> None:
    """Refuse an unspecified or unknown enum value."""
    if value == 0 or value not in known:
        raise rejected(Reason.ENUM_UNSPECIFIED, f"{what} is not set to a known value", where=where)


def _rank(dims: Dims, rank: int, what: str, where: str) -> None:
    if len(dims) != rank:
        layout = {1: "[N, F]", 3: "[N, C, H, W]"}[rank]
        shown = ", ".join(["N", *map(str, dims)])
        raise rejected(Reason.SHAPE_MISMATCH, f"{what} takes {layout}, its input is [{shown}]", where=where)


def _window(dims: Dims, kernel: tuple[int, int], step: tuple[int, int], padding: int, where: str) -> tuple[int, int]:
    """Return output (height, width) of a window after checking kernel, (stride, dilation) and padding."""
    stride, dilation = step
    for size in kernel:
        check_range(size, 1, MAX_KERNEL, "a kernel size", where)
    check_range(stride, 1, MAX_STRIDE, "stride", where)
    check_range(dilation, 1, MAX_DILATION, "dilation", where)
    check_enum(padding, pb.Padding.values(), "padding", where)
    rule = pb.PADDING_SAME if padding == pb.PADDING_SAME else pb.PADDING_VALID
    height = window_output(dims[1], kernel[0], stride, dilation, rule)
    width = window_output(dims[2], kernel[1], stride, dilation, rule)
    if height < 1 or width < 1:
        raise rejected(
            Reason.SHAPE_MISMATCH,
            f"a {kernel[0]}x{kernel[1]} window (dilation {dilation}) does not fit in {dims[1]}x{dims[2]}; use SAME",
            where=where,
        )
    return height, width


def _conv(conv: pb.Conv, dims: Dims, where: str) -> Dims:
    _rank(dims, 3, "convolution", where)
    check_range(conv.channels, 1, MAX_DIM, "channels", where)
    check_range(conv.groups, 0, MAX_DIM, "groups", where)
    groups = conv.groups or 1
    if conv.separable and groups != 1:
        raise rejected(Reason.VALUE_OUT_OF_RANGE, "a separable convolution has no groups of its own", where=where)
    if dims[0] % groups or conv.channels % groups:
        raise rejected(
            Reason.GROUPS_DO_NOT_DIVIDE,
            f"{groups} groups divide not both {dims[0]} input and {conv.channels} output channels",
            where=where,
        )
    step = (conv.stride or 1, conv.dilation or 1)
    return conv.channels, *_window(dims, (conv.kernel_h, conv.kernel_w), step, conv.padding, where)


def _conv_unit(unit: pb.ConvUnit, dims: Dims, where: str) -> Dims:
    if not unit.HasField("conv"):
        raise rejected(Reason.OPERATION_MISSING, "conv_unit has no conv", where=where)
    check_enum(unit.order, pb.ConvOrder.values(), "order", where)
    result = _conv(unit.conv, dims, where)
    if unit.HasField("norm"):
        _batch_norm(unit.norm, result, where)
    if unit.HasField("activation"):
        _activation(unit.activation, result, where)
    if unit.HasField("dropout"):
        _dropout(unit.dropout, result, where)
    return result


def _pool(pool: pb.Pool, dims: Dims, where: str) -> Dims:
    _rank(dims, 3, "pooling", where)
    check_enum(pool.kind, pb.PoolKind.values(), "pool kind", where)
    return dims[0], *_window(dims, (pool.kernel, pool.kernel), (pool.stride or 1, 1), pool.padding, where)


def _global_pool(pool: pb.GlobalPool, dims: Dims, where: str) -> Dims:
    _rank(dims, 3, "global pooling", where)
    check_enum(pool.kind, pb.PoolKind.values(), "pool kind", where)
    return (dims[0],)


def _linear(linear: pb.Linear, dims: Dims, where: str) -> Dims:
    _rank(dims, 1, "a linear layer (add a flatten or global pool block)", where)
    check_range(linear.features, 1, MAX_DIM, "features", where)
    return (linear.features,)


def _batch_norm(norm: pb.BatchNorm, dims: Dims, where: str) -> Dims:
    check_range(norm.momentum, 0.0, 0.9999999, "momentum", where)
    check_range(norm.epsilon, 0.0, 1.0, "epsilon", where)
    return dims


def _layer_norm(norm: pb.LayerNorm, dims: Dims, where: str) -> Dims:
    check_range(norm.epsilon, 0.0, 1.0, "epsilon", where)
    return dims


def _activation(activation: pb.Activation, dims: Dims, where: str) -> Dims:
    check_enum(activation.kind, pb.ActivationKind.values(), "activation kind", where)
    check_range(activation.alpha, 0.0, 1000.0, "alpha", where)
    if activation.alpha and activation.kind not in _ALPHA_KINDS:
        name = pb.ActivationKind.Name(activation.kind)
        raise rejected(Reason.VALUE_OUT_OF_RANGE, f"alpha has no meaning for {name}; leave it unset", where=where)
    return dims


def _dropout(dropout: pb.Dropout, dims: Dims, where: str) -> Dims:
    check_range(dropout.rate, 0.0, math.nextafter(1.0, 0.0), "dropout rate", where)
    return dims


def _local_response_norm(norm: pb.LocalResponseNorm, dims: Dims, where: str) -> Dims:
    _rank(dims, 3, "local response normalisation", where)
    check_range(norm.size, 1, 1023, "size", where)
    if norm.size % 2 == 0:  # onnxruntime refuses even sizes
        raise rejected(
            Reason.VALUE_OUT_OF_RANGE,
            f"size {norm.size} is even; the window is centred, use 2 * radius + 1 (TensorFlow's depth_radius 4 is 9)",
            where=where,
        )
    for what, value in (("alpha", norm.alpha), ("beta", norm.beta), ("bias", norm.bias)):
        check_range(value, 1e-30, 1e30, what, where)
    return dims


def _unchanged(_: Message, dims: Dims, __: str) -> Dims:
    return dims


def _flatten(_: pb.Flatten, dims: Dims, __: str) -> Dims:
    return (math.prod(dims),)


def _mixed(mixed: pb.MixedOp, dims: Dims, where: str) -> Dims:
    check_range(len(mixed.candidates), 2, MAX_CANDIDATES, "the number of candidates", where)
    seen: set[str] = set()
    shapes: list[Dims] = []
    for candidate in mixed.candidates:
        if not BLOCK_ID.fullmatch(candidate.id) or candidate.id in RESERVED_CANDIDATES:
            message = f"candidate id {candidate.id[:80]!r} is reserved or breaks {BLOCK_ID.pattern}"
            raise rejected(Reason.BLOCK_ID_INVALID, message, where=where)
        if candidate.id in seen:
            raise rejected(Reason.BLOCK_ID_DUPLICATE, f"candidate {candidate.id!r} is there twice", where=where)
        seen.add(candidate.id)
        if candidate.operation.WhichOneof("kind") == "mixed":
            raise rejected(Reason.MIXED_NESTED, f"candidate {candidate.id!r} is a mixed operation itself", where=where)
        shapes.append(operation_dims(candidate.operation, dims, where=f"{where}.{candidate.id}"))
    for candidate, shape in zip(mixed.candidates, shapes, strict=True):
        if shape != shapes[0]:
            first = mixed.candidates[0].id
            message = f"candidate {candidate.id!r} gives {shape}, {first!r} gives {shapes[0]}; they must agree"
            raise rejected(Reason.MIXED_MISMATCH, message, where=where)
    return shapes[0]


_SHAPES: dict[str, Callable[..., Dims]] = {
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
    "identity": _unchanged,
    "zero": _unchanged,
    "mixed": _mixed,
    "flatten": _flatten,
}
