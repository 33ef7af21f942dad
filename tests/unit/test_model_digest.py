"""The structural digest: blind to names, operand order and weights; not to structure."""

import random
from collections.abc import Callable

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasmesh.model.digest import structural_digest
from nasmesh.model.lower import lower
from nasmesh.v1 import architecture_pb2 as pb
from tests.builders.architectures import architecture, architectures, block, conv, random_architecture, small_cnn

COMMUTATIVE = ("Add", "Mul", "Sum", "Max", "Min", "Mean")


def disguised(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The same network: values renamed, commutative operands and parameter inputs shuffled."""
    rng = random.Random(seed)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = {name for node in result.graph.node for name in (*node.input, *node.output)} - {"x", ""}
    order = sorted(names)
    rng.shuffle(order)
    fresh = {name: f"v{number}" for number, name in enumerate(order)} | {"x": "x", "": ""}
    for node in result.graph.node:
        node.name = ""
        inputs, outputs = [fresh[name] for name in node.input], [fresh[name] for name in node.output]
        if node.op_type in COMMUTATIVE:
            rng.shuffle(inputs)
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
    for proto in (*result.graph.input, *result.graph.output, *result.graph.initializer):
        proto.name = fresh[proto.name]
    shuffled = list(result.graph.input)[1:]
    rng.shuffle(shuffled)
    first = result.graph.input[0]
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in (first, *shuffled)]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    return result


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(architectures(), st.integers(0, 1000))
def test_digest_when_renamed_and_reordered_then_the_same(given_architecture: pb.Architecture, seed: int) -> None:
    model = lower(given_architecture)
    assert structural_digest(disguised(model, seed)) == structural_digest(model)


def test_digest_of_different_random_architectures_never_collides() -> None:
    digests = {structural_digest(lower(random_architecture(seed))) for seed in range(80)}
    assert len(digests) == 80


def _kernel(a: pb.Architecture) -> None:
    a.blocks[0].operation.conv_unit.conv.kernel_h = 5


CHANGES: dict[str, Callable[[pb.Architecture], object]] = {
    "channels": lambda a: setattr(a.blocks[0].operation.conv_unit.conv, "channels", 9),
    "kernel": _kernel,
    "dilation": lambda a: setattr(a.blocks[0].operation.conv_unit.conv, "dilation", 2),
    "bias": lambda a: setattr(a.blocks[0].operation.conv_unit.conv, "bias", True),
    "epsilon": lambda a: setattr(a.blocks[0].operation.conv_unit.norm, "epsilon", 1e-3),
    "momentum": lambda a: setattr(a.blocks[0].operation.conv_unit.norm, "momentum", 0.5),
    "no gamma": lambda a: setattr(a.blocks[0].operation.conv_unit.norm, "scale", False),
    "activation": lambda a: setattr(a.blocks[0].operation.conv_unit.activation, "kind", pb.ACTIVATION_KIND_TANH),
    "order": lambda a: setattr(a.blocks[0].operation.conv_unit, "order", pb.CONV_ORDER_ACT_CONV_NORM),
    "dropout": lambda a: setattr(a.blocks[0].operation.conv_unit.dropout, "rate", 0.5),
    "pool kind": lambda a: setattr(a.blocks[1].operation.pool, "kind", pb.POOL_KIND_AVERAGE),
    "separable": lambda a: setattr(a.blocks[2].operation.conv_unit.conv, "separable", False),
    "classes": lambda a: setattr(a.blocks[4].operation.linear, "features", 11),
    "input size": lambda a: a.inputs[0].dims.__setitem__(1, 9),
    "scale": lambda a: setattr(a.blocks[1].inputs[0].scale, "init_mean", 1.0),
    "preprocessing": lambda a: a.preprocessing.mean.append(0.5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_digest_when_structure_changes_then_another(name: str) -> None:
    changed = small_cnn()
    CHANGES[name](changed)
    assert structural_digest(lower(changed)) != structural_digest(lower(small_cnn()))


def _joined(merge: int, *sources: str) -> str:
    branches = [block("a", "x", conv=conv(2, 1)), block("b", "x", conv=conv(2, 3))]
    merged = block("m", " ".join(sources), merge, flatten=pb.Flatten())
    return structural_digest(lower(architecture((2, 4, 4), "m", *branches, merged)))


def test_digest_sees_order_of_concatenation_but_not_of_sums() -> None:
    assert _joined(pb.MERGE_SUM, "a", "b") == _joined(pb.MERGE_SUM, "b", "a")
    assert _joined(pb.MERGE_CONCAT, "a", "b") != _joined(pb.MERGE_CONCAT, "b", "a")


def _chains(*weights: str) -> onnx.ModelProto:
    """Two chains of two products, summed; `weights` names the four matrices, equal names being shared."""
    names = iter(weights)
    nodes, ends = [], []
    for chain in "ab":
        value = "x"
        for step in "12":
            nodes.append(onnx.helper.make_node("MatMul", [value, next(names)], [f"{chain}{step}"]))
            nodes.append(onnx.helper.make_node("Relu", [f"{chain}{step}"], [f"{chain}{step}r"]))
            value = f"{chain}{step}r"
        ends.append(value)
    nodes.append(onnx.helper.make_node("Add", ends, ["logits"]))
    make = onnx.helper.make_tensor_value_info
    inputs = [make("x", 1, ["N", 3]), *(make(name, 1, [3, 3]) for name in sorted(set(weights)))]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [make("logits", 1, ["N", 3])])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def test_digest_sees_which_weights_are_shared() -> None:
    patterns = ["pqrs", "ppqq", "pqqp", "pqpq", "pppp", "ppqr", "pqpr"]
    digests = {pattern: structural_digest(_chains(*pattern)) for pattern in patterns}
    assert len(set(digests.values())) == len(patterns)
    assert structural_digest(_chains(*"qprs")) == digests["pqrs"]
    assert structural_digest(_chains(*"srsr")) == digests["pqpq"]


def test_digest_sees_whether_a_value_is_used_twice_or_made_twice() -> None:
    make = onnx.helper.make_node
    once, twice = _chains(*"pqrs"), _chains(*"pqrs")
    del once.graph.node[:]
    once.graph.node.extend([make("MatMul", ["x", "p"], ["a"]), make("Add", ["a", "a"], ["logits"])])
    del twice.graph.node[:]
    twice.graph.node.extend(
        [make("MatMul", ["x", "p"], ["a"]), make("MatMul", ["x", "q"], ["b"]), make("Add", ["a", "b"], ["logits"])]
    )
    assert structural_digest(once) != structural_digest(twice)


def test_digest_ignores_identities_dead_nodes_and_stated_defaults() -> None:
    plain, dressed = _chains(*"pqrs"), _chains(*"pqrs")
    make = onnx.helper.make_node
    dressed.graph.node[-1].output[0] = "sum"
    dressed.graph.node.extend([make("Identity", ["sum"], ["logits"]), make("Elu", ["x"], ["unused"], alpha=1.0)])
    assert structural_digest(dressed) == structural_digest(plain)
