"""Operators that move or reduce values without arithmetic of their own weights: ONNX node → fx nodes."""

import operator as python_operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto
from torch import Tensor, fx

from nasmesh.model.engine.build import Builder, Operator

_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
}


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Reshape; a 0 copies the input's size of that axis."""
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


def _reshape(operator: Operator) -> fx.Node:
    allow_zero = operator.integer("allowzero", 0)
    shape = operator.static_ints(1, "shape")
    if shape is None or (allow_zero and 0 in shape):
        operator.refuse("shape is missing, or asks for an empty tensor")
    return operator.call(reshape, operator.tensor(0), shape)


def flatten(x: Tensor, axis: int) -> Tensor:
    """Return a matrix: the axes before `axis`, and those from it on."""
    return x.reshape(x.shape[:axis].numel(), -1)


def _flatten(operator: Operator) -> fx.Node:
    return operator.call(flatten, operator.tensor(0), operator.integer("axis", 1))


def transpose(x: Tensor, order: Sequence[int] | None) -> Tensor:
    """Permute the axes; None reverses them."""
    return x.permute(tuple(reversed(range(x.dim()))) if order is None else tuple(order))


def _transpose(operator: Operator) -> fx.Node:
    return operator.call(transpose, operator.tensor(0), operator.integers("perm"))


def squeeze(x: Tensor, axes: Sequence[int] | None) -> Tensor:
    """Drop axes of size 1; None drops all of them; an axis of another size is an error, which torch would pass over."""
    if axes is None:
        return x.squeeze()
    if any(x.shape[axis] != 1 for axis in axes):
        raise ValueError(f"cannot squeeze axes {list(axes)} of {list(x.shape)}")
    return x.squeeze(tuple(axes))


def _squeeze(operator: Operator) -> fx.Node:
    return operator.call(squeeze, operator.tensor(0), operator.static_ints(1, "axes"))


def unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Insert axes of size 1; positions are those in the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _unsqueeze(operator: Operator) -> fx.Node:
    axes = operator.static_ints(1, "axes")
    return operator.refuse("axes are missing") if axes is None else operator.call(unsqueeze, operator.tensor(0), axes)


def _concat(operator: Operator) -> fx.Node:
    return operator.call(torch.cat, operator.tensors(), operator.integer("axis", 0))


def split_evenly(x: Tensor, parts: int, axis: int) -> Sequence[Tensor]:
    """Split into `parts`, the last one smaller where the size does not divide."""
    return torch.split(x, -(-x.shape[axis] // parts), axis)


def _split(operator: Operator) -> list[fx.Node]:
    axis = operator.integer("axis", 0)
    sizes = operator.static_ints(1, "split")
    outputs = len(operator.node.output)
    parts = operator.integer("num_outputs", outputs)
    if parts != outputs or (sizes is not None and len(sizes) != outputs):
        operator.refuse("the number of parts is not the number of outputs")
    x = operator.tensor(0)
    split = operator.call(split_evenly, x, parts, axis) if sizes is None else operator.call(torch.split, x, sizes, axis)
    return [operator.call(python_operator.getitem, split, part) for part in range(outputs)]


def slice_axes(
    x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> Tensor:
    """Slice along some axes; steps may be negative."""
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        positions = _positions(size, start, end, step)
        if step > 0:
            index = [slice(None)] * x.dim()
            index[axis] = slice(positions.start, max(positions.start, positions.stop), step)
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.tensor(list(positions), dtype=torch.int64, device=x.device))
    return x


def _positions(size: int, start: int, end: int, step: int) -> range:
    """Return the indices that ONNX means: out-of-range bounds are cut, also for a negative step."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    return range(min(max(start, 0), size if step > 0 else size - 1), min(max(end, low), max(high, low)), step)


def _slice(operator: Operator) -> fx.Node:
    starts, ends = operator.static_ints(1, "starts"), operator.static_ints(2, "ends")
    if starts is None or ends is None:
        operator.refuse("starts or ends are missing")
    axes = operator.static_ints(3, "axes") or list(range(len(starts)))
    steps = operator.static_ints(4, "steps") or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        operator.refuse("starts, ends, axes and steps differ in length, or a step is 0")
    return operator.call(slice_axes, operator.tensor(0), starts, ends, axes, steps)


def gather(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Return slices of x along an axis, at indices of any shape; negative ones count from the end."""
    flat = indices.reshape(-1)
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    axis = axis % x.dim()
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather(operator: Operator) -> fx.Node:
    axis = operator.integer("axis", 0)
    indices = operator.constant(1)
    if indices is not None and indices.ndim == 0:
        return operator.call(torch.select, operator.tensor(0), axis, int(indices))
    return operator.call(gather, operator.tensor(0), operator.tensor(1), axis)


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcast x against a shape."""
    rank = max(x.dim(), len(shape))
    current, wanted = (1,) * (rank - x.dim()) + tuple(x.shape), (1,) * (rank - len(shape)) + tuple(shape)
    return x.expand([a if b == 1 else b for a, b in zip(current, wanted, strict=True)])


def _expand(operator: Operator) -> fx.Node:
    shape = operator.static_ints(1, "shape")
    return operator.refuse("shape is missing") if shape is None else operator.call(expand, operator.tensor(0), shape)


def pad(x: Tensor, pads: Sequence[int], axes: Sequence[int] | None, mode: str, value: float) -> Tensor:
    """Pad with a value, or by reflection or repetition of the border; negative pads crop (constant mode only)."""
    rank = x.dim()
    axes = range(rank) if axes is None else [axis % rank for axis in axes]
    ordered = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        ordered[2 * (rank - 1 - axis)] = pads[position]
        ordered[2 * (rank - 1 - axis) + 1] = pads[position + len(axes)]
    if mode == "constant":
        return F.pad(x, ordered, value=value)
    while ordered and ordered[-2:] == [0, 0]:
        del ordered[-2:]
    if not ordered:
        return x
    if len(ordered) > 2 * (rank - 2):  # torch pads at most all but two axes by these modes
        lead = max(0, len(ordered) // 2 + 2 - rank)
        return F.pad(x.reshape((1,) * lead + x.shape), ordered, mode=mode).squeeze(tuple(range(lead)))
    return F.pad(x, ordered, mode=mode)


def _pad(operator: Operator) -> fx.Node:
    mode = operator.text("mode", "constant")
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    if mode not in modes:
        operator.refuse(f"mode {mode[:32]!r} is not supported")
    pads, axes = operator.static_ints(1, "pads"), operator.static_ints(3, "axes")
    value = operator.static_float(2, "constant_value") or 0.0
    if pads is None or (axes is not None and len(pads) != 2 * len(axes)):
        operator.refuse("pads are missing or do not fit the axes")
    return operator.call(pad, operator.tensor(0), pads, axes, modes[mode], value)


def _cast(operator: Operator) -> fx.Node:
    kind = operator.integer("to", 0)
    operator.ignore("saturate", "round_mode")  # of 8-bit floats
    if kind not in _DTYPES:
        operator.refuse("only casts to a floating-point type of 16 bits or more are supported")
    return operator.call(torch.Tensor.to, operator.tensor(0), _DTYPES[kind])


def depth_to_space(x: Tensor, block: int, *, column_first: bool) -> Tensor:
    """Move channels into positions: mode CRD where `column_first`, else DCR."""
    n, c, h, w = x.shape
    if column_first:
        return F.pixel_shuffle(x, block)
    y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // block**2, h * block, w * block)


def _depth_to_space(operator: Operator) -> fx.Node:
    mode = operator.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        operator.refuse(f"mode {mode[:32]!r} is not supported")
    block = operator.integer("blocksize", 1)
    return operator.call(depth_to_space, operator.tensor(0), block, column_first=mode == "CRD")


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """Move positions into channels, the block's position before the channel."""
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * block**2, h // block, w // block)


def _space_to_depth(operator: Operator) -> fx.Node:
    return operator.call(space_to_depth, operator.tensor(0), operator.integer("blocksize", 1))


BUILDERS: dict[str, Builder] = {
    "Cast": _cast,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
