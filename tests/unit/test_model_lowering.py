"""Lowering: the identity, equal bytes, and numbers in onnxruntime that agree with the definitions."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from nasmesh.errors import Rejected
from nasmesh.model.admission import admit
from nasmesh.model.architecture import shapes
from nasmesh.model.digest import structural_digest
from nasmesh.model.encode import from_bytes, to_bytes
from nasmesh.model.inference import infer_dims
from nasmesh.model.initializers import init_rule, parameter_names, parameters, trainable_names
from nasmesh.model.lower import lower
from nasmesh.model.metadata import ARCHITECTURE_KEY
from nasmesh.model.recover import recover_architecture
from nasmesh.model.weights import has_weights, strip_training, weight_values, weighted_bytes, weightless, with_weights
from nasmesh.v1 import architecture_pb2 as pb
from tests.builders.architectures import activation, architecture, architectures, block, conv, small_cnn
from tests.builders.inference import randomised, run

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@PROPERTY
@given(architectures())
def test_lower_any_architecture_round_trips_with_equal_bytes(given_architecture: pb.Architecture) -> None:
    model = lower(given_architecture)
    content = to_bytes(model)
    assert recover_architecture(from_bytes(content)) == given_architecture
    copy = pb.Architecture.FromString(given_architecture.SerializeToString())
    assert to_bytes(lower(copy)) == content
    assert to_bytes(from_bytes(content)) == content
    admitted = admit(content)
    assert admitted.counts.parameters == sum(
        int(np.prod(parameters(model)[name], dtype=object)) for name in trainable_names(model)
    )


@PROPERTY
@given(architectures())
def test_lower_any_architecture_runs_with_the_shapes_it_says(
    given_architecture: pb.Architecture,
) -> None:
    model = lower(given_architecture)
    onnx.checker.check_model(model, full_check=True)
    sizes = shapes(given_architecture)
    names = [made.id for made in given_architecture.blocks]
    sample = np.random.default_rng(1).standard_normal((3, *given_architecture.inputs[0].dims)).astype(np.float32)
    logits, *values = run(randomised(model), sample, [f"{name}.out" for name in names])
    inferred = infer_dims(model, 3)
    for name, value in zip(names, values, strict=True):
        assert value.shape == (3, *sizes[name]) == inferred[f"{name}.out"]
    np.testing.assert_array_equal(logits, values[-1])
    assert np.isfinite(logits).all()


@PROPERTY
@given(architectures())
def test_weights_added_and_taken_away_leave_the_network(given_architecture: pb.Architecture) -> None:
    model = lower(given_architecture)
    trained = randomised(model, seed=3)
    assert has_weights(trained)
    assert to_bytes(weightless(trained)) == to_bytes(model)
    assert structural_digest(trained) == structural_digest(model)
    assert weighted_bytes(model) == weighted_bytes(trained) == len(to_bytes(trained))
    again = with_weights(model, weight_values(trained))
    assert to_bytes(again) == to_bytes(trained)
    assert admit(to_bytes(trained)).counts == admit(to_bytes(model)).counts


def _single(dims: tuple[int, ...], **operation: object) -> pb.Architecture:
    """One block "b" on the input, flattened."""
    return architecture(dims, "f", block("b", "x", **operation), block("f", "b", flatten=pb.Flatten()))


def _value(given_architecture: pb.Architecture, sample: np.ndarray, name: str = "b.out") -> np.ndarray:
    return run(randomised(lower(given_architecture)), sample, [name])[1]


def test_average_pool_leaves_padding_out_of_the_mean() -> None:
    pool = pb.Pool(kind=pb.POOL_KIND_AVERAGE, kernel=3, stride=2, padding=pb.PADDING_SAME)
    result = _value(_single((1, 4, 4), pool=pool), np.ones((1, 1, 4, 4), np.float32))
    np.testing.assert_allclose(result, np.ones((1, 1, 2, 2)))


def test_same_padding_puts_the_odd_surplus_at_the_end() -> None:
    model = lower(_single((1, 4, 5), conv=conv(1, 3, stride=2)))
    attributes = {a.name: list(a.ints) for a in model.graph.node[0].attribute}
    assert attributes["pads"] == [0, 1, 1, 1]
    sample = np.zeros((1, 1, 4, 5), np.float32)
    sample[0, 0, 0, 0] = 1.0
    trained = with_weights(model, {"b.weight": np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)})
    # Nothing above, one column to the left: the sample's corner meets the kernel's first row, second column.
    assert run(trained, sample, ["b.out"])[1][0, 0, 0, 0] == 1.0


def test_separable_conv_is_depthwise_then_pointwise() -> None:
    model = lower(_single((3, 6, 6), conv=conv(5, 3, separable=True, bias=True)))
    assert parameters(model) == {
        "b.depthwise.weight": (3, 1, 3, 3),
        "b.pointwise.weight": (5, 3, 1, 1),
        "b.pointwise.bias": (5,),
    }


def _unit(order: int, **fields: object) -> pb.ConvUnit:
    norm = pb.BatchNorm(offset=True)
    return pb.ConvUnit(conv=conv(4), norm=norm, activation=activation(), order=order, **fields)


def test_conv_unit_orders_its_parts_as_asked() -> None:
    after = lower(_single((3, 6, 6), conv_unit=_unit(pb.CONV_ORDER_CONV_NORM_ACT, dropout=pb.Dropout(rate=0.2))))
    before = lower(_single((3, 6, 6), conv_unit=_unit(pb.CONV_ORDER_ACT_CONV_NORM)))
    names = [node.output[0] for node in after.graph.node][:5]
    assert names == ["b.conv", "b.norm", "b.act", "b.drop", "b.out"]
    assert [node.output[0] for node in before.graph.node][:4] == ["b.act", "b.conv", "b.norm", "b.out"]
    assert parameter_names(after) == ["b.conv.weight", "b.norm.bias", "b.norm.running_mean", "b.norm.running_var"]
    assert [tensor.name for tensor in after.graph.initializer] == ["b.norm.fixed_weight", "b.drop.ratio"]
    assert trainable_names(after) == ["b.conv.weight", "b.norm.bias"]


def test_zero_gives_zeros() -> None:
    sample = np.full((2, 3), 5.0, np.float32)
    np.testing.assert_array_equal(_value(_single((3,), zero=pb.Zero()), sample), np.zeros((2, 3)))


def test_mixed_weighs_candidates_by_softmax_of_alpha() -> None:
    keep = pb.MixedCandidate(id="keep", operation=pb.Operation(identity=pb.Identity()))
    none = pb.MixedCandidate(id="none", operation=pb.Operation(zero=pb.Zero()))
    model = lower(_single((2,), mixed=pb.MixedOp(candidates=[keep, none])))
    assert str(init_rule(model, "b.alpha")) == "normal:0.0:0.001"
    trained = with_weights(model, {"b.alpha": np.array([np.log(3.0), 0.0], np.float32)})
    np.testing.assert_allclose(run(trained, np.full((1, 2), 4.0, np.float32), ["b.out"])[1], [[3.0, 3.0]], rtol=1e-6)


def test_edge_resizes_then_scales_by_one_trainable_number() -> None:
    pool = pb.Pool(kind=pb.POOL_KIND_MAX, kernel=5, stride=4, padding=pb.PADDING_SAME)
    edges = [
        pb.Edge(source="p"),
        pb.Edge(source="x", resize=pb.RESIZE_MAX_POOL_2X2, scale=pb.EdgeScale(init_mean=0.5, init_std=0.01)),
    ]
    merged = pb.Block(id="m", inputs=edges, merge=pb.MERGE_CONCAT, operation=pb.Operation(identity=pb.Identity()))
    flat = block("f", "m", flatten=pb.Flatten())
    model = lower(architecture((1, 7, 7), "f", block("p", "x", pool=pool), merged, flat))
    assert parameters(model) == {"m.scale.x": ()}
    assert str(init_rule(model, "m.scale.x")) == "normal:0.5:0.01"
    sample = np.arange(49, dtype=np.float32).reshape(1, 1, 7, 7)
    result = run(with_weights(model, {"m.scale.x": np.float32(-2.0).reshape(())}), sample, ["m.out"])[1]
    # 7 -> 4 -> 2: the maxima of the quadrants that halving with ceiling gives, then times -2.
    np.testing.assert_array_equal(result[0, 1], [[-48.0, -54.0], [-90.0, -96.0]])


def test_lower_names_inputs_outputs_and_versions() -> None:
    model = lower(small_cnn())
    assert [value.name for value in model.graph.input][:2] == ["x", "stem_conv.conv.weight"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (10, [("", 21)])
    assert str(init_rule(model, "stem_conv.conv.weight")) == "kaiming_normal"


def test_recover_when_metadata_lies_then_refused() -> None:
    model = lower(small_cnn())
    other = lower(small_cnn(channels=4))
    for prop in model.metadata_props:
        if prop.key == ARCHITECTURE_KEY:
            prop.value = next(p.value for p in other.metadata_props if p.key == ARCHITECTURE_KEY)
    with pytest.raises(Rejected) as caught:
        recover_architecture(model)
    assert caught.value.reason == "ARCHITECTURE_MISMATCH"
    del model.metadata_props[:]
    assert recover_architecture(model) is None


def test_with_weights_when_a_value_does_not_fit_then_named() -> None:
    model = lower(small_cnn())
    values = weight_values(randomised(model))
    for spoil in ({"stem_conv.conv.weight": np.zeros((1,), np.float32)}, {"nobody": np.zeros((1,), np.float32)}):
        with pytest.raises(Rejected) as caught:
            with_weights(model, values | spoil)
        assert caught.value.field in spoil
    with pytest.raises(Rejected):
        weight_values(model)


def test_strip_training_drops_state_only() -> None:
    trained = randomised(lower(small_cnn()))
    checkpoint = onnx.ModelProto()
    checkpoint.CopyFrom(trained)
    state = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "head_fc.weight::momentum_buffer")
    checkpoint.training_info.add().algorithm.initializer.append(state)
    checkpoint.metadata_props.add(key="nasmesh.training", value="{}")
    assert to_bytes(strip_training(checkpoint)) == to_bytes(trained)
