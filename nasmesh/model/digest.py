"""Structural identity: a name for what a network computes, whatever its values, nodes and weights are called.

The digest is the hash of a canonical listing of the graph. Labels that depend on nothing but structure are refined from
both ends (Weisfeiler and Leman 1968); then nodes are numbered depth first from the output, operands of commutative
operators in the order of their labels. Equal digests mean isomorphic graphs. Where symmetric parts share weights
crosswise, one network may have two digests, which costs a missed duplicate and never a false one.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nasmesh.model.initializers import Interface
from nasmesh.model.metadata import PREPROCESSING_KEY, metadata_value

COMMUTATIVE = frozenset({"Add", "Mul", "Sum", "Max", "Min", "Mean"})
_PLAIN_PREPROCESSING = '{"layout":"NCHW","mean":[],"per_image":false,"std":[]}'
_WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})
_REFINEMENTS = 3
_CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str  # operator with normalised attributes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    commutative: bool


def structural_digest(model: onnx.ModelProto, interface: Interface | None = None) -> str:
    """Return 64 hex characters that name the network's structure.

    Independent of names, of the order of nodes and of commutative operands, of weights, init rules, Identity nodes and
    dead nodes; depends on operators, attributes, shapes, constants, sharing, operand order elsewhere (concatenation)
    and preprocessing. A network with and without weights has the same digest.
    """
    nodes, aliases = _nodes(model)
    leaves = _leaves(model, interface or Interface.of(model))
    outputs = [_resolve(value.name, aliases) for value in model.graph.output]
    live = _live(nodes, outputs)
    # Labels only order the operands of commutative operators; where there are none, nobody would look at them.
    is_ordered = not any(node.commutative and len(set(node.inputs)) > 1 for node in live)
    labels = {} if is_ordered else _refine(live, dict(leaves), outputs)
    listing = _listing(live, leaves, labels, outputs)
    preprocessing = metadata_value(model, PREPROCESSING_KEY) or _PLAIN_PREPROCESSING
    return _hash(["nasmesh-structure-1", repr(preprocessing), *listing])


def _hash(parts: Iterable[str]) -> str:
    # The parts hold no NUL: they are hashes and printed attributes.
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _resolve(name: str, aliases: dict[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def _nodes(model: onnx.ModelProto) -> tuple[list[_Node], dict[str, str]]:
    """Return the nodes without Identity and Constant, and what each Identity's output stands for."""
    aliases: dict[str, str] = {}
    nodes: list[_Node] = []
    for node in model.graph.node:
        if node.op_type == "Identity":
            aliases[node.output[0]] = node.input[0]
        elif node.op_type != "Constant":
            inputs = tuple(_resolve(name, aliases) for name in node.input)
            kind = "Add" if node.op_type == "Sum" and len(inputs) == 2 else node.op_type
            nodes.append(_Node(kind + _attributes(node), inputs, tuple(node.output), node.op_type in COMMUTATIVE))
    return nodes, aliases


def _attributes(node: onnx.NodeProto) -> str:
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in _WINDOWED:
        _drop_window_defaults(node.op_type, values)
    for name, default in _defaults(node.op_type).items():
        if values.get(name) == default:
            del values[name]
    shown = []
    for name, value in sorted(values.items()):
        if isinstance(value, onnx.TensorProto):
            value = _constant_label(value)
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        shown.append(f"{name}={list(value) if is_list else value!r}")
    return "(" + ",".join(shown) + ")"


@functools.cache
def _defaults(op_type: str) -> dict[str, object]:
    """Return what ONNX assumes for absent attributes: stating a default is the same as leaving it out."""
    try:
        schema = onnx.defs.get_schema(op_type)
    except onnx.defs.SchemaError:
        return {}
    stated = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    return {name: helper.get_attribute_value(value) for name, value in stated.items() if value.name}


def _drop_window_defaults(op_type: str, values: dict[str, object]) -> None:
    """Drop the list attributes whose defaults depend on the rank, and a kernel size that the weight's dims say."""
    for name in ("strides", "dilations", "pads"):
        given = values.get(name)
        if isinstance(given, Sequence) and set(given) == {0 if name == "pads" else 1}:
            del values[name]
    if "Conv" in op_type:
        values.pop("kernel_shape", None)


def _leaves(model: onnx.ModelProto, interface: Interface) -> dict[str, str]:
    """Return a label for every value that no node computes."""
    result = {"": f"{_CONSTANT} absent"}
    for value in model.graph.input:
        if value.name in interface.data:
            sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
            result[value.name] = f"data{sizes}"
    trained = interface.dims
    for tensor in model.graph.initializer:
        if tensor.name not in trained:
            result[tensor.name] = _constant_label(tensor)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute:
            value = helper.get_attribute_value(node.attribute[0])
            is_tensor = isinstance(value, onnx.TensorProto)
            result[node.output[0]] = _constant_label(value if is_tensor else numpy_helper.from_array(np.array(value)))
    for name, dims in trained.items():
        result[name] = f"parameter{list(dims)}"
    return result


def _constant_label(tensor: onnx.TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    return f"{_CONSTANT} {array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _live(nodes: list[_Node], outputs: list[str]) -> list[_Node]:
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _refine(nodes: list[_Node], labels: dict[str, str], outputs: list[str]) -> dict[str, str]:
    """Return labels of all values: each round looks down to the leaves, then up to the output."""
    for position, name in enumerate(outputs):
        labels.setdefault(name, "")
        labels[name] = _hash([labels[name], f"output{position}"])
    for _ in range(_REFINEMENTS):
        for node in nodes:
            below = [labels[name] for name in node.inputs]
            own = _hash([node.kind, *(sorted(below) if node.commutative else below)])
            for position, name in enumerate(node.outputs):
                labels[name] = _hash([labels.get(name, ""), own, str(position)])
        above: dict[str, list[str]] = {}
        for node in reversed(nodes):
            for name in node.outputs:
                labels[name] = _hash([labels[name], *sorted(above.get(name, []))])
            own = _hash([node.kind, *(labels[name] for name in node.outputs)])
            for position, name in enumerate(node.inputs):
                slot = "*" if node.commutative else str(position)
                above.setdefault(name, []).append(_hash([own, slot]))
        made = {name for node in nodes for name in node.outputs}
        for name in above:
            if name not in made and not labels[name].startswith(_CONSTANT):
                labels[name] = _hash([labels[name], *sorted(above[name])])
    return labels


def _listing(nodes: list[_Node], leaves: dict[str, str], labels: dict[str, str], outputs: list[str]) -> list[str]:
    """Return the canonical text lines: every leaf and node once, numbered as met from the output."""
    producer = {name: node for node in nodes for name in node.outputs}
    numbers: dict[str, int] = {}
    lines: list[str] = []
    stack = [(name, False) for name in reversed(outputs)]
    while stack:
        name, done = stack.pop()
        if name in numbers:
            continue
        node = producer.get(name)
        if leaves.get(name, "").startswith(_CONSTANT):
            continue  # named by value where it is used: whether two constants are stored once is no structure
        if node is None:
            numbers[name] = len(numbers)
            lines.append(leaves.get(name, "missing"))
        elif not done:
            stack.append((name, True))
            stack.extend((source, False) for source in reversed(_ordered(node, labels)))
        else:
            operands = [numbers.get(source, leaves.get(source)) for source in _ordered(node, labels)]
            lines.append(f"{node.kind} {operands}")
            for output in node.outputs:
                numbers[output] = len(numbers)
    lines.append(f"outputs {[numbers.get(name, leaves.get(name)) for name in outputs]}")
    return lines


def _ordered(node: _Node, labels: dict[str, str]) -> list[str]:
    if not node.commutative or not labels:
        return list(node.inputs)
    return sorted(node.inputs, key=labels.__getitem__)
