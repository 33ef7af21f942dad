"""Hostile ONNX files, made by code: bombs, paths, cycles, aliases, nesting, names, numbers, data, texts, structures."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nasmesh.model.encode import to_bytes
from tests.fuzz.hostile_bombs import MIB, bombs
from tests.fuzz.mutants import chain_network

Change = Callable[[onnx.ModelProto], object]

PATHS = (
    *(
        "/etc/passwd",
        "../../etc/passwd",
        "..\\..\\windows",
        "weights.bin",
        "/proc/self/environ",
        "/dev/zero",
        "a/../../b",
    ),
    *("file:///etc/passwd", "//host/share", "", ".", "..", "./x", "\x00", "%2e%2e/x", "~/x", "C:\\x", "x" * 5000),
)
BAD_NAMES = (
    *(
        "\u00e4",
        "\u202egnp",
        "\u200b",
        "a\x00b",
        "a\nb",
        "a\tb",
        " ",
        "a b",
        "\ufeffx",
        "\U0001f600",
        "x" * 193,
        "x" * 100_000,
    ),
    *("\u0430", "a\u0301", "\u2028", "\x7f", "\x1b[2J", "caf\u00e9", "\ud7ff", "\u3042"),
)
BAD_PARAMETERS = (
    "a::b",
    "a..b",
    ".a",
    "a.",
    "..",
    "a'b",
    'a"b',
    "a\\b",
    "a(b",
    "a)b",
    "a=b",
    "a%b",
    "__import__('os')",
    "{a}",
)
BAD_DIMS = (-1, -(2**63), 2**62, 2**63 - 1, 65_537, 2**31, 2**40)
CODE_OPERATORS = ("If", "Loop", "Scan", "SequenceMap", "Optional", "PythonOp", "Function", "Call", "Eval", "ai.onnx.ml")
DATA_SHAPED = (
    *("ConstantOfShape", "Expand", "Tile", "Range", "NonZero", "Unique", "Compress", "Shape", "Size", "OneHot", "TopK"),
    *("Resize", "Upsample", "RandomNormal", "RandomUniform", "Multinomial", "NonMaxSuppression", "Where", "GatherND"),
    *(
        "ScatterND",
        "StringConcat",
        "RegexFullMatch",
        "ImageDecoder",
        "SequenceAt",
        "Einsum",
        "LSTM",
        "QLinearConv",
        "Gather",
    ),
)
TYPES = (
    TensorProto.STRING,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.COMPLEX64,
    0,
    17,
    99,
)


def _model(change: Change, kind: int = 0) -> bytes:
    model = chain_network(kind)
    change(model)
    return model.SerializeToString(deterministic=True)


def _node(index: int, **fields: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for name, value in fields.items():
            setattr(model.graph.node[index], name, value)

    return change


def _insert(operation: str, inputs: tuple[str, ...] = ("c",), **attributes: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        made = helper.make_node(operation, list(inputs), ["made"], name="made", **attributes)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
        nodes[1].input[0] = "made"
        del model.graph.node[:]
        model.graph.node.extend([nodes[0], made, *nodes[1:]])

    return change


def _made(name: str, value: object) -> onnx.AttributeProto:
    return (
        onnx.AttributeProto(name=name, type=onnx.AttributeProto.INTS)
        if value == []
        else helper.make_attribute(name, value)
    )


def _conv(**attributes: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node[0]
        for name, value in attributes.items():
            kept = [attribute for attribute in node.attribute if attribute.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, _made(name, value)])

    return change


def _external(path: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer.add(name="e", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=path)

    return change


def _external_quietly(key: str) -> Change:
    def change(model: onnx.ModelProto) -> None:  # entries, but a location that says the data is here
        tensor = model.graph.initializer.add(name="e", data_type=1, dims=[1], raw_data=b"\0\0\0\0")
        tensor.external_data.add(key=key, value="/etc/passwd")

    return change


def _attribute_tensor(change_tensor: Callable[[TensorProto], object]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        attribute = model.graph.node[1].attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
        attribute.t.CopyFrom(numpy_helper.from_array(np.zeros(2, "f4"), "t"))
        change_tensor(attribute.t)

    return change


def _tensor(**fields: object) -> Change:
    return lambda model: model.graph.initializer.add(**{"name": "t", "data_type": 1, **fields})


def _dim(position: int, axis: int, size: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[position].type.tensor_type.shape.dim[axis].dim_value = size

    return change


def _rename(old: str, new: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return change


def _nested(depth: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for _ in range(depth):
            node = graph.node.add(op_type="If", name="deep")
            attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
            graph = attribute.g

    return change


def _texts() -> Iterator[tuple[str, bytes]]:
    for name in BAD_NAMES:
        label = f"{name[:8]!a} of {len(name)}"
        yield f"node {label}", _model(_node(1, name=name))
        yield f"value {label}", _model(_rename("c", name))
        yield f"input {label}", _model(_rename("c.weight", name))
    for name in BAD_PARAMETERS:
        yield f"parameter {name}", _model(_rename("c.weight", name))
    for old in (b"c.weight", b"logits", b"Conv"):
        content = to_bytes(chain_network(0))
        yield f"{old!r} that is not UTF-8", content.replace(old, b"\xff\xfe" + old[2:])
    for old, new in (("c", "x"), ("r", "c"), ("f", "c.weight"), ("c.weight", "fc.weight"), ("x", "logits")):
        yield f"{old} called {new}", _model(_rename(old, new))
    yield "a parameter that is a prefix", _model(_rename("c.weight", "fc"))
    yield "metadata twice", _model(lambda m: [m.metadata_props.add(key="k", value="v") for _ in range(2)])
    yield "much metadata", _model(lambda m: m.metadata_props.add(key="k", value="v" * 5000))
    yield "many entries", _model(lambda m: [m.metadata_props.add(key=f"k{n}", value="v") for n in range(65)])
    yield "a long key", _model(lambda m: m.metadata_props.add(key="k" * 200, value="v"))
    yield (
        "a large architecture",
        _model(lambda m: m.metadata_props.add(key="nasmesh.architecture", value="A" * 2 * MIB)),
    )
    for value in ("%%%", "AAAA", "/w==", "\u00e4"):
        yield (
            f"architecture {value}",
            _model(lambda m, v=value: m.metadata_props.add(key="nasmesh.architecture", value=v)),
        )
    for rule in ("normal:1", "normal:nan:1", "uniform:inf:1", "what", "", "normal:1:2:3", "zeros:0", "constant:1e999"):
        yield f"init {rule}", _model(lambda m, r=rule: m.graph.input[1].metadata_props.add(key="nasmesh.init", value=r))
    yield "long documentation of a node", _model(_node(0, doc_string="d" * 5000))
    yield "long documentation of the graph", _model(lambda m: setattr(m.graph, "doc_string", "d" * 5000))
    yield (
        "a long free dimension",
        _model(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "N" * 999)),
    )


def _numbers() -> Iterator[tuple[str, bytes]]:
    for size, (position, axis) in itertools.product(BAD_DIMS, ((0, 1), (0, 2), (1, 0), (1, 2), (2, 1))):
        yield f"input {position} axis {axis} of {size}", _model(_dim(position, axis, size))
    for size in (0, 1):
        yield f"a batch of {size}", _model(_dim(0, 0, size))
    for numbers in ([51, 51], [0, 0], [-1, 3], [2**31, 2**31], [3], [3, 3, 3], [], [1] * 100, [2**63 - 1, 1]):
        yield f"kernel {numbers[:4]}", _model(_conv(kernel_shape=numbers))
    for numbers in ([9, 9], [0, 1], [-1, -1], [2**62, 1], [1]):
        yield f"strides {numbers}", _model(_conv(strides=numbers))
    for numbers in ([17, 17], [0, 0], [2**40, 1]):
        yield f"dilations {numbers}", _model(_conv(dilations=numbers))
    for numbers in ([32, 0, 0, 0], [-1, 0, 0, 0], [2**62] * 4, [1], [1] * 5, [1] * 1000):
        yield f"{len(numbers)} pads {numbers[:4]}", _model(_conv(pads=numbers))
    for number in (0, -1, 2, 3, 2**31, 2**62):
        yield f"group {number}", _model(_conv(group=number))
    for attributes in ({"group": 1.5}, {"kernel_shape": 3}, {"auto_pad": 1}, {"auto_pad": "SAME"}, {"pads": "1"}):
        yield f"types {attributes}", _model(_conv(**attributes))
    yield "auto_pad and pads", _model(_conv(auto_pad="SAME_UPPER"))
    for number in (float("nan"), float("inf"), -float("inf"), 1e38):
        yield f"alpha {number}", _model(_insert("LeakyRelu", alpha=number))
    for axis in (-7, 7, 2**31, -(2**63)):
        yield f"axis {axis}", _model(_insert("Softmax", axis=axis))
    for version in (0, 1, 12, 27, 2**31, -1):
        yield f"opset {version}", _model(lambda m, v=version: setattr(m.opset_import[0], "version", v))
    for domain in ("ai.onnx.ml", "com.microsoft", "evil", "ai.onnx.training", "\u00e4", "x" * 1000):
        yield f"second domain {domain[:9]}", _model(lambda m, d=domain: m.opset_import.add(domain=d, version=1))
        yield f"domain of a node {domain[:9]}", _model(_node(1, domain=domain))


def _data() -> Iterator[tuple[str, bytes]]:
    for path in PATHS:
        yield f"external {path[:12]!a}", _model(_external(path))
        yield (
            f"external in an attribute {path[:12]!a}",
            _model(_attribute_tensor(lambda t, p=path: t.external_data.add(key="location", value=p))),
        )
    for key in ("location", "offset", "length", "checksum", "__class__"):
        yield f"external by {key} alone", _model(_external_quietly(key))
    for dims in ([0, 2**62], [2**62], [-4], [2**40, 0], [2**31, 2**31], [1] * 7, [0] * 7, [65_537], [2**63 - 1] * 3):
        yield f"dims {dims[:3]} without data", _model(_tensor(dims=dims))
        yield f"dims {dims[:3]} in an attribute", _model(_attribute_tensor(lambda t, d=dims: t.dims.extend(d)))
    for size in (0, 1, 3, 5, 7, 9, 4096):
        yield f"{size} bytes for two numbers", _model(_tensor(dims=[2], raw_data=bytes(size)))
    yield "both kinds of data", _model(_tensor(dims=[1], raw_data=bytes(4), float_data=[1.0]))
    yield "data of another kind", _model(_tensor(dims=[1], int64_data=[1]))
    yield "a segment", _model(_tensor(dims=[1], raw_data=bytes(4), segment=TensorProto.Segment(begin=0, end=1)))
    for kind in TYPES:
        yield f"type {kind}", _model(_tensor(data_type=kind, dims=[1], raw_data=bytes(8)))
    for number in (np.nan, np.inf, -np.inf):
        yield f"{number} in a tensor", _model(_tensor(dims=[1], raw_data=np.array([number], "<f4").tobytes()))
        yield f"{number} in float_data", _model(_tensor(dims=[1], float_data=[number]))
        yield (
            f"{number} in a constant",
            _model(lambda m, n=number: m.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value_float=n))),
        )
    yield "a string tensor", _model(_tensor(data_type=TensorProto.STRING, dims=[1], string_data=[b"text"]))
    yield "a sparse tensor", _model(lambda m: m.graph.sparse_initializer.add().values.CopyFrom(TensorProto(name="s")))
    yield "a stored input of other dims", _model(_tensor(name="c.weight", dims=[1], raw_data=bytes(4)))
    yield (
        "a stored input of another type",
        _model(_tensor(name="c.weight", data_type=7, dims=[2, 1, 3, 3], raw_data=bytes(144))),
    )
    yield "quantised", _model(lambda m: m.graph.quantization_annotation.add(tensor_name="c"))


def _structures() -> Iterator[tuple[str, bytes]]:
    for operation in (*CODE_OPERATORS, *DATA_SHAPED):
        yield f"operator {operation}", _model(_insert(operation))
        yield f"operator {operation} with a constant", _model(_insert(operation, ("shape",)), kind=4)
    for depth in (1, 5, 30):
        yield f"graphs {depth} deep", _model(_nested(depth))
    for name in ("body", "then_branch", "value"):
        graph = helper.make_graph([], "g", [], [])
        yield f"a graph as {name} of Relu", _model(_insert("Relu", **{name: graph}))
        yield f"graphs as {name} of Relu", _model(_insert("Relu", **{name: [graph, graph]}))
    relu = helper.make_node("Relu", ["a"], ["b"])
    call = helper.make_node("Mine", ["a"], ["b"], domain="local")
    for body in (relu, call):  # the second calls itself
        function = helper.make_function("local", "Mine", ["a"], ["b"], [body], [helper.make_opsetid("", 21)])
        yield f"a function of {body.op_type}", _model(lambda m, f=function: m.functions.append(f))
    yield (
        "a reference to a function's attribute",
        _model(lambda m: m.graph.node[1].attribute.add(name="alpha", ref_attr_name="a", type=1)),
    )
    yield "an overload", _model(_node(1, overload="other"))
    yield "training info", _model(lambda m: m.training_info.add().algorithm.node.add(op_type="Relu"))
    yield "initialisation by code", _model(lambda m: m.training_info.add().initialization.node.add(op_type="Relu"))
    yield (
        "33 attributes",
        _model(lambda m: [m.graph.node[1].attribute.add(name=f"a{n}", i=1, type=2) for n in range(33)]),
    )
    yield "an attribute twice", _model(lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]))
    yield "an attribute of two kinds", _model(lambda m: setattr(m.graph.node[0].attribute[0], "f", 1.0))
    yield "an attribute without a type", _model(lambda m: m.graph.node[0].attribute[0].ClearField("type"))


def _wirings() -> Iterator[tuple[str, bytes]]:
    for inputs in (
        [],
        ["x"],
        ["x", "", ""],
        ["x", "c.weight", "c.weight", "x"],
        ["x"] * 1025,
        ["", ""],
        ["?", "c.weight"],
    ):
        yield (
            f"{len(inputs)} inputs {inputs[:3]}",
            _model(lambda m, i=inputs: m.graph.node[0].input.__setitem__(slice(None), i)),
        )
    for outputs in ([], [""], ["c", "c"], ["c", "d"], ["x"], ["c.weight"], ["c"] * 1025):
        yield (
            f"{len(outputs)} outputs {outputs[:3]}",
            _model(lambda m, o=outputs: m.graph.node[0].output.__setitem__(slice(None), o)),
        )
    yield "a cycle of one", _model(lambda m: m.graph.node[1].input.__setitem__(0, "r"))
    yield "a cycle of three", _model(lambda m: m.graph.node[0].input.__setitem__(0, "f"))
    yield "nodes in no order", _model(lambda m: m.graph.node.reverse())
    yield "no nodes", _model(lambda m: m.graph.ClearField("node"))
    yield "no graph", _model(lambda m: m.ClearField("graph"))
    yield "no inputs", _model(lambda m: m.graph.ClearField("input"))
    yield "no outputs", _model(lambda m: m.graph.ClearField("output"))
    yield "no opset", _model(lambda m: m.ClearField("opset_import"))
    yield "two outputs", _model(lambda m: m.graph.output.add(name="c"))
    yield "an input as output", _model(lambda m: setattr(m.graph.output[0], "name", "x"))
    yield "an image as output", _model(lambda m: setattr(m.graph.output[0], "name", "c"))
    yield "two data inputs", _model(lambda m: m.graph.input.append(helper.make_tensor_value_info("y", 1, ["N", 4])))
    for kind in TYPES:
        yield (
            f"data of type {kind}",
            _model(lambda m, k=kind: setattr(m.graph.input[0].type.tensor_type, "elem_type", k)),
        )
        yield (
            f"logits of type {kind}",
            _model(lambda m, k=kind: setattr(m.graph.output[0].type.tensor_type, "elem_type", k)),
        )
    yield (
        "logits declared otherwise",
        _model(lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 4)),
    )
    for kind, change in (("sequence", "sequence_type"), ("map", "map_type"), ("optional", "optional_type")):
        yield f"a {kind} as data", _model(lambda m, c=change: getattr(m.graph.input[0].type, c).SetInParent())


def _large() -> Iterator[tuple[str, bytes]]:
    doubling = chain_network(0)
    del doubling.graph.node[1:]
    for step in range(40):  # each Concat doubles the channels
        source = f"d{step - 1}" if step else "c"
        doubling.graph.node.append(helper.make_node("Concat", [source, source], [f"d{step}"], axis=1))
    yield "40 doublings", doubling.SerializeToString(deterministic=True)
    for operation in ("Add", "Mul", "MatMul"):
        powers = chain_network(0)
        for step in range(500):
            powers.graph.node.insert(1, helper.make_node(operation, ["c", "r"], [f"p{step}"]))
        yield f"500 of {operation} before their operands", powers.SerializeToString(deterministic=True)
    many = chain_network(0)
    many.graph.node.extend(helper.make_node("Relu", ["c"], [f"n{number}"]) for number in range(20_001))
    yield "20001 nodes more", many.SerializeToString(deterministic=True)
    stored = chain_network(0)
    stored.graph.initializer.extend(numpy_helper.from_array(np.zeros(1, "f4"), f"i{number}") for number in range(5001))
    yield "5001 initialisers", stored.SerializeToString(deterministic=True)


def hostile_files() -> Iterator[tuple[str, bytes]]:
    """Every file with what it is."""
    for family in (bombs, _texts, _numbers, _data, _structures, _wirings, _large):
        for name, content in family():
            yield f"{family.__name__.strip('_')}: {name}", content
