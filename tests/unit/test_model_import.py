"""Import: what exporters write becomes an admissible network that computes the same."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from onnx import helper, numpy_helper

from nasmesh.errors import Rejected
from nasmesh.model.admission import admit
from nasmesh.model.digest import structural_digest
from nasmesh.model.encode import to_bytes
from nasmesh.model.imported import import_onnx
from nasmesh.model.initializers import init_rule, parameter_names, trainable_names
from nasmesh.model.lower import lower
from nasmesh.model.quarantine import import_untrusted
from nasmesh.model.weights import weightless
from nasmesh.v1 import architecture_pb2 as pb
from tests.builders.architectures import architectures, small_cnn
from tests.builders.inference import randomised, run

RNG = np.random.default_rng(5)


def _weights(name: str, *dims: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.uniform(0.1, 1.0, dims).astype(np.float32), name)


def _ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _model(
    nodes: Sequence[onnx.NodeProto],
    tensors: Sequence[onnx.TensorProto],
    *,
    dims: Sequence[int | str] = ("batch", 3, 6, 6),
    classes: int = 4,
    opset: int = 17,
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("input.1", 1, dims)]
    outputs = [helper.make_tensor_value_info("out", 1, [dims[0], classes])]
    graph = helper.make_graph(list(nodes), "main_graph", inputs, outputs, list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _agrees(original: onnx.ModelProto, imported: onnx.ModelProto, batch: int = 1) -> None:
    """onnxruntime gives the same for the file and for what became of it, and the batch is free."""
    dims = [dim.dim_value for dim in original.graph.input[0].type.tensor_type.shape.dim][1:]
    sample = RNG.standard_normal((batch, *dims)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(original.SerializeToString(), options)
    (wanted,) = session.run(None, {original.graph.input[0].name: sample})
    np.testing.assert_allclose(run(imported, sample)[0], wanted, rtol=1e-5, atol=1e-6)
    assert run(imported, np.repeat(sample, 3, axis=0))[0].shape == (3 * batch, wanted.shape[1])
    assert admit(to_bytes(imported)).digest == structural_digest(weightless(imported))


def _exported(*, opset: int = 17) -> onnx.ModelProto:
    """What the legacy exporter writes in training mode: odd names, Constant nodes, BN and dropout in training form."""
    make = helper.make_node
    bn_outputs = ["/bn/out", "rm", "rv"] if opset >= 14 else ["/bn/out"]
    training = {"training_mode": 0} if opset >= 14 else {}
    nodes = [
        make("Conv", ["input.1", "onnx::Conv_12"], ["/conv/out"], kernel_shape=[3, 3]),
        make("BatchNormalization", ["/conv/out", "bn.w", "bn.b", "bn.m", "bn.v"], bn_outputs[:1], **training),
        make("Constant", [], ["low"], value=numpy_helper.from_array(np.float32(0.0).reshape(()), "")),
        make("Constant", [], ["high"], value=numpy_helper.from_array(np.float32(6.0).reshape(()), "")),
        make("Clip", ["/bn/out", "low", "high"], ["/clip/out"]),
        make("GlobalAveragePool", ["/clip/out"], ["/gap/out"]),
        make("Flatten", ["/gap/out"], ["/flat/out"]),
        make("Constant", [], ["ratio"], value=numpy_helper.from_array(np.float32(0.5).reshape(()), "")),
        make("Dropout", ["/flat/out", "ratio"], ["/drop/out", "/drop/mask"]),
        make("Gemm", ["/drop/out", "fc.weight", "fc.bias"], ["out"], transB=1),
    ]
    norms = [_weights(f"bn.{role}", 5) for role in "wbmv"]
    return _model(
        nodes,
        [_weights("onnx::Conv_12", 5, 3, 3, 3), *norms, _weights("fc.weight", 4, 5), _weights("fc.bias", 4)],
        opset=opset,
    )


@pytest.mark.parametrize("opset", [13, 17, 21, 25])
def test_import_reads_what_the_exporter_writes_in_many_opsets(opset: int) -> None:
    original = _exported(opset=opset)
    imported = import_onnx(to_bytes(original))
    _agrees(original, imported, batch=2)
    assert [value.name for value in imported.graph.input] == ["x"]
    assert [value.name for value in imported.graph.output] == ["logits"]
    assert imported.opset_import[0].version == opset
    wanted = ["onnx_Conv_12", "bn.w", "bn.b", "bn.m", "bn.v", "fc.weight", "fc.bias"]
    assert parameter_names(imported) == wanted
    assert trainable_names(imported) == ["onnx_Conv_12", "bn.w", "bn.b", "fc.weight", "fc.bias"]
    assert [str(init_rule(imported, name)) for name in wanted[:3]] == ["kaiming_normal", "ones", "zeros"]


def test_import_takes_batch_norm_and_dropout_out_of_training_form() -> None:
    original = _exported()
    norm = original.graph.node[1]
    norm.output.extend(["rm", "rv"])
    norm.attribute[0].i = 1
    original.graph.node[8].input.append("train")
    original.graph.initializer.append(numpy_helper.from_array(np.array(True), "train"))
    imported = import_onnx(to_bytes(original))
    assert to_bytes(imported) == to_bytes(import_onnx(to_bytes(imported)))
    nodes = {node.op_type: node for node in imported.graph.node}
    assert [len(nodes[name].output) for name in ("BatchNormalization", "Dropout")] == [1, 1]
    assert len(nodes["Dropout"].input) == 2


def _flattened(shape_nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto], **options: object):
    make = helper.make_node
    nodes = [
        make("Relu", ["input.1"], ["r"]),
        *shape_nodes,
        make("Reshape", ["r", "shape"], ["flat"]),
        make("Gemm", ["flat", "w"], ["out"], transB=1),
    ]
    return _model(nodes, [_weights("w", 4, 108), *tensors], **options)


def test_import_when_batch_was_fixed_then_freed() -> None:
    for sizes in [(2, 108), (2, -1), (-1, 108)]:
        original = _flattened([], [_ints("shape", *sizes)], dims=(2, 3, 6, 6))
        _agrees(original, import_onnx(to_bytes(original)), batch=2)


def test_import_folds_shape_arithmetic() -> None:
    make = helper.make_node
    arithmetic = [
        make("Shape", ["r"], ["s"]),
        make("Gather", ["s", "zero"], ["n"], axis=0),
        make("Unsqueeze", ["n", "zeros"], ["nn"]),
        make("Concat", ["nn", "rest"], ["shape"], axis=0),
    ]
    zero = numpy_helper.from_array(np.array(0, np.int64), "zero")
    original = _flattened(arithmetic, [zero, _ints("zeros", 0), _ints("rest", -1)])
    imported = import_onnx(to_bytes(original))
    assert [node.op_type for node in imported.graph.node] == ["Relu", "Reshape", "Gemm"]
    _agrees(original, imported, batch=2)


def test_import_unties_what_an_identity_tied() -> None:
    make = helper.make_node
    nodes = [
        make("Identity", ["ones"], ["bn2.weight"]),
        make("Flatten", ["input.1"], ["f"]),
        make("Gemm", ["f", "w"], ["g"], transB=1),
        make("BatchNormalization", ["g", "ones", "b1", "m", "v"], ["n1"]),
        make("BatchNormalization", ["n1", "bn2.weight", "b2", "m", "v"], ["out"]),
    ]
    tensors = [_weights("w", 4, 108), *(_weights(name, 4) for name in ("ones", "b1", "b2", "m", "v"))]
    original = _model(nodes, tensors)
    imported = import_onnx(to_bytes(original))
    assert {"ones", "bn2.weight"} <= set(trainable_names(imported))
    _agrees(original, imported)


def test_import_inlines_functions() -> None:
    make = helper.make_node
    opsets = [helper.make_opsetid("", 17)]
    body = [make("Sigmoid", ["a"], ["s"]), make("Mul", ["a", "s"], ["b"])]
    function = helper.make_function("local", "Silu", ["a"], ["b"], body, opsets)
    nodes = [
        make("Silu", ["input.1"], ["s"], domain="local"),
        make("Flatten", ["s"], ["f"]),
        make("Gemm", ["f", "w"], ["out"], transB=1),
    ]
    original = _model(nodes, [_weights("w", 4, 108)])
    original.functions.append(function)
    original.opset_import.add(domain="local", version=1)
    imported = import_onnx(to_bytes(original))
    assert not imported.functions
    assert [node.op_type for node in imported.graph.node] == ["Sigmoid", "Mul", "Flatten", "Gemm"]
    _agrees(original, imported)


def test_import_keeps_normalisation_of_the_data_constant() -> None:
    make = helper.make_node
    nodes = [
        make("Mul", ["input.1", "scale"], ["a"]),
        make("Mul", ["a", "gamma"], ["b"]),
        make("Flatten", ["b"], ["f"]),
        make("Gemm", ["f", "w"], ["out"], transB=1),
    ]
    original = _model(nodes, [_weights("w", 4, 108), _weights("scale", 1, 3, 1, 1), _weights("gamma", 1, 3, 1, 1)])
    imported = import_onnx(to_bytes(original))
    assert trainable_names(imported) == ["w", "gamma"]
    _agrees(original, imported)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(architectures())
def test_import_of_our_own_networks_changes_nothing(given_architecture: pb.Architecture) -> None:
    model = lower(given_architecture)
    assert to_bytes(import_onnx(to_bytes(model))) == to_bytes(model)
    trained = to_bytes(randomised(model))
    assert to_bytes(import_onnx(trained)) == trained


def test_import_untrusted_gives_the_same_from_a_child() -> None:
    content = to_bytes(lower(small_cnn()))
    assert to_bytes(import_untrusted(content).model) == content
    with pytest.raises(Rejected) as caught:
        import_untrusted(b"junk")
    assert caught.value.reason == "NOT_ONNX"


def test_import_when_operator_unknown_then_refused_by_name() -> None:
    original = _exported()
    original.graph.node[5].op_type = "NonMaxSuppression"
    original.graph.node[5].name = "detect"
    with pytest.raises(Rejected, match="NonMaxSuppression") as caught:
        import_onnx(to_bytes(original))
    assert (caught.value.reason, caught.value.field) == ("OP_NOT_ALLOWED", "detect")


def test_import_when_it_cannot_be_a_network_then_refused() -> None:
    def two_inputs(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("y", 1, ["batch", 3]))

    def external(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL

    def foreign(model: onnx.ModelProto) -> None:
        model.graph.node[0].domain = "com.microsoft"

    cases = [
        (two_inputs, "INPUT_AMBIGUOUS"),
        (external, "EXTERNAL_DATA"),
        (foreign, "DOMAIN_NOT_ALLOWED"),
        (lambda m: m.graph.output.add(name="/gap/out"), "OUTPUT_NOT_LOGITS"),
        (lambda m: setattr(m.opset_import[0], "version", 12), "OPSET_NOT_ALLOWED"),
        (lambda m: setattr(m.opset_import[0], "version", 99), "OPSET_NOT_ALLOWED"),
    ]
    for change, reason in cases:
        model = _exported()
        change(model)
        with pytest.raises(Rejected) as caught:
            import_onnx(to_bytes(model))
        assert caught.value.reason == reason
