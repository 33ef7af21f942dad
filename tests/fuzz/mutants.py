"""Mutants of good networks: one to three changes of fields, attributes, dims, operators, wiring, names, data, metadata.

Building hostile networks at random gives almost only rubbish that the first check refuses; changing good ones reaches
every check, and a tenth of what comes out is still a network.
"""

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nasmesh.model.lower import lower
from nasmesh.model.operators import OPERATORS
from nasmesh.model.weights import with_weights
from tests.builders.architectures import random_architecture

NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 50, 64, 255, 65_536, 65_537, 2**31, 2**40, 2**62)
SMALL = (0, 1, 1, 2, 2, 3, 4, 6)
NAMES = (
    "",
    "x",
    "a.b",
    "a",
    "c.weight",
    "a::b",
    "a..b",
    ".a",
    "n" * 193,
    "\u00e4",
    "a b",
    "\u202e",
    "\x00",
    "../x",
    "%s",
)
OTHERS = (
    "Shape",
    "NonZero",
    "Loop",
    "If",
    "Scan",
    "Constant",
    "ConstantOfShape",
    "Expand",
    "Tile",
    "Resize",
    "Nothing",
    "",
)
OPERATIONS = (*sorted(OPERATORS), *OTHERS)
ATTRIBUTES = (
    "axis",
    "kernel_shape",
    "pads",
    "strides",
    "dilations",
    "group",
    "alpha",
    "keepdims",
    "to",
    "value",
    "perm",
)

Change = Callable[[onnx.ModelProto, random.Random], None]


def bases(count: int) -> list[onnx.ModelProto]:
    """Small good networks over the whole operator set, some with weights, some with their architecture on them."""
    rng = np.random.default_rng(1)
    found = [chain_network(kind) for kind in range(6)]
    for seed in range(count - len(found)):
        model = lower(random_architecture(seed, blocks=3 if seed % 8 == 0 else 1))
        if seed % 4:
            del model.metadata_props[:]  # else the recovered architecture betrays every change
        if seed % 3 == 0:
            values = {
                value.name: rng.uniform(0.1, 1.0, [dim.dim_value for dim in value.type.tensor_type.shape.dim]).astype(
                    "f4"
                )
                for value in model.graph.input[1:]
            }
            model = with_weights(model, values)
        found.append(model)
    return found


_TAILS: tuple[tuple[onnx.NodeProto, ...], ...] = (
    (helper.make_node("Relu", ["c"], ["r"], name="r"),),
    (
        helper.make_node("Split", ["c"], ["p", "q"], name="s", axis=1, num_outputs=2),
        helper.make_node("Concat", ["q", "p"], ["r"], name="r", axis=1),
    ),
    (helper.make_node("MaxPool", ["c"], ["m"], name="m", kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1]),
     helper.make_node("Add", ["m", "c"], ["r"], name="r")),
    (helper.make_node("Transpose", ["c"], ["t"], name="t", perm=[0, 2, 3, 1]),
     helper.make_node("Transpose", ["t"], ["r"], name="r", perm=[0, 3, 1, 2])),
    (helper.make_node("Reshape", ["c", "shape"], ["r"], name="r"),),
    (helper.make_node("Clip", ["c", "low"], ["r"], name="r"),),
)  # fmt: skip


def chain_network(kind: int) -> onnx.ModelProto:
    """Convolution, something, flatten, product: on one channel of 4 x 4."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "c.weight"], ["c"], name="c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        *_TAILS[kind],
        helper.make_node("Flatten", ["r"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "fc.weight"], ["logits"], name="fc", transB=1),
    ]
    inputs = [value("x", 1, ["N", 1, 4, 4]), value("c.weight", 1, [2, 1, 3, 3]), value("fc.weight", 1, [3, 32])]
    constants = {4: ("shape", np.array([0, 2, 2, 8], "i8")), 5: ("low", np.array(0.5, "f4"))}
    tensors = [numpy_helper.from_array(constants[kind][1], constants[kind][0])] if kind in constants else []
    graph = helper.make_graph(nodes, "network", inputs, [value("logits", 1, ["N", 3])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def mutate(model: onnx.ModelProto, rng: random.Random) -> None:
    """Make one to three changes in place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choices(CHANGES, WEIGHTS)[0](model, rng)


def _node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    return rng.choice(model.graph.node) if model.graph.node else model.graph.node.add(op_type="Relu")


def _values(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in (*node.input, *node.output)] or ["x"]


def _number(rng: random.Random) -> int:
    return rng.choice(NUMBERS if rng.random() < 0.5 else SMALL)


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.op_type = rng.choice(OPERATIONS)
    if rng.random() < 0.5:
        del node.attribute[:]


def _attribute_value(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if not node.attribute:
        _attribute_new(model, rng)
        return
    attribute = rng.choice(node.attribute)
    if attribute.ints and rng.random() < 0.8:
        attribute.ints[rng.randrange(len(attribute.ints))] = _number(rng)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice((0.0, -1.0, 0.5, 1e-5, 1e30, 1e38, float("nan"), float("inf")))
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice((b"VALID", b"SAME_UPPER", b"NOTSET", b"", b"\xff", b"constant", b"none"))
    else:
        attribute.i = _number(rng)


def _attribute_new(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    known = OPERATORS.get(node.op_type)
    name = rng.choice((*known.attributes, *ATTRIBUTES) if known else ATTRIBUTES)
    made = rng.choice((_number(rng), [_number(rng) for _ in range(rng.randrange(1, 5))], 0.5, "SAME_LOWER", [0.5]))
    node.attribute.append(helper.make_attribute(name, made))


def _attribute_shape(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if not node.attribute:
        return
    index = rng.randrange(len(node.attribute))
    match rng.randrange(6):
        case 0:
            del node.attribute[index]
        case 1:
            node.attribute[index].type = rng.randrange(0, 15)
        case 2:
            node.attribute.append(node.attribute[index])
        case 3:
            node.attribute[index].ref_attr_name = "outer"
        case 4:
            node.attribute[index].ints.append(_number(rng))
        case _:
            node.attribute[index].g.node.add(op_type="Relu")


def _dims(model: onnx.ModelProto, rng: random.Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    dims = rng.choice(values).type.tensor_type.shape.dim if values else []
    if not dims:
        return
    dim = rng.choice(dims)
    match rng.randrange(5):
        case 0:
            dim.dim_param = rng.choice(NAMES)
        case 1:
            dim.Clear()
        case 2:
            dims.add(dim_value=_number(rng))
        case _:
            dim.dim_value = _number(rng)


def _wiring(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    name = rng.choice(_values(model))
    match rng.randrange(6):
        case 0:
            node.input.append(name)
        case 1:
            node.output.append(rng.choice((name, "fresh", "")))
        case 2 if node.input:
            del node.input[rng.randrange(len(node.input))]
        case 3 if len(node.input) > 1:
            node.input[0], node.input[1] = node.input[1], node.input[0]
        case 4 if node.output:
            node.output[0] = name
        case _ if node.input:
            node.input[rng.randrange(len(node.input))] = name


def _nodes(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    match rng.randrange(4):
        case 0:
            rng.shuffle(nodes)
        case 1:
            nodes = nodes[: rng.randrange(len(nodes) + 1)]
        case 2 if nodes:
            nodes.append(rng.choice(nodes))
        case _:
            source, target = rng.choice(_values(model)), rng.choice(("fresh", rng.choice(_values(model))))
            operation = rng.choice(OPERATIONS)
            nodes.insert(rng.randrange(len(nodes) + 1), helper.make_node(operation, [source], [target]))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _names(model: onnx.ModelProto, rng: random.Random) -> None:
    things = [*model.graph.node, *model.graph.input, *model.graph.initializer, *model.graph.output]
    old = rng.choice(things)
    fresh = rng.choice(NAMES)
    if rng.random() < 0.5:  # consistently: a network by another name
        for node in model.graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old.name:
                        names[index] = fresh
    old.name = fresh


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer or rng.random() < 0.2:
        array = rng.choice(
            (np.zeros(2, "f4"), np.array([1, -1], "i8"), np.array([np.nan], "f4"), np.zeros((2, 2), "f2"))
        )
        model.graph.initializer.append(numpy_helper.from_array(array, rng.choice(("fresh", *_values(model)))))
        return
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(9):
        case 0:
            tensor.dims.append(rng.choice((0, 1, 2, -1, 2**40, 2**62)))
        case 1 if tensor.dims:
            tensor.dims[0] = _number(rng)
        case 2:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 3:
            tensor.data_type = rng.randrange(0, 24)
        case 4:
            tensor.raw_data = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff")) + tensor.raw_data[4:]
        case 5:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key=rng.choice(("location", "offset")), value=rng.choice(("/etc/passwd", "-1")))
        case 6:
            tensor.float_data.append(1.0)
        case 7:
            tensor.segment.begin = 1
        case _:
            tensor.string_data.append(b"text")


def _metadata(model: onnx.ModelProto, rng: random.Random) -> None:
    where = rng.choice((model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input))
    match rng.randrange(4):
        case 0:
            where.metadata_props.add(key=rng.choice(NAMES), value="v" * rng.choice((0, 10, 5000)))
        case 1:
            rule = rng.choice(("zeros", "normal:1", "normal:0:1", "normal:nan:1", "what", "", "uniform:0:1"))
            where.metadata_props.add(key="nasmesh.init", value=rule)
        case 2 if where.metadata_props:
            text = rng.choice(where.metadata_props)
            text.value = text.value[: rng.randrange(len(text.value) + 1)]
        case _:
            where.doc_string = "d" * rng.choice((0, 1, 5000))


def _model(model: onnx.ModelProto, rng: random.Random) -> None:
    match rng.randrange(10):
        case 0:
            model.opset_import[0].version = rng.randrange(0, 30)
        case 1:
            model.opset_import.add(domain=rng.choice(("", "ai.onnx", "evil")), version=_number(rng) % 100)
        case 2:
            model.ir_version = _number(rng)
        case 3:
            model.functions.add(name="Mine", domain="evil")
        case 4:
            model.training_info.add().algorithm.initializer.add(name="s")
        case 5:
            model.graph.sparse_initializer.add().values.name = "s"
        case 6:
            model.graph.quantization_annotation.add(tensor_name="c")
        case 7:
            model.graph.value_info.add(name=rng.choice(NAMES))
        case 8:
            model.producer_name = rng.choice(NAMES) * 3
        case _:
            model.graph.output.add(name=rng.choice(_values(model)))


def _kinds(model: onnx.ModelProto, rng: random.Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    if not values:
        return
    value = rng.choice(values)
    match rng.randrange(4):
        case 0:
            value.type.tensor_type.elem_type = rng.randrange(0, 24)
        case 1:
            value.type.sequence_type.elem_type.tensor_type.elem_type = 1
        case 2:
            value.type.Clear()
        case _:
            node = _node(model, rng)
            node.domain = rng.choice(("ai.onnx", "evil", ""))


_WEIGHTED: tuple[tuple[Change, int], ...] = (
    (_operator, 5),
    (_attribute_value, 6),
    (_attribute_new, 2),
    (_attribute_shape, 2),
    (_dims, 4),
    (_wiring, 5),
    (_nodes, 3),
    (_names, 2),
    (_tensor, 4),
    (_metadata, 3),
    (_model, 3),
    (_kinds, 2),
)
CHANGES = [change for change, _ in _WEIGHTED]
WEIGHTS = [weight for _, weight in _WEIGHTED]
