"""Reductions over axes: ONNX node → fx nodes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from nasmesh.model.engine.build import Builder, Operator

# ReduceSum takes its axes as an input from opset 13 on, the others from 18 on.
_AXES_INPUT = {"ReduceSum": 13}


def _product(x: Tensor, axes: Sequence[int], *, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


_REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "ReduceProd": lambda x, axes, keep: _product(x, axes, keep=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
}


def reduce(x: Tensor, kind: str, axes: Sequence[int] | None, *, keep: bool) -> Tensor:
    """Reduce over some axes, or over all where None."""
    rank = x.dim()
    resolved = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    return _REDUCE[kind](x, resolved, keep) if resolved or rank == 0 else x


def _reduce(operator: Operator) -> fx.Node:
    keep = bool(operator.integer("keepdims", 1))
    if operator.opset >= _AXES_INPUT.get(operator.op, 18):
        axes = operator.static_ints(1, "axes")
        if not axes and operator.integer("noop_with_empty_axes", 0):
            if operator.op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"):
                operator.refuse("noop_with_empty_axes is not supported for this operator")
            return operator.tensor(0)
        operator.ignore("noop_with_empty_axes")
    else:
        axes = operator.integers("axes")
    return operator.call(reduce, operator.tensor(0), operator.op, axes or None, keep=keep)


BUILDERS: dict[str, Builder] = dict.fromkeys(_REDUCE, _reduce)
