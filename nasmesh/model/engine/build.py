"""The half-built fx graph, and one ONNX node as the operator table sees it: inputs, attributes, and how to refuse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import fx, nn

from nasmesh.errors import Rejected
from nasmesh.model.engine import modules

Array = npt.NDArray[np.generic]


@dataclass(slots=True)
class Build:
    """What is known while a graph is converted, node by node."""

    graph: fx.Graph
    root: modules.Scope
    opset: int
    device: str
    # Values known before the network runs: integer and marked-constant initialisers, and Constant nodes.
    constants: dict[str, Array]
    # Attribute path of every parameter and running statistic that exists.
    paths: dict[str, str]
    # Shapes of parameters; the batch-dependent values have none here.
    shapes: dict[str, tuple[int, ...]]
    # How many live nodes and outputs read a value.
    uses: Mapping[str, int]
    values: dict[str, fx.Node] = field(default_factory=dict)

    def tensor(self, name: str) -> fx.Node | None:
        """Return the fx node of an ONNX value, reading state and constants on first use; None where there is none."""
        known = self.values.get(name)
        if known is not None:
            return known
        if name in self.paths:
            path = self.paths[name]
        elif name in self.constants:
            constant = torch.from_numpy(np.array(self.constants[name]))
            path = modules.place_constant(self.root, constant.to(self.device))
        else:
            return None
        node = self.graph.create_node("get_attr", path, name=name)
        self.values[name] = node
        return node


class Operator:
    """One ONNX node while it is converted. Every attribute must be read: one that nobody reads is refused."""

    __slots__ = ("_attributes", "_build", "label", "node", "op")

    def __init__(self, build: Build, node: onnx.NodeProto) -> None:
        """Read the node's attributes."""
        self._build = build
        self.node = node
        self.op = node.op_type
        self.label = node_label(node)
        self._attributes = {attribute.name: attribute for attribute in node.attribute}

    @property
    def opset(self) -> int:
        """Return the version of ONNX's operator set that gives this node its meaning."""
        return self._build.opset

    @property
    def count(self) -> int:
        """Return how many inputs are written, optional empty ones included."""
        return len(self.node.input)

    # --- inputs ---------------------------------------------------------------------------------------------------
    def has(self, index: int) -> bool:
        """Return whether the input is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def tensor(self, index: int) -> fx.Node:
        """Return an input that must be there."""
        found = self._build.tensor(self.node.input[index]) if self.has(index) else None
        return self.refuse(f"input {index} is missing") if found is None else found

    def optional(self, index: int) -> fx.Node | None:
        """Return an input that may be left out."""
        return self.tensor(index) if self.has(index) else None

    def tensors(self) -> list[fx.Node]:
        """Return all inputs of a variadic operator."""
        return [self.tensor(index) for index in range(len(self.node.input))]

    def constant(self, index: int) -> Array | None:
        """Return an input's value where it is known before the network runs, else None."""
        return self._build.constants.get(self.node.input[index]) if self.has(index) else None

    def static(self, index: int, what: str) -> Array | None:
        """Return an optional input that must be known before the network runs; None where it is left out."""
        if not self.has(index):
            return None
        value = self.constant(index)
        return self.refuse(f"{what} must be a constant, not computed by the network") if value is None else value

    def static_ints(self, index: int, what: str) -> list[int] | None:
        """Return such an input as a list of integers."""
        value = self.static(index, what)
        return None if value is None else [int(item) for item in value.reshape(-1)]

    def static_float(self, index: int, what: str) -> float | None:
        """Return such an input as one number."""
        value = self.static(index, what)
        if value is None:
            return None
        return plain_number(value) if value.size == 1 else self.refuse(f"{what} must be one number")

    def shape(self, index: int) -> tuple[int, ...] | None:
        """Return an input's shape where it is a parameter or constant."""
        name = self.node.input[index]
        if name in self._build.constants:
            return self._build.constants[name].shape
        return self._build.shapes.get(name)

    # --- attributes -----------------------------------------------------------------------------------------------
    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self._attribute(name, onnx.AttributeProto.INT)
        return default if value is None else value.i

    def number(self, name: str, default: float) -> float:
        """Return a number attribute."""
        value = self._attribute(name, onnx.AttributeProto.FLOAT)
        return default if value is None else plain_number(np.asarray(value.f, dtype=np.float32))

    def text(self, name: str, default: str, *, keep: bool = False) -> str:
        """Return a text attribute; with `keep` it is still there for another reader."""
        value = self._attribute(name, onnx.AttributeProto.STRING)
        if keep and value is not None:
            self._attributes[name] = value
        return default if value is None else value.s.decode(errors="replace")

    def integers(self, name: str) -> list[int] | None:
        """Return a list attribute; None where it is left out."""
        value = self._attribute(name, onnx.AttributeProto.INTS)
        return None if value is None else list(value.ints)

    def ignore(self, *names: str) -> None:
        """Accept attributes that change nothing here."""
        for name in names:
            self._attributes.pop(name, None)

    def _attribute(self, name: str, kind: int) -> onnx.AttributeProto | None:
        value = self._attributes.pop(name, None)
        if value is not None and value.type != kind:
            self.refuse(f"attribute {name} has another type than ONNX gives it")
        return value

    # --- outputs --------------------------------------------------------------------------------------------------
    def call(self, function: Callable[..., object], *arguments: object, **named: object) -> fx.Node:
        """Add a function call, named after the node's first output."""
        return self._build.graph.create_node(
            "call_function",
            function,
            arguments,  # type: ignore[arg-type]
            named,  # type: ignore[arg-type]
            name=self.node.output[0],
        )

    def module(self, module: nn.Module, *arguments: fx.Node | None) -> fx.Node:
        """Add a call of a module that holds no tensors."""
        path = modules.place_operation(self._build.root, module, self.op)
        return self._build.graph.create_node("call_module", path, arguments, name=self.node.output[0])

    def replace(self, value: str, function: Callable[..., object], *arguments: object) -> fx.Node:
        """Add a call that does the work of an earlier node too, and drop that node; nobody else may read its value."""
        fused = self.call(function, *arguments)
        self._build.graph.erase_node(self._build.values.pop(value))
        return fused

    def uses(self, value: str) -> int:
        """Return how many nodes and outputs read an ONNX value."""
        return self._build.uses.get(value, 0)

    def only_first_output(self) -> None:
        """Refuse the node where anything reads another output than the first."""
        for position, name in enumerate(self.node.output[1:], start=1):
            if name and self.uses(name):
                self.refuse(f"output {position} is used, and only output 0 is supported")

    def finish(self) -> None:
        """Refuse the node where an attribute was not understood."""
        if self._attributes:
            self.refuse(f"attribute {sorted(self._attributes)[0]} is not supported")

    def refuse(self, why: str) -> NoReturn:
        """Raise Rejected (OP_NOT_ALLOWED) naming this node."""
        raise unsupported(self.op, self.label, why)


def unsupported(op: str, label: str, why: str) -> Rejected:
    """Return the refusal of an operator, attribute or form of input that the engine does not have."""
    return Rejected("OP_NOT_ALLOWED", f"node {label!r} ({op}): {why}", field=label, metadata={"op": op})


Builder = Callable[[Operator], "fx.Node | Sequence[fx.Node]"]


def plain_number(value: Array) -> float:
    """Return a single number as people mean it: the float32 nearest to 0.1 is 0.1, not 0.10000000149."""
    return float(str(value.reshape(-1)[0]))


def node_label(node: onnx.NodeProto) -> str:
    """Return how people find a node: its name, else its first output."""
    label = node.name or next((name for name in node.output if name), "") or node.op_type
    return label[:128]


def constant_of_node(node: onnx.NodeProto) -> Array:
    """Return the value of a Constant node; raises Rejected for sparse and text constants."""
    if len(node.attribute) == 1:
        attribute = node.attribute[0]
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(attribute), dtype=np.int64)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(attribute), dtype=np.float32)
    raise unsupported("Constant", node_label(node), "only dense numbers are supported")
