"""ONNX network → trainable PyTorch module whose state_dict keys are the ONNX names."""

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from nasmesh.errors import Invalid
from nasmesh.model import initializers
from nasmesh.model.engine import modules
from nasmesh.model.engine.build import Array, Build, Operator, constant_of_node, node_label, unsupported
from nasmesh.model.engine.initialise import init_rules, initial_value, input_first_names
from nasmesh.model.engine.operators import BUILDERS
from nasmesh.model.engine.tensors import to_tensor
from nasmesh.model.reasons import Reason, rejected

# The forms of operators that the table reads: axes as inputs (13) up to what the conformance cases cover (28).
OPSETS = range(13, 29)


def to_module(model: onnx.ModelProto, *, seed: int | None, device: str = "cpu") -> modules.Network:
    """Return the network as a torch.fx module in training mode.

    Parameters without a value start by their rule from (seed, name); raises Invalid (SEED_MISSING) where there is no
    seed. state_dict() keys are ONNX names; constants are not in it. `module.meta["values"]` maps ONNX values to names
    of fx nodes. Raises Rejected naming the node: OP_NOT_ALLOWED, OPSET_NOT_ALLOWED, NAME_INVALID, GRAPH_INVALID.
    On device "meta" tensors are shapes only and need no seed.
    """
    return convert(model, initializers.data_inputs(model), seed=seed, device=device)


def convert(model: onnx.ModelProto, data: Sequence[str], *, seed: int | None, device: str = "cpu") -> modules.Network:
    """Convert with the data inputs named; `to_module` finds them by convention."""
    opset = _opset(model)
    for node in model.graph.node:
        _check_operator(node)
    live = _live_nodes(model)
    graph = fx.Graph()
    shapes = _parameter_dims(model, data)
    build = Build(
        graph=graph,
        root=modules.Scope(),
        opset=opset,
        device=device,
        constants=_constants(model, {*data, *shapes}),
        paths={},
        shapes={**_fixed_dims(model), **shapes},
        uses=Counter([name for node in live for name in node.input] + [value.name for value in model.graph.output]),
    )
    _place_state(build, model, shapes, seed)
    for position, name in enumerate(data):
        # fx writes a placeholder's target into the source as it is, so a network's author must not choose it.
        build.values[name] = graph.create_node("placeholder", f"x{position}" if position else "x")
    for node in live:
        _add(build, node)
    graph.output(_outputs(build, model.graph.output))
    values = {name: node.name for name, node in build.values.items() if name not in build.paths}
    return modules.Network.assemble(build.root, graph, values)


def _opset(model: onnx.ModelProto) -> int:
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    version = versions.get("ai.onnx", 0)
    if version not in OPSETS:
        message = f"opset {version} is not in {OPSETS.start}..{OPSETS.stop - 1}"
        raise rejected(Reason.OPSET_NOT_ALLOWED, message, where="opset_import")
    return version


def _check_operator(node: onnx.NodeProto) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise unsupported(node.op_type, node_label(node), f"domain {node.domain[:64]!r} is not supported")
    if node.op_type != "Constant" and node.op_type not in BUILDERS:
        raise unsupported(node.op_type, node_label(node), "the operator is not supported")


def _live_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that an output depends on; the others must be legal, but would only cost time."""
    needed = {value.name for value in model.graph.output}
    live = []
    for node in reversed(model.graph.node):
        if needed.intersection(name for name in node.output if name):
            needed.update(node.input)
            live.append(node)
    return live[::-1]


def _parameter_dims(model: onnx.ModelProto, data: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the dims of all parameters: what `initializers.parameters` does, for data inputs that are given."""
    valued = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in valued and value.name not in data]
    marked = [
        tensor
        for tensor in model.graph.initializer
        if any(prop.key == initializers.INIT_KEY for prop in tensor.metadata_props)
    ]
    protos: list[onnx.ValueInfoProto | onnx.TensorProto] = [*inputs, *marked]
    return {proto.name: initializers.parameter_dims(proto) for proto in protos}


def _fixed_dims(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the dims of inputs that have no free one."""
    found = {value.name: initializers.parameter_dims(value) for value in model.graph.input}
    return {name: dims for name, dims in found.items() if all(size > 0 for size in dims)}


def _constants(model: onnx.ModelProto, variable: set[str]) -> dict[str, Array]:
    found = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name not in variable
    }
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = constant_of_node(node)
    return found


def _place_state(build: Build, model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], seed: int | None) -> None:
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    statistics = initializers.statistic_names(model)
    reversed_fans = input_first_names(model)
    rules = init_rules(model, shapes)
    for name, dims in shapes.items():
        if not modules.is_legal_name(name):
            raise rejected(Reason.NAME_INVALID, "no name of a parameter; use dotted parts without quotes", where=name)
        if build.device == "meta":
            tensor = torch.empty(dims, device="meta")
        elif name in values:
            tensor = to_tensor(values[name])
        elif seed is None:
            raise Invalid("SEED_MISSING", f"{name} has no value, so a seed is needed to draw one", field="seed")
        else:
            tensor = initial_value(rules[name], name, dims, seed=seed, input_first=name in reversed_fans)
        _place(build, name, tensor, trained=name not in statistics)


def _place(build: Build, name: str, tensor: Tensor, *, trained: bool) -> None:
    held = nn.Parameter(tensor) if trained and tensor.is_floating_point() else tensor
    try:
        modules.place(build.root, name, held)
    except KeyError as error:
        message = "the name is taken, or another parameter's name starts with it and a dot"
        raise rejected(Reason.NAME_DUPLICATE, message, where=name) from error
    build.paths[name] = modules.attribute_path(name)


def _add(build: Build, node: onnx.NodeProto) -> None:
    if node.op_type == "Constant":
        return
    operator = Operator(build, node)
    result = BUILDERS[node.op_type](operator)
    operator.finish()
    results = [result] if isinstance(result, fx.Node) else list(result)
    for name, value in zip(node.output, results, strict=False):
        if not name:
            continue
        if name in build.values or name in build.paths or name in build.constants:
            raise rejected(Reason.GRAPH_INVALID, f"value {name[:64]!r} is computed twice", where=operator.label)
        build.values[name] = value


def _outputs(build: Build, outputs: Sequence[onnx.ValueInfoProto]) -> fx.Node | tuple[fx.Node, ...]:
    found = []
    for value in outputs:
        node = build.tensor(value.name)
        if node is None:
            raise rejected(Reason.GRAPH_INVALID, "no node computes this output", where=value.name)
        found.append(node)
    return found[0] if len(found) == 1 else tuple(found)
