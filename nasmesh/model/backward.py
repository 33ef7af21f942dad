"""Counts what a training in PyTorch keeps of a network's forward pass until its backward pass, at batch 1.

What an operator keeps is what its derivative reads (torch's derivatives.yaml, and what nasmesh.model.engine calls for
it): a convolution its input, a normalisation its input, a ReLU its output, a maximum pool its input and where each
maximum was. A value that several operators keep is held once. Held against torch's own saved tensors in the tests.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import numpy_helper

from nasmesh.model.geometry import Dims
from nasmesh.model.initializers import Interface

_VIEWS = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"})
_COPIES = frozenset({"Reshape", "Flatten"})
_MASK = 0.25  # a byte for each number
_INDEX = 2.0  # eight bytes
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


@dataclass(frozen=True, slots=True)
class Kept:
    """Float32 numbers, or what takes as much: kept when the forward pass is done, and the most alive at once."""

    numbers: int
    peak: int


@dataclass(slots=True)
class _Trace:
    """What is held from where to where: places are positions in the order of nodes."""

    sizes: dict[str, int] = field(default_factory=dict)
    storage: dict[str, str] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    last_use: dict[str, int] = field(default_factory=dict)
    saved: dict[str, list[int]] = field(default_factory=dict)
    """The nodes that keep a value."""
    beside: dict[int, float] = field(default_factory=dict)
    """Numbers that a node keeps besides values of the graph."""
    workspace: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Node:
    """One node: inputs and outputs that are activations, "" for others; whether another input is trained; sizes."""

    op: str
    inputs: Sequence[str]
    trains: bool
    outputs: Sequence[str]
    proto: onnx.NodeProto
    sizes: Mapping[str, int]

    @property
    def n(self) -> int:
        """Numbers that it puts out."""
        return sum(self.sizes[name] for name in self.outputs)

    def pads(self) -> list[int]:
        """Return its padding: begin of every axis, then end of every axis; empty where it has none."""
        return next((list(a.ints) for a in self.proto.attribute if a.name == "pads"), [])


Saved = tuple[Sequence[str], float]
"""Values that a node keeps, and numbers besides."""


def kept(model: onnx.ModelProto, dims: Mapping[str, Dims], interface: Interface) -> Kept:
    """Return what one training sample takes, given the dims of every value at batch 1."""
    trace = _trace(model, dims, interface)
    numbers = sum(trace.sizes[name] for name in trace.saved) + sum(trace.beside.values())
    return Kept(math.ceil(numbers), math.ceil(max(_alive(trace, len(model.graph.node)), default=0.0)))


def _trace(model: onnx.ModelProto, dims: Mapping[str, Dims], interface: Interface) -> _Trace:
    trace = _Trace()
    given = set(interface.dims) | {tensor.name for tensor in model.graph.initializer}
    rates = {tensor.name: tensor for tensor in model.graph.initializer if math.prod(tensor.dims) == 1}
    uses = _uses(model)
    made_by: dict[str, onnx.NodeProto] = {}
    sizes = {name: math.prod(shape) for name, shape in dims.items()}
    for name in interface.data:
        _place(trace, name, sizes[name], -1)
    for place, node in enumerate(model.graph.node):
        if node.op_type == "Constant":
            given.update(node.output)
            continue
        made_by.update((name, node) for name in node.output)
        inputs = ["" if not name or name in given else name for name in node.input]
        outputs = [name for name in node.output if name in dims]
        if _is_view(node, dims, rates) and not inputs[0]:
            given.update(outputs)  # of what is given: as it lies there
            continue
        if _is_view(node, dims, rates):
            for name in outputs:
                trace.storage[name] = trace.storage[inputs[0]]
            _used(trace, inputs, place)
            continue
        for name in outputs:
            _place(trace, name, sizes[name], place)
        seen = _Node(
            op=node.op_type,
            inputs=inputs,
            trains=any(name in interface.dims for name in node.input),
            outputs=outputs,
            proto=node,
            sizes=sizes,
        )
        names, beside = _gate(seen, made_by, uses) or _RULES.get(node.op_type, _nothing)(seen)
        for name in names:
            if name:
                trace.saved.setdefault(trace.storage[name], []).append(place)
        if beside:
            trace.beside[place] = beside
        if node.op_type in _CONVOLUTIONS:
            trace.workspace[place] = sizes.get(inputs[0], 0) + seen.n
        _used(trace, inputs, place)
    for value in model.graph.output:
        if value.name in trace.storage:
            trace.last_use[trace.storage[value.name]] = len(model.graph.node)
    return trace


def _place(trace: _Trace, name: str, size: int, place: int) -> None:
    trace.sizes[name], trace.storage[name], trace.made[name] = size, name, place


def _used(trace: _Trace, inputs: Sequence[str], place: int) -> None:
    for name in inputs:
        if name:
            trace.last_use[trace.storage[name]] = place


def _uses(model: onnx.ModelProto) -> dict[str, int]:
    found: dict[str, int] = {value.name: 1 for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            found[name] = found.get(name, 0) + 1
    return found


def _is_view(node: onnx.NodeProto, dims: Mapping[str, Dims], rates: Mapping[str, onnx.TensorProto]) -> bool:
    """Say whether a node hands on the memory that it was given."""
    if node.op_type == "Dropout":
        ratio = rates.get(node.input[1]) if len(node.input) > 1 else None
        return ratio is not None and float(numpy_helper.to_array(ratio)) == 0.0
    if node.op_type in _COPIES:
        # Channels last, an image is copied where its positions become columns.
        return math.prod(dims[node.input[0]][2:]) == 1
    return node.op_type in _VIEWS


def _alive(trace: _Trace, nodes: int) -> Iterator[float]:
    """Yield how much is alive at each node, forward and backward.

    Forward: what is kept so far and what is still to be read. Backward: what has yet to be read, and the gradient of
    every value between those who read it and who made it; each is alive for as long as its value would be.
    """
    events: list[dict[str, float]] = [{"forward": 0.0, "backward": 0.0} for _ in range(nodes + 3)]

    def span(kind: str, first: int, last: int, numbers: float) -> None:
        events[first + 1][kind] += numbers
        events[last + 2][kind] -= numbers

    for name, size in trace.sizes.items():
        first, last = trace.made[name], trace.last_use.get(name, trace.made[name])
        savers = trace.saved.get(name, [])
        span("forward", first, nodes if savers else last, size)
        if first >= 0:
            span("backward", first, last, size)
        if savers:
            span("backward", min(savers), nodes, size)
    for place, numbers in trace.beside.items():
        span("forward", place, nodes, numbers)
        span("backward", place, nodes, numbers)
    for place, numbers in trace.workspace.items():
        span("backward", place, place, numbers)
    forward = backward = 0.0
    for event in events:
        forward += event["forward"]
        backward += event["backward"]
        yield max(forward, backward)


def _gate(node: _Node, made_by: Mapping[str, onnx.NodeProto], uses: Mapping[str, int]) -> Saved | None:
    """Return what x * sigmoid(x) keeps, which is computed as one: x alone. The sigmoid itself is then nobody's."""
    if node.op != "Mul" or len(node.inputs) != 2:
        return None
    for x, gate in (node.inputs, node.inputs[::-1]):
        maker = made_by.get(gate)
        if maker is not None and maker.op_type == "Sigmoid" and maker.input[0] == x and uses[gate] == 1:
            return (x,), 0.0
    return None


def _nothing(_: _Node) -> Saved:
    return (), 0.0


def _input(node: _Node) -> Saved:
    return node.inputs[:1], 0.0


def _output(node: _Node) -> Saved:
    return node.outputs[:1], 0.0


def _input_and_output(node: _Node) -> Saved:
    return (*node.inputs[:1], *node.outputs[:1]), 0.0


def _operands(node: _Node) -> Saved:
    return [name for name in node.inputs if name], 0.0


def _factors(node: _Node) -> Saved:
    """Each factor is kept for the other's gradient; a factor that is fixed has none."""
    names = [name for name in node.inputs if name]
    return (names if len(names) > 1 or node.trains else ()), 0.0


def _windowed(node: _Node) -> Saved:
    """A convolution keeps its input; where padding differs at both ends, a padded copy instead."""
    if not node.inputs[0]:
        return (), 0.0  # of what is given, nothing is kept
    pads = node.pads()
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        return (), node.sizes[node.inputs[0]] * (1 + sum(pads) / 8)  # no less than the padded size, from 8 positions on
    return _input(node)


def _max_pool(node: _Node) -> Saved:
    names, beside = _windowed(node)
    return names, beside + _INDEX * node.n


def _extreme(node: _Node) -> Saved:
    """Keep both sides of each comparison; with more than two inputs also what was found between."""
    names, _ = _operands(node)
    return names, float(max(0, len(node.inputs) - 2) * node.n)


def _plus(numbers: float, rule: Callable[[_Node], Saved]) -> Callable[[_Node], Saved]:
    """Return a rule that keeps so many numbers more for each that the node puts out."""

    def more(node: _Node) -> Saved:
        names, beside = rule(node)
        return names, beside + numbers * node.n

    return more


_RULES: dict[str, Callable[[_Node], Saved]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "AveragePool"), _windowed),
    "MaxPool": _max_pool,
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization", "Gemm"), _input),
    "LayerNormalization": _input,
    "RMSNormalization": _plus(2.0, _input),
    "LRN": _plus(2.0, _input),
    "MatMul": _operands,
    "Dropout": _plus(1.0, _nothing),
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Exp", "Sqrt", "Reciprocal", "Softmax", "LogSoftmax"), _output),
    **dict.fromkeys(("LeakyRelu", "Elu", "Celu", "Selu", "HardSwish", "Mish", "Gelu", "Clip"), _input),
    **dict.fromkeys(("Erf", "Log", "Abs", "Pow", "Pad", "Cos", "Sin"), _input),
    "Softplus": _plus(1.0, _input),
    "Softsign": _plus(1.0, _input),
    "HardSigmoid": _plus(1.0, _nothing),
    "Swish": _plus(1.0, _input),
    "ThresholdedRelu": _plus(_MASK, _nothing),
    "PRelu": _plus(_MASK, _input),
    **dict.fromkeys(("Mul", "Div"), _factors),
    **dict.fromkeys(("Max", "Min"), _extreme),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax", "ReduceMin"), _input_and_output),
}
