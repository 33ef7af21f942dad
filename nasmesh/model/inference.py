"""Shapes of every value of an ONNX graph in plain Python integers, by rules of our own.

onnx's checker and shape inference accept a convolution whose channels do not fit; these rules do not. Nothing is
computed from data: inputs that carry shapes must be constants.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from nasmesh.limits import ADMISSION_DIM, ADMISSION_INTEGERS, ADMISSION_RANK
from nasmesh.model.geometry import Dims
from nasmesh.model.initializers import STATISTICS, Interface, statistic_names
from nasmesh.model.operators import OPERATORS, check_operator
from nasmesh.model.reasons import Reason, rejected
from nasmesh.model.shape_rules import SHAPE_RULES
from nasmesh.model.site import ShapeRule, Site
from nasmesh.model.tensors import check_tensor, constant_of


def infer_dims(model: onnx.ModelProto, batch: int) -> dict[str, Dims]:
    """Return the dims of every value when the data input's first dimension is `batch`.

    Raises Rejected naming the node: SHAPE_MISMATCH, SHAPE_UNKNOWN, and what the operator allow-list raises.
    """
    return Inference.of(model, Interface.of(model), check_operators(model)).dims(batch)


Attributes = dict[str, object]


def check_operators(model: onnx.ModelProto) -> list[Attributes]:
    """Return the attributes of every node; raises what the operator allow-list raises."""
    return [check_operator(node, node_label(node, index)) for index, node in enumerate(model.graph.node)]


@dataclass(frozen=True, slots=True)
class _Step:
    """One node with what its shape rule may look at and does not depend on the batch."""

    node: onnx.NodeProto
    where: str
    inputs: list[str]
    outputs: list[str]
    attributes: Attributes
    constants: list[np.ndarray | None]
    rule: ShapeRule


@dataclass(frozen=True, slots=True)
class Inference:
    """A model made ready for inference at any batch: what does not depend on the batch is worked out once."""

    model: onnx.ModelProto
    interface: Interface
    fixed: dict[str, Dims]
    steps: list[_Step]
    opset: int

    @classmethod
    def of(cls, model: onnx.ModelProto, interface: Interface, attributes: list[Attributes]) -> "Inference":
        """Read the constants and check what kinds of values meet; raises Rejected."""
        fixed: dict[str, Dims] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        fixed.update(interface.dims)
        constants = _constants(model, interface.dims)
        floats = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
        floats.update(
            value.name for value in model.graph.input if value.name not in fixed or value.name in interface.dims
        )
        known = {*fixed, *interface.data}
        _check_statistics(model, known)
        steps: list[_Step] = []
        for index, (node, given) in enumerate(zip(model.graph.node, attributes, strict=True)):
            operator = node.op_type
            if operator == "Constant":
                tensor = constant_of(node)
                constants[tensor.name], fixed[tensor.name] = numpy_helper.to_array(tensor), tuple(tensor.dims)
                if tensor.data_type == onnx.TensorProto.FLOAT:
                    floats.add(tensor.name)
                known.add(tensor.name)
                continue
            where = node_label(node, index)
            inputs, outputs = list(node.input), list(node.output)
            for name in inputs:
                if name and name not in known:
                    raise rejected(Reason.GRAPH_INVALID, f"input {name[:80]!r} is not known here", where=where)
            _check_kinds(operator, inputs, where, constants, floats)
            floats.update(outputs)
            known.update(outputs)
            values = [constants.get(name) for name in inputs]
            steps.append(_Step(node, where, inputs, outputs, given, values, SHAPE_RULES[operator]))
        opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        return cls(model, interface, fixed, steps, opset)

    def dims(self, batch: int) -> dict[str, Dims]:
        """Return the dims of every value at a batch; raises Rejected naming the node."""
        known = {**self.fixed, **_data_dims(self.model, self.interface, batch)}
        _check_leaves(known)
        most = ADMISSION_DIM * max(batch, 1)
        for step in self.steps:
            inputs = [known[name] if name else None for name in step.inputs]
            site = Site(step.node, step.where, self.opset, step.attributes, inputs, step.constants)
            for name, dims in zip(step.outputs, step.rule(site), strict=False):
                # Rows may count batch times positions, as attention's do; the limit is per sample.
                if len(dims) > ADMISSION_RANK or (dims and not 0 < min(dims) <= max(dims) <= most):
                    message = f"an output of dims {dims}; use rank <= {ADMISSION_RANK}, sizes 1 to {ADMISSION_DIM}"
                    raise rejected(Reason.VALUE_OUT_OF_RANGE, message, where=step.where)
                known[name] = dims
        return known


def node_label(node: onnx.NodeProto, index: int) -> str:
    """Return what to call a node in an error: its name, or its operator and position."""
    return node.name or f"{node.op_type}#{index}"


def _check_kinds(
    operator: str, inputs: list[str], where: str, constants: dict[str, np.ndarray], floats: set[str]
) -> None:
    """Refuse computed values where constants must be, and integers where numbers are computed with."""
    fixed = OPERATORS[operator].constants
    for position, name in enumerate(inputs):
        if not name:
            continue
        if position in fixed:
            if name not in constants:
                message = f"{operator}: input {position} must be a constant, so that shapes do not come from data"
                raise rejected(Reason.SHAPE_UNKNOWN, message, where=where)
        elif name not in floats:
            message = f"{operator}: input {position} must be float32"
            raise rejected(Reason.TENSOR_TYPE, message, where=where)


def _check_statistics(model: onnx.ModelProto, leaves: set[str]) -> None:
    """Refuse running statistics that are computed, or that are anything else as well: nothing could train them."""
    statistics = statistic_names(model)
    if not statistics:
        return
    for index, node in enumerate(model.graph.node):
        is_norm = node.op_type == "BatchNormalization"
        for position, name in enumerate(node.input):
            if name not in statistics:
                continue
            if name not in leaves or not (is_norm and position in STATISTICS):
                message = f"{name[:80]!r} is a running statistic of batch norm; it may be nothing else"
                raise rejected(Reason.GRAPH_INVALID, message, where=node_label(node, index))


def _data_dims(model: onnx.ModelProto, interface: Interface, batch: int) -> dict[str, Dims]:
    known: dict[str, Dims] = {}
    for value in model.graph.input:
        if value.name not in interface.data:
            continue
        sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in value.type.tensor_type.shape.dim]
        if len(sizes) < 2 or not all(size > 0 for size in sizes[1:]):
            message = "the data input needs fixed dimensions, all but the batch"
            raise rejected(Reason.SHAPE_UNKNOWN, message, where=value.name)
        known[value.name] = (batch, *sizes[1:])
    return known


def _check_leaves(known: dict[str, Dims]) -> None:
    for name, dims in known.items():
        if len(dims) > ADMISSION_RANK or (dims and not 0 <= min(dims) <= max(dims) <= ADMISSION_DIM):
            message = f"dims {dims[:8]}; use rank <= {ADMISSION_RANK}, sizes up to {ADMISSION_DIM}"
            raise rejected(Reason.VALUE_OUT_OF_RANGE, message, where=name)


def _constants(model: onnx.ModelProto, trained: dict[str, Dims]) -> dict[str, np.ndarray]:
    """Return the values of small constants; large ones can be no shape."""
    small = [t for t in model.graph.initializer if t.name not in trained and math.prod(t.dims) <= ADMISSION_INTEGERS]
    for tensor in small:
        check_tensor(tensor, tensor.name)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in small}
