"""Rewrites of an imported graph that keep its meaning: constants, identities, inference form, dead nodes."""

from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import TypeVar

import onnx

from nasmesh.model.operators import check_operator
from nasmesh.model.reasons import Reason, rejected
from nasmesh.model.tensors import check_tensor, constant_of

_Proto = TypeVar("_Proto", onnx.TensorProto, onnx.ValueInfoProto, onnx.NodeProto)


@dataclass(slots=True)
class Workbench:
    """A graph taken apart.

    nodes: in order. tensors: by name. inputs: those that have no tensor. output: its name. lifted: names of the tensors
    that were Constant nodes.
    """

    nodes: list[onnx.NodeProto]
    tensors: dict[str, onnx.TensorProto]
    inputs: list[onnx.ValueInfoProto]
    output: str
    opset: int
    lifted: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "Workbench":
        """Copy a model's graph onto the bench, without documentation."""
        tensors = {}
        for tensor in model.graph.initializer:
            check_tensor(tensor, tensor.name)
            tensors[tensor.name] = _copy(onnx.TensorProto(), tensor)
        inputs = [_copy(onnx.ValueInfoProto(), value) for value in model.graph.input if value.name not in tensors]
        nodes = [_copy(onnx.NodeProto(), node) for node in model.graph.node]
        for node in nodes:
            if not node.output or (not node.input and node.op_type != "Constant"):
                raise rejected(Reason.GRAPH_INVALID, f"{node.op_type} without inputs or outputs", where=node.name)
        for proto in (*tensors.values(), *inputs, *nodes):
            proto.ClearField("doc_string")
        for node in nodes:
            node.ClearField("metadata_props")
        opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        return cls(nodes, tensors, inputs, model.graph.output[0].name, opset)

    def rename(self, old: str, new: str) -> None:
        """Call a value something else everywhere."""
        for node in self.nodes:
            _replace(node.input, old, new)
            _replace(node.output, old, new)
        for value in self.inputs:
            value.name = new if value.name == old else value.name
        if old in self.tensors:
            self.tensors = {(new if name == old else name): tensor for name, tensor in self.tensors.items()}
            self.tensors[new].name = new
        if old in self.lifted:
            self.lifted = self.lifted - {old} | {new}
        self.output = new if self.output == old else self.output

    def names(self) -> set[str]:
        """Return the names of all values."""
        made = {name for node in self.nodes for name in node.output if name}
        return made | set(self.tensors) | {value.name for value in self.inputs}


def _copy(target: _Proto, source: _Proto) -> _Proto:
    target.CopyFrom(source)
    return target


def _replace(names: MutableSequence[str], old: str, new: str) -> None:
    for position, name in enumerate(names):
        if name == old:
            names[position] = new


def lift_constants(bench: Workbench) -> None:
    """Turn Constant nodes into tensors."""
    kept = []
    for node in bench.nodes:
        if node.op_type != "Constant":
            kept.append(node)
            continue
        check_operator(node, node.name or node.output[0])
        tensor = constant_of(node)
        tensor.ClearField("doc_string")
        check_tensor(tensor, tensor.name)
        if tensor.name in bench.tensors:
            raise rejected(Reason.NAME_DUPLICATE, "two values have this name", where=tensor.name)
        bench.tensors[tensor.name] = tensor
        bench.lifted.add(tensor.name)
    bench.nodes = kept


def untie_identities(bench: Workbench) -> None:
    """Copy a tensor where an Identity node gives it a second name.

    An exporter that merges equal initial values (all batch norms' ones) this way would tie unrelated parameters.
    """
    kept = []
    for node in bench.nodes:
        source = bench.tensors.get(node.input[0]) if node.op_type == "Identity" and len(node.input) == 1 else None
        if source is None:
            kept.append(node)
            continue
        tensor = _copy(onnx.TensorProto(), source)
        tensor.name = node.output[0]
        bench.tensors[tensor.name] = tensor
        if source.name in bench.lifted:
            bench.lifted.add(tensor.name)
    bench.nodes = kept


def inference_form(bench: Workbench) -> None:
    """Take batch norm and dropout out of training form: the trainer decides, not the file."""
    used = {name for node in bench.nodes for name in node.input} | {bench.output}
    for node in bench.nodes:
        if node.op_type not in ("BatchNormalization", "Dropout"):
            continue
        if any(name in used for name in node.output[1:]):
            message = f"{node.op_type}: a further output is used"
            raise rejected(Reason.ATTRIBUTE_NOT_ALLOWED, message, where=node.name or node.op_type)
        del node.output[1:]
        if node.op_type == "Dropout":
            del node.input[2:]
        for attribute in node.attribute:
            if attribute.name == "training_mode":
                attribute.i = 0


def drop_dead(bench: Workbench) -> None:
    """Remove nodes, tensors and parameter inputs that the output does not need; a data input stays."""
    needed = {bench.output}
    kept = []
    for node in reversed(bench.nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    bench.nodes = kept[::-1]
    bench.tensors = {name: tensor for name, tensor in bench.tensors.items() if name in needed}
    bench.inputs = [value for value in bench.inputs if value.name in needed]
