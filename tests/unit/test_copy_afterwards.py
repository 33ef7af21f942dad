"""An 8-bit copy of a network whose search made none: made where its data is, refused with the way out elsewhere."""

import numpy as np
import pytest

from clients.cli.report import copying
from clients.cli.report.copying import copy_afterwards
from nasmesh.data.load import load
from nasmesh.errors import Invalid, Stale
from nasmesh.model import runtime
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.v1 import measurement_pb2, search_pb2
from tests.builders.architectures import small_cnn


@pytest.fixture(scope="module")
def model() -> bytes:
    """A network for digits with weights as they are drawn."""
    network = small_cnn()
    network.inputs[0].dims[:] = (1, 8, 8)
    lowered = lower(network)
    return to_bytes(write_back(lowered, to_module(lowered, seed=1).state_dict()))


@pytest.fixture
def trial(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> search_pb2.Trial:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path_factory.mktemp("home")))
    return search_pb2.Trial(name="searches/one/trials/1")


def of(dataset: str) -> search_pb2.Search:
    search = search_pb2.Search(name="searches/one")
    search.spec.data.dataset = dataset
    return search


def test_copy_when_the_data_is_here_then_it_is_scored_where_the_network_was(
    trial: search_pb2.Trial, model: bytes
) -> None:
    search = of("datasets/digits")
    splits = load(search.spec.data)
    trial.data_digest, trial.evaluate.split = splits.digest, measurement_pb2.SPLIT_TEST
    copy = copy_afterwards(search, trial, model)
    found = {item.metric: item for item in copy.measurements}
    assert set(found) == {"int8_accuracy", "int8_size_bytes"}
    assert found["int8_size_bytes"].value == len(copy.content)
    assert "on the test split" in copy.sentence("best.int8.onnx")
    session = runtime.open_session(copy.content)
    assert any(node.startswith("x") for node in [first.name for first in session.get_inputs()])
    samples = splits.samples.rows(splits.test).astype(np.float32) / 255
    said = session.run(None, {session.get_inputs()[0].name: samples})[0].argmax(axis=1)
    assert found["int8_accuracy"].value == pytest.approx(float((said == splits.labels[splits.test]).mean()))


def test_copy_when_the_data_is_not_here_or_another_then_told_what_to_do(trial: search_pb2.Trial, model: bytes) -> None:
    mine = of("datasets/mine")
    mine.spec.data.manifest.CopyFrom(object_ref(ObjectKind.DATASET, b"in another store", extension="binpb"))
    words = r"datasets/sha256/.* is not in the store at .*NASMESH_STORE.*evaluate\.quantization"
    with pytest.raises(Stale, match=words) as caught:
        copy_afterwards(mine, trial, model)
    assert (caught.value.reason, caught.value.field) == ("NOT_QUANTIZED", "int8")
    trial.data_digest = "f" * 64
    with pytest.raises(Stale, match="other data here than the network was trained on"):
        copy_afterwards(of("datasets/digits"), trial, model)


def test_copy_when_nothing_here_can_make_one_then_told_what_to_install(
    trial: search_pb2.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_NEEDED", ("onnx", "surely_not_installed"))
    with pytest.raises(Invalid, match=r"surely_not_installed.*nasmesh\[evaluate\]"):
        copy_afterwards(of("datasets/digits"), trial, b"")
