"""Shape rules of the operators that only move, cut and reduce."""

import math

from nasmesh.model.geometry import Dims
from nasmesh.model.site import ShapeRule, Site


def _concat(site: Site) -> list[Dims]:
    first = site.dims(0)
    axis = site.axis(len(first), 0)
    total = 0
    for position in range(len(site.inputs)):
        dims = site.dims(position)
        if len(dims) != len(first) or dims[:axis] + dims[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise site.fail(f"{first} and {dims} differ outside axis {axis}")
        total += dims[axis]
    return [(*first[:axis], total, *first[axis + 1 :])]


def _split(site: Site) -> list[Dims]:
    dims = site.dims(0)
    axis = site.axis(len(dims), 0)
    count = len(site.node.output)
    sizes = site.integers(1)
    if len(site.inputs) > 1 and "num_outputs" in site.attributes:
        raise site.fail("both sizes and num_outputs are given")
    if sizes is None and site.opset >= 18 and "num_outputs" not in site.attributes:
        raise site.fail("give sizes or num_outputs")
    if site.integer("num_outputs", count) != count:
        raise site.fail(f"num_outputs is not the number of outputs, {count}")
    if sizes is None:
        part = -(-dims[axis] // count)
        sizes = [part] * (count - 1) + [dims[axis] - part * (count - 1)]
    if len(sizes) != count or sum(sizes) != dims[axis] or min(sizes) < 1:
        raise site.fail(f"{dims[axis]} does not split into {sizes[:8]}")
    return [(*dims[:axis], size, *dims[axis + 1 :]) for size in sizes]


def _slice(site: Site) -> list[Dims]:
    dims = list(site.dims(0))
    starts, ends = site.integers(1) or [], site.integers(2) or []
    axes = site.integers(3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = site.integers(4)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise site.fail("starts, ends, axes and steps differ in length")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        position = site.position(axis, len(dims))
        if position == 0:
            raise site.fail("the batch may not be cut")
        if step < 1:
            raise site.fail("steps must be positive")
        dims[position] = len(range(*slice(start, end, step).indices(dims[position])))
    return [tuple(dims)]


def _reshape(site: Site) -> list[Dims]:
    dims, wanted = site.dims(0), site.integers(1) or []
    if any(size == 0 and position >= len(dims) for position, size in enumerate(wanted)) or min(wanted, default=0) < -1:
        raise site.fail(f"shape {wanted[:8]} for {dims}")
    result = [dims[position] if size == 0 else size for position, size in enumerate(wanted)]
    total = math.prod(dims)
    if result.count(-1) == 1:
        rest = math.prod(size for size in result if size != -1)
        result[result.index(-1)] = total // rest if rest and total % rest == 0 else -1
    if -1 in result or math.prod(result) != total:
        raise site.fail(f"{dims} cannot become {wanted[:8]}")
    return [tuple(result)]


def _flatten(site: Site) -> list[Dims]:
    dims = site.dims(0)
    axis = site.integer("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    if not 0 <= axis <= len(dims):
        raise site.fail(f"axis {axis} of rank {len(dims)}")
    return [(math.prod(dims[:axis]), math.prod(dims[axis:]))]


def _squeeze(site: Site) -> list[Dims]:
    dims, axes = site.dims(0), site.integers(1)
    if axes is None:
        raise site.fail("name the axes, or a batch of one would vanish")
    gone = {site.position(axis, len(dims)) for axis in axes}
    if any(dims[position] != 1 for position in gone):
        raise site.fail(f"axes {axes} of {dims} are not of size 1")
    return [tuple(size for position, size in enumerate(dims) if position not in gone)]


def _unsqueeze(site: Site) -> list[Dims]:
    dims, axes = site.dims(0), site.integers(1) or []
    rank = len(dims) + len(axes)
    added = {site.position(axis, rank) for axis in axes}
    if len(added) != len(axes):
        raise site.fail(f"axes {axes} repeat")
    rest = iter(dims)
    return [tuple(1 if position in added else next(rest) for position in range(rank))]


def _transpose(site: Site) -> list[Dims]:
    dims = site.dims(0)
    order = site.ints("perm", list(range(len(dims)))[::-1])
    if sorted(order) != list(range(len(dims))):
        raise site.fail(f"perm {order} for {dims}")
    return [tuple(dims[position] for position in order)]


def _pad(site: Site) -> list[Dims]:
    dims, pads = site.dims(0), site.integers(1) or []
    axes = site.integers(3)
    axes = list(range(len(dims))) if axes is None else [site.position(axis, len(dims)) for axis in axes]
    if len(pads) != 2 * len(axes) or not all(0 <= pad <= 512 for pad in pads) or len(set(axes)) != len(axes):
        raise site.fail(f"pads {pads[:12]} for {dims}; use 0 to 512")
    result = list(dims)
    for number, axis in enumerate(axes):
        before, after = pads[number], pads[number + len(axes)]
        if axis == 0 and before + after:
            raise site.fail("the batch may not be padded")
        if site.attributes.get("mode") == "reflect" and max(before, after) >= dims[axis]:
            raise site.fail("reflection is wider than the tensor")
        result[axis] += before + after
    return [tuple(result)]


def _reduce(site: Site) -> list[Dims]:
    dims = site.dims(0)
    given = site.attributes.get("axes")
    axes = [int(axis) for axis in given] if isinstance(given, list | tuple) else site.integers(1)
    if not axes:
        if site.integer("noop_with_empty_axes", 0):
            return [dims]
        raise site.fail("name the axes, so that the batch stays")
    gone = {site.position(axis, len(dims)) for axis in axes}
    if site.integer("keepdims", 1):
        return [tuple(1 if position in gone else size for position, size in enumerate(dims))]
    return [tuple(size for position, size in enumerate(dims) if position not in gone)]


LAYOUT_RULES: dict[str, ShapeRule] = {
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Pad": _pad,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
}
