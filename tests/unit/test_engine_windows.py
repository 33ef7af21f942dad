"""Windowed operators of random geometry against onnxruntime: padding is where frameworks differ."""

import random

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from nasmesh.errors import Rejected
from nasmesh.model.engine.convert import to_module
from nasmesh.model.engine.padding import Window, ceil_mode_fits
from nasmesh.model.initializers import InitRule, annotate
from nasmesh.model.weights import with_weights
from tests.builders.training import serve

torch.set_num_threads(1)


def _window(rng: random.Random, op: str) -> dict[str, object]:
    kernel = [rng.randint(1, 4), rng.randint(1, 4)]
    found: dict[str, object] = {"kernel_shape": kernel, "strides": [rng.randint(1, 3), rng.randint(1, 3)]}
    kind = rng.choice(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if kind != "NOTSET":
        found["auto_pad"] = kind
        if op != "Conv":  # a window below its stride is refused there
            found["strides"] = [min(pair) for pair in zip(kernel, found["strides"], strict=True)]
    elif op in ("AveragePool", "MaxPool"):
        found["pads"] = [rng.randint(0, size - 1) for size in kernel * 2]
        found["ceil_mode"] = rng.randint(0, 1)
    else:
        found["pads"] = [rng.randint(0, 3) for _ in kernel * 2]
        found["dilations"] = [rng.randint(1, 2), rng.randint(1, 2)]
    if op == "AveragePool":
        found["count_include_pad"] = rng.randint(0, 1)
    return found


def _model(op: str, attributes: dict[str, object], dims: list[int]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *dims])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "H", "W"])
    inputs, names = [x], ["x"]
    if "Conv" in op:
        shape = (
            [dims[0], 5, *attributes["kernel_shape"]]
            if op == "ConvTranspose"
            else [5, dims[0], *attributes["kernel_shape"]]
        )
        for name, size in (("w", shape), ("b", [5])):
            value = helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
            annotate(value, InitRule("normal", (0.0, 1.0)))
            inputs.append(value)
            names.append(name)
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", inputs, [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
def test_window_when_of_any_geometry_then_onnxruntime_agrees(op):
    rng = random.Random(17)
    compared = 0
    for _ in range(60):
        attributes, dims = _window(rng, op), [3, rng.randint(5, 10), rng.randint(5, 10)]
        module = to_module(_model(op, attributes, dims), seed=1).eval()
        x = torch.randn(2, *dims, generator=torch.Generator().manual_seed(compared))
        values = {name: value.numpy() for name, value in module.state_dict().items()}
        expected = serve(with_weights(_model(op, attributes, dims), values), x)
        with torch.no_grad():
            found = module(x).numpy()
        assert found.shape == expected.shape, attributes
        assert np.abs(found - expected).max() <= 1e-5, attributes
        compared += 1
    assert compared == 60


def test_ceil_mode_when_it_lays_the_same_windows_then_nothing_is_copied():
    window = Window((2, 2), (2, 2), (1, 1), (0, 0), (1, 1))
    assert ceil_mode_fits((7, 7), window, (0, 0), (1, 1))
    assert ceil_mode_fits((8, 8), window, (0, 0), (1, 1))  # the surplus row starts no window
    wide = Window((3, 3), (2, 2), (1, 1), (0, 0), (3, 3))
    assert not ceil_mode_fits((7, 7), wide, (0, 0), (3, 3))
    assert not ceil_mode_fits((7, 7), Window((1, 1), (1, 1), (1, 1), (1, 1), (1, 1)), (1, 1), (1, 1))


@pytest.mark.parametrize("op", ["ConvTranspose", "MaxPool", "AveragePool"])
def test_window_when_same_padding_would_be_negative_then_refused(op):
    attributes = {"kernel_shape": [1, 1], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    with pytest.raises(Rejected, match="auto_pad"):
        to_module(_model(op, attributes, [3, 6, 6]), seed=1)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "pads": [-1, 0, 0, 0]},
        {"kernel_shape": [3, 3], "strides": [0, 1]},
        {"kernel_shape": [3, 3], "strides": [1]},
        {"kernel_shape": [2, 2]},
        {"kernel_shape": [3, 3], "auto_pad": "MAYBE"},
    ],
)
def test_window_when_it_makes_no_sense_then_refused(attributes):
    model = _model("Conv", {"kernel_shape": [3, 3]}, [3, 5, 5])
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    with pytest.raises(Rejected, match="node 'y'"):
        to_module(model, seed=1)
