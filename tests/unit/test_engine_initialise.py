"""Start values: by the rule that the network names, from the seed and the parameter's name alone."""

import pytest
import torch
from onnx import TensorProto, helper

from nasmesh.model.engine.convert import to_module
from nasmesh.model.engine.initialise import fans, initial_value
from nasmesh.model.initializers import parse_init
from nasmesh.model.lower import lower
from tests.builders.architectures import small_cnn


def test_start_when_drawn_then_depends_on_seed_and_name_alone():
    small = to_module(lower(small_cnn()), seed=4)
    for name, value in to_module(lower(small_cnn()), seed=4).state_dict().items():
        assert torch.equal(value, small.state_dict()[name])
    weight = "stem_conv.conv.weight"
    assert not torch.equal(small.state_dict()[weight], to_module(lower(small_cnn()), seed=5).state_dict()[weight])
    widened = small_cnn(classes=7)
    assert torch.equal(small.state_dict()[weight], to_module(lower(widened), seed=4).state_dict()[weight])
    # Golden values: the same on every machine and version, or results of one seed stop being comparable.
    drawn = initial_value(parse_init("normal:0:1"), "a.weight", (3,), seed=1)
    assert drawn.tolist() == pytest.approx(GOLDEN, abs=1e-7)


GOLDEN = [0.7147339582443237, 1.0865066051483154, 0.6591881513595581]


@pytest.mark.parametrize(
    ("rule", "low", "high", "std"),
    [
        ("zeros", 0, 0, 0),
        ("ones", 1, 1, 0),
        ("constant:0.25", 0.25, 0.25, 0),
        ("normal:0.5:0.01", 0.4, 0.6, 0.01),
        ("uniform:-2:3", -2, 3, 5 / 12**0.5),
        ("kaiming_normal", -1, 1, (2 / 288) ** 0.5),
        ("kaiming_uniform", -((6 / 288) ** 0.5), (6 / 288) ** 0.5, (2 / 288) ** 0.5),
        ("xavier_normal", -1, 1, (2 / (288 + 576)) ** 0.5),
        ("xavier_uniform", -((6 / 864) ** 0.5), (6 / 864) ** 0.5, (2 / 864) ** 0.5),
    ],
)
def test_start_when_drawn_by_a_rule_then_has_its_range_and_spread(rule, low, high, std):
    value = initial_value(parse_init(rule), "w", (64, 32, 3, 3), seed=3)
    assert value.dtype == torch.float32
    assert low - 1e-7 <= float(value.min()) <= float(value.max()) <= high + 1e-7
    assert float(value.std()) == pytest.approx(std, rel=0.02, abs=1e-9)


def test_fans_when_a_weight_lists_inputs_first_then_swapped():
    assert fans((10, 20)) == (20, 10)
    assert fans((10, 20), input_first=True) == (10, 20)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2000])
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2000, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x, w], [y])
    weight = to_module(helper.make_model(graph, ir_version=10), seed=1).get_parameter("w")
    assert float(weight.detach().std()) == pytest.approx((2 / 2000) ** 0.5, rel=0.05)
