"""Folds shape arithmetic of an imported graph into constants and frees the batch that an exporter wrote into it.

Every shape is worked out for two batch sizes: what agrees is a constant, what follows the batch in the first place of a
Reshape becomes ONNX's 0 (keep that dimension).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nasmesh.limits import ADMISSION_INTEGERS
from nasmesh.model.geometry import Dims
from nasmesh.model.imported_graph import Workbench
from nasmesh.model.inference import node_label
from nasmesh.model.operators import OPERATORS, check_operator
from nasmesh.model.reasons import Reason, rejected
from nasmesh.model.shape_rules import SHAPE_RULES
from nasmesh.model.site import Site

_BATCHES = (7919, 7927)
_INTEGER_TYPES = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
Arrays = list[np.ndarray]


@dataclass(slots=True)
class _View:
    """The graph as it looks at one batch size: dims of values, and the integers that are known."""

    batch: int
    dims: dict[str, Dims] = field(default_factory=dict)
    integers: dict[str, np.ndarray] = field(default_factory=dict)


def fold_shapes(bench: Workbench, *, data: str, static_batch: int) -> None:
    """Rewrite the bench's nodes; `static_batch` is the batch that the file was exported with, 0 if it was free."""
    views = [_View(batch) for batch in _BATCHES]
    for view in views:
        _seed(view, bench, data)
    kept: list[onnx.NodeProto] = []
    for index, node in enumerate(bench.nodes):
        where = node_label(node, index)
        if _fold(node, views, where):
            continue
        if node.op_type == "Cast" and _casts_to_float(node):
            node.op_type = "Identity"
            del node.attribute[:]
        if node.op_type == "Reshape":
            _drop_allowzero(node)
        _settle(bench, node, views, static_batch)
        attributes = check_operator(node, where)
        for view in views:
            _advance(view, bench, node, attributes, where)
        kept.append(node)
    bench.nodes = kept


def _seed(view: _View, bench: Workbench, data: str) -> None:
    for value in bench.inputs:
        sizes = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        view.dims[value.name] = (view.batch, *sizes[1:]) if value.name == data else sizes
    for name, tensor in bench.tensors.items():
        view.dims[name] = tuple(tensor.dims)
        if tensor.data_type in _INTEGER_TYPES and int(np.prod(tensor.dims, dtype=object)) <= ADMISSION_INTEGERS:
            view.integers[name] = numpy_helper.to_array(tensor)


def _fold(node: onnx.NodeProto, views: list[_View], where: str) -> bool:
    """Compute a node of shape arithmetic in every view; tell whether it was one."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Shape":
        for view in views:
            if node.input[0] not in view.dims:
                return False
            window = slice(attributes.get("start", 0), attributes.get("end"))
            view.integers[node.output[0]] = np.array(view.dims[node.input[0]], dtype=np.int64)[window]
        return True
    rule = _ARITHMETIC.get(node.op_type)
    known = all(name in view.integers for view in views for name in node.input if name)
    if rule is None or not node.input or not known:
        return False
    for view in views:
        operands = [view.integers[name] for name in node.input if name]
        try:
            result = np.asarray(rule(operands, attributes))
        except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):
            raise rejected(Reason.GRAPH_INVALID, "shape arithmetic that does not work out", where=where) from None
        if result.size > ADMISSION_INTEGERS or result.dtype.kind not in "iu":
            raise rejected(Reason.GRAPH_INVALID, "shape arithmetic that is too large", where=where)
        view.integers[node.output[0]] = result
    return True


def _settle(bench: Workbench, node: onnx.NodeProto, views: list[_View], static_batch: int) -> None:
    """Give a node constants where it would take computed shapes, and free the batch in a Reshape."""
    for position in OPERATORS[node.op_type].constants if node.op_type in OPERATORS else ():
        name = node.input[position] if position < len(node.input) else ""
        if not name or name not in views[0].integers:
            continue
        value = views[0].integers[name]
        if node.op_type == "Reshape":
            value = _batch_free(node, name, views, static_batch)
        elif not np.array_equal(value, views[1].integers[name]):
            continue  # inference says so by name
        if name not in bench.tensors or not np.array_equal(value, views[0].integers[name]):
            fresh = f"{node.output[0]}.constant{position}"
            bench.tensors[fresh] = numpy_helper.from_array(value.astype(np.int64), fresh)
            node.input[position] = fresh
            for view in views:
                view.integers[fresh], view.dims[fresh] = value, value.shape


def _batch_free(node: onnx.NodeProto, name: str, views: list[_View], static_batch: int) -> np.ndarray:
    first, second = (view.integers[name] for view in views)
    before = views[0].dims.get(node.input[0], ())
    value = first.copy()
    if value.ndim != 1 or not value.size or not before or before[0] != views[0].batch:
        return value
    follows = first[0] != second[0] or (static_batch and first[0] == static_batch)
    rest_agrees = np.array_equal(first[1:], second[1:])
    if follows and rest_agrees:
        value[0] = 0
    return value


def _drop_allowzero(node: onnx.NodeProto) -> None:
    """Exporters set allowzero though no dimension is zero; a shape with a zero then fails by the products."""
    kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
    fresh = onnx.NodeProto()
    fresh.attribute.extend(kept)
    del node.attribute[:]
    node.attribute.extend(fresh.attribute)


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT for attribute in node.attribute)


def _advance(view: _View, bench: Workbench, node: onnx.NodeProto, attributes: dict[str, object], where: str) -> None:
    for name in node.input:
        if name and name not in view.dims:
            message = f"{node.op_type} computes with shapes or with an unknown value {name[:60]!r}"
            raise rejected(Reason.SHAPE_UNKNOWN, message, where=where)
    inputs = [view.dims[name] if name else None for name in node.input]
    constants = [_constant(view, bench, name) for name in node.input]
    site = Site(node, where, bench.opset, attributes, inputs, constants)
    for name, dims in zip(node.output, SHAPE_RULES[node.op_type](site), strict=False):
        view.dims[name] = dims


def _constant(view: _View, bench: Workbench, name: str) -> np.ndarray | None:
    if name in view.integers:
        return view.integers[name]
    tensor = bench.tensors.get(name)
    return numpy_helper.to_array(tensor) if tensor is not None and not tensor.dims else None


def _axes(operands: Arrays) -> tuple[int, ...]:
    return tuple(int(axis) for axis in operands[1]) if len(operands) > 1 else (0,)


def _slice(operands: Arrays, _: dict[str, object]) -> np.ndarray:
    start, end = int(operands[1][0]), int(operands[2][0])
    step = int(operands[4][0]) if len(operands) > 4 else 1
    return operands[0][slice(start, end, step)]


_ARITHMETIC: dict[str, Callable[[Arrays, dict[str, object]], np.ndarray]] = {
    "Gather": lambda v, _: np.take(v[0], v[1], axis=0),
    "Unsqueeze": lambda v, _: np.expand_dims(v[0], _axes(v)),
    "Squeeze": lambda v, _: np.squeeze(v[0], _axes(v)),
    "Concat": lambda v, _: np.concatenate([part.astype(np.int64) for part in v]),
    "Slice": _slice,
    "Cast": lambda v, a: v[0].astype(np.int64) if a.get("to") in _INTEGER_TYPES else np.zeros(0),
    "Identity": lambda v, _: v[0],
    "Add": lambda v, _: v[0] + v[1],
    "Sub": lambda v, _: v[0] - v[1],
    "Mul": lambda v, _: v[0] * v[1],
    "Div": lambda v, _: v[0] // v[1],
    "Reshape": lambda v, _: v[0].reshape([int(size) for size in v[1]]),
}
