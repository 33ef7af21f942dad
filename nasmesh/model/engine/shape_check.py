"""Runs a network on shapes alone: no memory, no arithmetic. Finds what ONNX's checker and shape inference pass over."""

from typing import Any

import onnx
import torch
from torch import fx

from nasmesh.model import initializers
from nasmesh.model.engine.convert import to_module
from nasmesh.model.engine.elementwise import UNARY
from nasmesh.model.engine.modules import BatchNorm
from nasmesh.model.reasons import Reason, rejected

_BATCH = 2


_KEEP_SHAPE = frozenset(UNARY.values())


class _Tracer(fx.Interpreter):
    """Runs a graph node by node and remembers where it is.

    torch's meta kernels of batch norm and activations are Python and take milliseconds each; what keeps its input's
    shape is not called.
    """

    at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[0] if target in _KEEP_SHAPE else super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(self.fetch_attr(target), BatchNorm):
            return super().call_module(target, args, kwargs)
        x, *parts = args
        for part in parts:
            if part is not None and tuple(part.shape) != tuple(x.shape[1:2]):
                raise ValueError(f"batch norm of {list(x.shape)} has a tensor of shape {list(part.shape)}")
        return x


def meta_check(model: onnx.ModelProto) -> tuple[int, ...]:
    """Return the output's shape without its batch axis, by a forward on the meta device.

    Raises Rejected: SHAPE_MISMATCH naming the value whose computation fails, SHAPE_UNKNOWN where the data input's dims
    are not fixed, and all that `to_module` raises.
    """
    module = to_module(model, seed=None, device="meta").eval()
    name = initializers.data_inputs(model)[0]
    proto = next(value for value in model.graph.input if value.name == name)
    dims = [dim.dim_value for dim in proto.type.tensor_type.shape.dim]
    if not dims or min(dims[1:], default=1) < 1:
        raise rejected(Reason.SHAPE_UNKNOWN, "all dims but the batch must be fixed numbers", where=name)
    tracer = _Tracer(module)
    tracer.extra_traceback = False
    try:
        with torch.no_grad():
            output = tracer.run(torch.empty([dims[0] or _BATCH, *dims[1:]], device="meta"))
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        names = {node: value for value, node in module.meta["values"].items()}
        where = names.get(tracer.at, tracer.at)
        text = " ".join(str(error).split())[:300]
        raise rejected(Reason.SHAPE_MISMATCH, f"shapes do not fit: {text}", where=where) from error
    logits = output[0] if isinstance(output, tuple) else output
    return tuple(logits.shape[1:]) if isinstance(logits, torch.Tensor) else ()
