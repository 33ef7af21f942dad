"""Admission: hostile and broken objects are refused, each with its reason and the node's name; good ones pass."""

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nasmesh.errors import Rejected
from nasmesh.model import quarantine
from nasmesh.model.admission import admit
from nasmesh.model.encode import from_bytes, to_bytes
from nasmesh.model.lower import lower
from nasmesh.model.metadata import ARCHITECTURE_KEY, TRAINING_KEY
from nasmesh.model.reasons import Reason
from tests.builders.architectures import small_cnn
from tests.builders.inference import randomised

Change = Callable[[onnx.ModelProto], object]


def _network() -> onnx.ModelProto:
    """conv "c" (4 channels), relu "r", flatten "f", gemm "logits", weightless, on [N, 3, 8, 8]."""
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "c.weight"], ["c"], name="c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make("Relu", ["c"], ["r"], name="r"),
        make("Flatten", ["r"], ["f"], name="f"),
        make("Gemm", ["f", "fc.weight"], ["logits"], name="fc", transB=1),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", 1, ["N", 3, 8, 8]), value("c.weight", 1, [4, 3, 3, 3]), value("fc.weight", 1, [10, 256])]
    graph = helper.make_graph(nodes, "network", inputs, [value("logits", 1, ["N", 10])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _set(model: onnx.ModelProto, node: int, **attributes: object) -> None:
    found = model.graph.node[node]
    kept = [a for a in found.attribute if a.name not in attributes]
    fresh = helper.make_node(found.op_type, list(found.input), list(found.output), name=found.name, **attributes)
    fresh.attribute.extend(kept)
    found.CopyFrom(fresh)


def _insert(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Put nodes between "r" and the flatten; the last one's output is what the flatten reads."""
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node[2:]]
    rest[0].input[0] = nodes[-1].output[0]
    del model.graph.node[2:]
    model.graph.node.extend([*nodes, *rest])


def _dims(model: onnx.ModelProto, position: int, *sizes: int) -> None:
    for dim, size in zip(model.graph.input[position].type.tensor_type.shape.dim[-len(sizes) :], sizes, strict=True):
        dim.dim_value = size


def _add(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def _note(model: onnx.ModelProto, value: str) -> None:
    model.metadata_props.add(key=ARCHITECTURE_KEY, value=value)


def _external() -> TensorProto:
    tensor = TensorProto(name="e", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def _bomb(model: onnx.ModelProto) -> None:
    shape = numpy_helper.from_array(np.array([2**30, 2**20, 2**3], np.int64), "shape")
    model.graph.initializer.append(shape)
    _insert(model, helper.make_node("ConstantOfShape", ["shape"], ["bomb"], name="bomb"))


def _loop(op_type: str) -> onnx.NodeProto:
    body = helper.make_graph([], "body", [], [])
    return helper.make_node(op_type, ["r"], ["l"], name="l", body=body)


def _function(model: onnx.ModelProto) -> None:
    relu = helper.make_node("Relu", ["a"], ["b"])
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("local", "Mine", ["a"], ["b"], [relu], opsets))


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.name = "s"


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "s"))


def _reshape_by_data(model: onnx.ModelProto) -> None:
    _insert(model, helper.make_node("Reshape", ["r", "x"], ["v"], name="v"))


def _mix_batch(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), "shape"))
    _insert(model, helper.make_node("Reshape", ["r", "shape"], ["v"], name="v"))


def _rename(model: onnx.ModelProto, new: str) -> None:
    model.graph.input[1].name = model.graph.node[0].input[1] = new


CASES: dict[str, tuple[Change, Reason, str]] = {
    "channels that do not fit": (lambda m: _dims(m, 1, 5, 3, 3), Reason.SHAPE_MISMATCH, "c"),
    "gemm that does not fit": (lambda m: _dims(m, 2, 255), Reason.SHAPE_MISMATCH, "fc"),
    "groups that do not divide": (lambda m: _set(m, 0, group=2), Reason.SHAPE_MISMATCH, "c"),
    "kernel 51": (lambda m: _set(m, 0, kernel_shape=[51, 51]), Reason.ATTRIBUTE_NOT_ALLOWED, "c"),
    "stride 9": (lambda m: _set(m, 0, strides=[9, 9]), Reason.ATTRIBUTE_NOT_ALLOWED, "c"),
    "stride 0": (lambda m: _set(m, 0, strides=[0, 1]), Reason.ATTRIBUTE_NOT_ALLOWED, "c"),
    "negative pads": (lambda m: _set(m, 0, pads=[-1, 0, 0, 0]), Reason.ATTRIBUTE_NOT_ALLOWED, "c"),
    "pads 32 of a small kernel": (lambda m: _set(m, 0, pads=[32, 0, 0, 0]), Reason.SHAPE_MISMATCH, "c"),
    "dilation 17": (lambda m: _set(m, 0, dilations=[17, 17]), Reason.ATTRIBUTE_NOT_ALLOWED, "c"),
    "attribute of the wrong type": (lambda m: _set(m, 0, group=1.5), Reason.ATTRIBUTE_NOT_ALLOWED, "c"),
    "unknown attribute": (lambda m: _set(m, 1, surprise=1), Reason.ATTRIBUTE_NOT_ALLOWED, "r"),
    "unknown operator": (lambda m: setattr(m.graph.node[1], "op_type", "NonZero"), Reason.OP_NOT_ALLOWED, "r"),
    "operator of a later opset": (lambda m: setattr(m.graph.node[1], "op_type", "Swish"), Reason.OP_NOT_ALLOWED, "r"),
    "ConstantOfShape bomb": (_bomb, Reason.OP_NOT_ALLOWED, "bomb"),
    "custom domain of a node": (lambda m: setattr(m.graph.node[1], "domain", "evil"), Reason.DOMAIN_NOT_ALLOWED, "r"),
    "second opset": (lambda m: m.opset_import.add(domain="e", version=1), Reason.DOMAIN_NOT_ALLOWED, "opset_import"),
    "opset 12": (lambda m: setattr(m.opset_import[0], "version", 12), Reason.OPSET_NOT_ALLOWED, "opset_import"),
    "opset 27": (lambda m: setattr(m.opset_import[0], "version", 27), Reason.OPSET_NOT_ALLOWED, "opset_import"),
    "external data": (lambda m: _add(m, _external()), Reason.EXTERNAL_DATA, "e"),
    "function": (_function, Reason.FUNCTIONS, "Mine"),
    "If": (lambda m: _insert(m, _loop("If")), Reason.SUBGRAPH, "l"),
    "Loop": (lambda m: _insert(m, _loop("Loop")), Reason.SUBGRAPH, "l"),
    "subgraph in a harmless operator": (lambda m: _insert(m, _loop("Relu")), Reason.SUBGRAPH, "l"),
    "sparse tensor": (_sparse, Reason.TENSOR_TYPE, "graph.sparse_initializer"),
    "string tensor": (
        lambda m: _add(m, helper.make_tensor("s", TensorProto.STRING, [1], [b"a"])),
        Reason.TENSOR_TYPE,
        "s",
    ),
    "half precision": (
        lambda m: _add(m, numpy_helper.from_array(np.zeros(2, np.float16), "h")),
        Reason.TENSOR_TYPE,
        "h",
    ),
    "training info": (_training, Reason.TRAINING_INFO, "training_info"),
    "dims without data": (
        lambda m: _add(m, TensorProto(name="d", data_type=1, dims=[4])),
        Reason.DATA_LENGTH,
        "d",
    ),
    "dims 0 x 2^62": (
        lambda m: _add(m, TensorProto(name="d", data_type=1, dims=[0, 2**62])),
        Reason.VALUE_OUT_OF_RANGE,
        "d",
    ),
    "negative dims": (
        lambda m: _add(m, TensorProto(name="d", data_type=1, dims=[-4])),
        Reason.VALUE_OUT_OF_RANGE,
        "d",
    ),
    "NaN": (
        lambda m: _add(m, numpy_helper.from_array(np.array([np.nan], np.float32), "n")),
        Reason.DATA_NOT_FINITE,
        "n",
    ),
    "long name": (lambda m: setattr(m.graph.node[1], "name", "n" * 193), Reason.NAME_INVALID, "n" * 64),
    "unicode name": (lambda m: setattr(m.graph.node[1], "name", "ä"), Reason.NAME_INVALID, "?"),
    "double colon": (lambda m: _rename(m, "a::b"), Reason.NAME_INVALID, "a::b"),
    "empty part": (lambda m: _rename(m, "a..b"), Reason.NAME_INVALID, "a..b"),
    "leaf and prefix": (lambda m: _rename(m, "fc"), Reason.NAME_INVALID, "fc.weight"),
    "value made twice": (lambda m: m.graph.node[1].output.__setitem__(0, "c"), Reason.NAME_DUPLICATE, "c"),
    "cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "r"), Reason.GRAPH_INVALID, "graph"),
    "unknown input": (lambda m: m.graph.node[1].input.__setitem__(0, "?"), Reason.GRAPH_INVALID, "graph"),
    "fixed batch": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
        Reason.SHAPE_UNKNOWN,
        "x",
    ),
    "free height": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_param", "H"),
        Reason.SHAPE_UNKNOWN,
        "x",
    ),
    "shape from data": (_reshape_by_data, Reason.SHAPE_UNKNOWN, "v"),
    "batch mixed into features": (_mix_batch, Reason.SHAPE_MISMATCH, "fc"),
    "two outputs": (lambda m: m.graph.output.add(name="r"), Reason.OUTPUT_NOT_LOGITS, "graph.output"),
    "an image as output": (lambda m: setattr(m.graph.output[0], "name", "r"), Reason.OUTPUT_NOT_LOGITS, "r"),
    "wide input": (lambda m: _dims(m, 0, 3, 65_537, 8), Reason.VALUE_OUT_OF_RANGE, "x"),
    "a flat image of 2^32 features": (lambda m: _dims(m, 0, 3, 16_384, 65_536), Reason.VALUE_OUT_OF_RANGE, "f"),
    "metadata": (lambda m: m.metadata_props.add(key="n", value="n" * 5000), Reason.METADATA_TOO_LARGE, "n"),
    "long architecture": (lambda m: _note(m, "n" * 1_048_577), Reason.METADATA_TOO_LARGE, ARCHITECTURE_KEY),
    "long documentation": (lambda m: setattr(m.graph, "doc_string", "d" * 5000), Reason.METADATA_TOO_LARGE, "network"),
    "no architecture": (lambda m: _note(m, "%%%"), Reason.ARCHITECTURE_MALFORMED, ARCHITECTURE_KEY),
    "init rule": (
        lambda m: m.graph.input[1].metadata_props.add(key="nasmesh.init", value="normal:1"),
        Reason.INIT_RULE_INVALID,
        "c.weight",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_admit_when_hostile_then_refused_with_reason_and_name(name: str) -> None:
    change, reason, field = CASES[name]
    model = _network()
    admit(to_bytes(model))
    change(model)
    with pytest.raises(Rejected) as caught:
        admit(to_bytes(model))
    assert (caught.value.reason, caught.value.field) == (reason.value, field), caught.value.message
    assert "Traceback" not in caught.value.message


def test_admit_when_totals_are_exceeded_then_refused() -> None:
    wide = _network()
    _dims(wide, 0, 3, 128, 128)
    _dims(wide, 2, 4 * 128 * 128)
    _dims(wide, 1, 3, 3, 3)
    wide.graph.input[2].type.tensor_type.shape.dim[0].dim_value = 65_000
    with pytest.raises(Rejected) as caught:
        admit(to_bytes(wide))
    assert caught.value.reason == Reason.TOO_LARGE.value
    assert "parameters" in caught.value.message


def test_admit_when_too_many_nodes_then_refused() -> None:
    model = _network()
    _insert(model, *(helper.make_node("Relu", [f"v{n - 1}" if n else "r"], [f"v{n}"]) for n in range(20_001)))
    with pytest.raises(Rejected, match="20005 nodes; the limit is 20000"):
        admit(to_bytes(model))


def test_admit_when_bytes_are_not_canonical_then_refused() -> None:
    content = to_bytes(_network())
    for changed in (content + b"\xf8\x7f\x01", content[content.index(b":") :] + content[: content.index(b":")]):
        with pytest.raises(Rejected) as caught:
            admit(changed)
        assert caught.value.reason in ("NOT_CANONICAL", "NOT_ONNX")


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08", b"\xff" * 1000])
def test_admit_when_junk_then_not_onnx(content: bytes) -> None:
    with pytest.raises(Rejected, match="not an ONNX model"):
        admit(content)


def _checkpoint() -> onnx.ModelProto:
    model = randomised(lower(small_cnn()))
    state = numpy_helper.from_array(np.zeros((10, 16), np.float32), "head_fc.weight::momentum_buffer")
    model.training_info.add().algorithm.initializer.append(state)
    model.metadata_props.add(key=TRAINING_KEY, value="s" * 10_000)
    return model


def test_admit_takes_our_checkpoints_only_when_asked_for_one() -> None:
    content = to_bytes(_checkpoint())
    admitted = admit(content, checkpoint=True)
    assert admitted.digest == admit(to_bytes(lower(small_cnn()))).digest
    with pytest.raises(Rejected, match="training info is allowed in checkpoints of our own only"):
        admit(content)


def test_admit_when_training_info_has_nodes_then_refused_in_checkpoints_too() -> None:
    model = _checkpoint()
    model.training_info[0].algorithm.node.append(helper.make_node("Relu", ["a"], ["b"]))
    with pytest.raises(Rejected, match="training info is allowed in checkpoints of our own only"):
        admit(to_bytes(model), checkpoint=True)


def test_admit_untrusted_when_100_mb_of_junk_then_refused_before_parsing() -> None:
    content = bytes(100_000_000)
    start = time.perf_counter()
    with pytest.raises(Rejected) as caught:
        quarantine.admit_untrusted(content)
    assert caught.value.reason == "TOO_LARGE"
    assert time.perf_counter() - start < 0.2


def test_admit_untrusted_gives_the_same_verdict_as_admit() -> None:
    content = to_bytes(_network())
    assert quarantine.admit_untrusted(content).digest == admit(content).digest
    spoiled = from_bytes(content)
    _dims(spoiled, 1, 5, 3, 3)
    with pytest.raises(Rejected) as caught:
        quarantine.admit_untrusted(to_bytes(spoiled))
    assert (caught.value.reason, caught.value.field) == ("SHAPE_MISMATCH", "c")


def test_admit_untrusted_when_reading_needs_too_much_memory_then_refused() -> None:
    # 50 MB of empty nodes: each takes two bytes on the wire and more than a hundred in memory. The parser reports the
    # memory that it is refused as a message that it cannot read.
    graph = b"\x0a\x00" * 25_000_000
    length = len(graph)
    varint = bytes([(length >> shift & 0x7F) | (0x80 if length >> shift + 7 else 0) for shift in range(0, 28, 7)])
    with pytest.raises(Rejected) as caught:
        quarantine.admit_untrusted(b"\x3a" + varint + graph)
    assert caught.value.reason == "TOO_MANY"
