"""Admission at its edges: what is just allowed passes, the next thing beyond is refused. Each stands for a mutant."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nasmesh import limits
from nasmesh.errors import Rejected
from nasmesh.model.admission import admit
from nasmesh.model.encode import to_bytes
from nasmesh.model.reasons import Reason

Change = Callable[[onnx.ModelProto], object]


def network(*between: onnx.NodeProto, opset: int = 21) -> onnx.ModelProto:
    """conv "c", relu "r", what is between, flatten "f", gemm "logits", weightless, on [N, 3, 8, 8]."""
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "c.weight"], ["c"], name="c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make("Relu", ["c"], ["r"], name="r"),
        *between,
        make("Flatten", [between[-1].output[0] if between else "r"], ["f"], name="f"),
        make("Gemm", ["f", "fc.weight"], ["logits"], name="fc", transB=1),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", 1, ["N", 3, 8, 8]), value("c.weight", 1, [4, 3, 3, 3]), value("fc.weight", 1, [10, 256])]
    graph = helper.make_graph(nodes, "network", inputs, [value("logits", 1, ["N", 10])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def stored(model: onnx.ModelProto, *dims: int) -> None:
    """Store a parameter that the list of inputs has as well."""
    model.graph.initializer.append(numpy_helper.from_array(np.full(dims, 0.5, np.float32), "fc.weight"))


def declare(model: onnx.ModelProto, name: str, *dims: int | str) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))


def declare_no_shape(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))


GOOD: dict[str, Change] = {
    "nothing": lambda _: None,
    "the oldest opset": lambda m: setattr(m.opset_import[0], "version", limits.ADMISSION_OPSET_MIN),
    "the newest opset": lambda m: setattr(m.opset_import[0], "version", limits.ADMISSION_OPSET_MAX),
    "a declared value": lambda m: declare(m, "r", "N", 4, 8, 8),
    "a declared value without shape": declare_no_shape,
}

BAD: dict[str, tuple[Change, Reason, str]] = {
    "an opset too old": (
        lambda m: setattr(m.opset_import[0], "version", limits.ADMISSION_OPSET_MIN - 1),
        Reason.OPSET_NOT_ALLOWED,
        "opset_import",
    ),
    "an opset too new": (
        lambda m: setattr(m.opset_import[0], "version", limits.ADMISSION_OPSET_MAX + 1),
        Reason.OPSET_NOT_ALLOWED,
        "opset_import",
    ),
    "a stored value that is an input too": (lambda m: stored(m, 10, 256), Reason.GRAPH_INVALID, "graph"),
    "a stored value of other dims": (lambda m: stored(m, 256, 10), Reason.GRAPH_INVALID, "fc.weight"),
    "a declared value of other dims": (lambda m: declare(m, "r", "N", 4, 8, 9), Reason.SHAPE_MISMATCH, "r"),
    "a declared value that nothing makes": (lambda m: declare(m, "q", "N", 4), Reason.SHAPE_MISMATCH, "q"),
    "an output of a fixed batch": (
        lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])),
        Reason.SHAPE_UNKNOWN,
        "logits",
    ),
    "an output that nothing makes": (
        lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info("none", TensorProto.FLOAT, ["N", 10])),
        Reason.GRAPH_INVALID,
        "graph",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_admit_when_just_allowed_then_admitted(name: str) -> None:
    model = network()
    GOOD[name](model)
    assert admit(to_bytes(model)).counts.parameters == 4 * 27 + 2560


@pytest.mark.parametrize("name", BAD)
def test_admit_when_just_beyond_then_refused_with_reason_and_name(name: str) -> None:
    change, reason, where = BAD[name]
    model = network()
    change(model)
    with pytest.raises(Rejected) as caught:
        admit(to_bytes(model))
    assert (caught.value.reason, caught.value.field) == (reason.value, where)


def test_admit_when_the_batch_is_mixed_in_and_taken_out_again_then_refused() -> None:
    model = network(
        helper.make_node("Reshape", ["r", "rows"], ["v"], name="v"),
        helper.make_node("Reshape", ["v", "images"], ["w"], name="w"),
    )
    for name, dims in (("rows", [4, -1]), ("images", [-1, 4, 8, 8])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(dims, np.int64), name))
    with pytest.raises(Rejected) as caught:
        admit(to_bytes(model))
    assert (caught.value.reason, caught.value.field) == (Reason.SHAPE_UNKNOWN.value, "v")


@pytest.mark.parametrize("limit", ["ADMISSION_PARAMETERS", "ADMISSION_MACS"])
def test_admit_when_a_total_is_at_its_limit_then_admitted_and_one_beyond_refused(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = to_bytes(network())
    counts = admit(content).counts
    most = counts.parameters if limit == "ADMISSION_PARAMETERS" else counts.macs
    monkeypatch.setattr(limits, limit, most)
    admit(content)
    monkeypatch.setattr(limits, limit, most - 1)
    with pytest.raises(Rejected) as caught:
        admit(content)
    assert caught.value.reason == Reason.TOO_LARGE.value


def test_admit_when_larger_than_a_network_may_be_then_only_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    content = to_bytes(network())
    monkeypatch.setattr(limits, "NETWORK_BYTES", len(content) - 1)
    admit(content, checkpoint=True)
    with pytest.raises(Rejected):
        admit(content)
