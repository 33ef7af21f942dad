"""Auxiliary classifiers and drop-path marks in architectures and networks."""

import json

import onnx
import pytest

from nasmesh.errors import Rejected
from nasmesh.model.admission import admit
from nasmesh.model.auxiliary import without_auxiliary
from nasmesh.model.digest import structural_digest
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.model.metadata import AUXILIARY_KEY, DROP_PATH_KEY, metadata_value, named_values
from nasmesh.v1 import architecture_pb2 as pb
from tests.builders.training_jobs import headed, tiny


def _prop(model, key):
    return next(prop for prop in model.metadata_props if prop.key == key)


def test_headed_when_lowered_then_names_its_outputs_and_marks_and_is_admitted():
    model = lower(headed())
    assert [value.name for value in model.graph.output] == ["logits", "fc2.logits"]
    assert named_values(model, AUXILIARY_KEY) == ["fc2.logits"]
    assert named_values(model, DROP_PATH_KEY) == ["b.path.a"]
    assert admit(to_bytes(model)).architecture == headed()
    for key in (AUXILIARY_KEY, DROP_PATH_KEY):
        assert metadata_value(lower(tiny()), key) is None, "a network without them has the bytes it always had"


def test_headed_when_its_heads_are_taken_then_is_the_network_without_them():
    bare = headed()
    del bare.auxiliary_outputs[:]
    del bare.blocks[-2:]
    assert to_bytes(without_auxiliary(lower(headed()))) == to_bytes(lower(bare))
    model = lower(bare)
    assert without_auxiliary(model) is model


def test_digest_when_there_are_heads_or_marks_then_is_another():
    marked = tiny()
    marked.blocks[1].inputs[0].drop_path = True
    assert len({structural_digest(lower(network)) for network in (tiny(), marked, headed())}) == 3


@pytest.mark.parametrize(
    ("names", "reason", "where"),
    [
        (["nowhere"], "OUTPUT_UNKNOWN", "auxiliary_outputs"),
        (["x"], "OUTPUT_UNKNOWN", "auxiliary_outputs"),
        (["fc"], "OUTPUT_UNKNOWN", "auxiliary_outputs"),
        (["fc2", "fc2"], "OUTPUT_UNKNOWN", "auxiliary_outputs"),
        (["fc2", "gap2"], "OUTPUT_NOT_LOGITS", "gap2"),
        ([], "BLOCK_UNUSED", "fc2"),
    ],
)
def test_architecture_when_its_heads_are_wrong_then_refused(names, reason, where):
    network = headed()
    network.auxiliary_outputs[:] = names
    with pytest.raises(Rejected) as caught:
        lower(network)
    assert (caught.value.reason, caught.value.field) == (reason, where)


def test_architecture_when_a_head_has_other_classes_then_refused():
    network = headed()
    network.blocks[-1].operation.linear.features = 7
    with pytest.raises(Rejected) as caught:
        lower(network)
    assert caught.value.reason == "OUTPUT_NOT_LOGITS"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (AUXILIARY_KEY, json.dumps([]), "OUTPUT_NOT_LOGITS"),
        (AUXILIARY_KEY, json.dumps(["logits"]), "OUTPUT_NOT_LOGITS"),
        (AUXILIARY_KEY, json.dumps({"a": 1}), "NAME_INVALID"),
        (DROP_PATH_KEY, "[" * 500_000, "NAME_INVALID"),
        (DROP_PATH_KEY, json.dumps(["a.conv"]), "NAME_INVALID"),
        (DROP_PATH_KEY, json.dumps([["b.path.a"]]), "NAME_INVALID"),
        (DROP_PATH_KEY, json.dumps(["b.path.a", "b.path.a"]), "NAME_INVALID"),
    ],
)
def test_network_when_its_lists_are_wrong_then_refused(key, value, reason):
    model = lower(headed())
    _prop(model, key).value = value
    with pytest.raises(Rejected) as caught:
        admit(to_bytes(model))
    assert caught.value.reason == reason


def test_network_when_it_has_outputs_that_nobody_named_then_refused():
    model = lower(tiny())
    model.graph.output.append(onnx.helper.make_tensor_value_info("a.out", onnx.TensorProto.FLOAT, ["N", 6, 4, 4]))
    with pytest.raises(Rejected) as caught:
        admit(to_bytes(model))
    assert caught.value.reason == "OUTPUT_NOT_LOGITS"


def test_edge_when_marked_then_keeps_its_scale_and_resize():
    network = tiny()
    network.blocks[1].inputs[1].drop_path = True
    ops = [node.op_type for node in lower(network).graph.node if node.output[0].startswith("b.")]
    assert ops[:3] == ["MaxPool", "Mul", "Dropout"]
    assert network.blocks[1].merge == pb.MERGE_CONCAT
