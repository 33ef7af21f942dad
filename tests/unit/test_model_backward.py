"""What a sample leaves behind for the backward pass, held against the tensors that torch itself saves."""

from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from nasmesh import spaces
from nasmesh.model.backward import Kept, kept
from nasmesh.model.engine.convert import to_module
from nasmesh.model.inference import infer_dims
from nasmesh.model.initializers import Interface, annotate, parse_init
from nasmesh.model.lower import lower
from nasmesh.model.metadata import DROP_PATH_KEY, named_values
from nasmesh.v1 import space_pb2
from tests.builders.generating import build, chain, envelope
from train_svc.paths import insert_paths

BATCH = 4
SPACES = {
    "envelope": envelope((1, 2, True), (1, 2, False), width=16),
    "cell": space_pb2.Space(cell=space_pb2.CellSpace()),
    "chain": chain(max_layers=6, channels=[8, 16]),
    "envelope with paths": envelope((1, 2, True), (1, 2, False), width=16, drop_path=True, auxiliary_head=True),
    "cell with paths": space_pb2.Space(cell=space_pb2.CellSpace(drop_path=True, auxiliary_head=True)),
}


def counted(model: onnx.ModelProto) -> Kept:
    return kept(model, infer_dims(model, batch=1), Interface.of(model))


def saved_numbers(model: onnx.ModelProto, *, layout: torch.memory_format = torch.contiguous_format) -> float:
    """Return the float32 numbers a sample that torch holds between the passes; parameters do not count."""
    module = to_module(model, seed=0).train().to(memory_format=layout)
    paths = insert_paths(module, named_values(model, DROP_PATH_KEY), 0.5, torch.device("cpu"))
    if paths is not None:
        paths.at(1)
    dims = infer_dims(model, batch=BATCH)[Interface.of(model).data[0]]
    x = torch.rand(dims, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    held: list[torch.Tensor] = []
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # as long as it is held, nothing else gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = module(x)
    assert all(output.requires_grad for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
    return sum(storages.values()) / 4 / BATCH


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", [1, 2])
def test_network_when_trained_then_torch_saves_what_was_counted(
    name: str, seed: int, layout: torch.memory_format
) -> None:
    space = spaces.complete(SPACES[name])
    model = lower(build(space, spaces.sample(space, Random(seed)), (3, 16, 16)))
    found, real = counted(model), saved_numbers(model, layout=layout)
    assert real * 0.97 <= found.numbers <= real * 1.06, (
        f"{name} {seed}: {found.numbers} counted, torch saves {real:.0f}"
    )
    assert found.peak >= found.numbers


def network_of(op: str, inputs: int, more: dict[str, Any], attributes: dict[str, Any]) -> onnx.ModelProto:
    """Return x -> as many convolutions as the operator has inputs -> operator -> mean -> logits."""
    weights = {f"w{i}": np.ones((6, 3, 1, 1), np.float32) for i in range(inputs)}
    tensors = {**weights, **more}
    nodes = [helper.make_node("Conv", ["x", f"w{i}"], [f"c{i}"], name=f"c{i}") for i in range(inputs)]
    nodes.append(helper.make_node(op, [*(f"c{i}" for i in range(inputs)), *more], ["y"], name="y", **attributes))
    nodes.append(helper.make_node("GlobalAveragePool", ["y"], ["m"], name="m"))
    nodes.append(helper.make_node("Flatten", ["m"], ["logits"], name="logits"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    for tensor in graph.initializer:
        if tensor.name not in FIXED:
            annotate(tensor, parse_init("ones"))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


FIXED = ("ratio", "low", "high", "number")
ONES, ZEROS = np.ones(6, np.float32), np.zeros(6, np.float32)
NORM = {"scale": ONES, "bias": ZEROS}
WINDOW = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
ONE_SIDED = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}
CASES: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    **{
        op: (op, 1, {}, {})
        for op in (
            *("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Mish", "Identity", "LeakyRelu", "Elu"),
            *("Celu", "Selu", "ThresholdedRelu", "HardSigmoid", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs"),
            *("Reciprocal", "Softmax", "LogSoftmax"),
        )
    },
    **{op: (op, 2, {}, {}) for op in ("Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min")},
    "Max of three": ("Max", 3, {}, {}),
    "Mul by a trained number": ("Mul", 1, {"scale": np.ones((6, 1, 1), np.float32)}, {}),
    "Mul by a fixed number": ("Mul", 1, {"number": np.zeros((), np.float32)}, {}),
    "PRelu": ("PRelu", 1, {"slope": np.ones((6, 1, 1), np.float32)}, {}),
    "Clip": ("Clip", 1, {"low": np.zeros((), np.float32), "high": np.ones((), np.float32)}, {}),
    "Conv": ("Conv", 1, {"k": np.ones((5, 6, 3, 3), np.float32)}, WINDOW),
    "Conv, padded at one side": ("Conv", 1, {"k": np.ones((5, 6, 2, 2), np.float32)}, ONE_SIDED),
    "ConvTranspose": ("ConvTranspose", 1, {"k": np.ones((6, 5, 2, 2), np.float32)}, {"strides": [2, 2]}),
    "MaxPool": ("MaxPool", 1, {}, WINDOW),
    "MaxPool, padded at one side": ("MaxPool", 1, {}, ONE_SIDED),
    "AveragePool": ("AveragePool", 1, {}, WINDOW),
    "AveragePool, stride 2": ("AveragePool", 1, {}, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "GlobalMaxPool": ("GlobalMaxPool", 1, {}, {}),
    "BatchNormalization": ("BatchNormalization", 1, {**NORM, "mean": ZEROS, "variance": ONES}, {}),
    "GroupNormalization": ("GroupNormalization", 1, NORM, {"num_groups": 2}),
    "InstanceNormalization": ("InstanceNormalization", 1, NORM, {}),
    "LRN": ("LRN", 1, {}, {"size": 3}),
    "Dropout": ("Dropout", 1, {"ratio": np.full((), 0.5, np.float32)}, {}),
    "Dropout of nothing": ("Dropout", 1, {"ratio": np.zeros((), np.float32)}, {}),
    "Transpose": ("Transpose", 1, {}, {"perm": [0, 1, 3, 2]}),
}


@pytest.mark.parametrize("case", CASES)
def test_operator_when_trained_then_torch_saves_no_more_than_was_counted(case: str) -> None:
    op, inputs, more, attributes = CASES[case]
    model = network_of(op, inputs, more, attributes)
    found, real = counted(model).numbers, saved_numbers(model)
    image, position = 6 * 8 * 8, 8 * 8
    assert found >= real - position, f"{case}: {found} counted, torch saves {real:.0f}"
    assert found <= real + image, f"{case}: {found} counted, torch saves {real:.0f}"


def test_silu_when_written_as_a_product_then_it_keeps_its_input_alone() -> None:
    model = network_of("Sigmoid", 1, {}, {})
    model.graph.node[-2].input[0] = "z"
    model.graph.node.insert(2, helper.make_node("Mul", ["c0", "y"], ["z"], name="z"))
    assert (
        abs(counted(model).numbers - saved_numbers(model)) <= 8 * 8 + counted(network_of("Sigmoid", 1, {}, {})).numbers
    )
    assert counted(model).numbers < 3 * 8 * 8 + 3 * 6 * 8 * 8


def test_peak_when_a_chain_is_trained_then_gradients_are_alive_beside_what_is_kept() -> None:
    model = network_of("Relu", 1, {}, {})
    image = 6 * 8 * 8
    found = counted(model)
    assert found.numbers == 3 * 8 * 8 + image
    # At the convolution: its input, its output's gradient, and a copy of both for the product in another layout.
    assert found.peak >= found.numbers + image
