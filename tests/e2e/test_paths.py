"""Drop-path and auxiliary classifiers through the whole mesh, in each space that offers them, to the model in hand."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from nasmesh.client import Client
from nasmesh.model import runtime
from nasmesh.model.metadata import AUXILIARY_KEY, DROP_PATH_KEY, named_values
from nasmesh.v1 import search_pb2
from tests.e2e.mesh import Mesh
from tests.e2e.specs import NAC

# The networks stay those of the examples; fewer are tried, and each for a moment.
SHORT = ("train.epochs=0.25", "final.train.epochs=0.5")
OPERATIONS = '["nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]'  # so that every network drawn has paths that meet
SEARCHES = {
    "cell": ("examples/cells.yaml", ("budget.maxTrials=2", f"space.cell.operations={OPERATIONS}", *SHORT)),
    "envelope": (
        NAC,
        (
            "space.envelope.dropPath=true",
            "space.envelope.auxiliaryHead=true",
            "train.dropPathRate=0.3",
            "train.auxiliaryWeight=0.3",
            "budget.maxIterations=2",
            *SHORT,
        ),
    ),
}


def ended(mesh: Mesh, folder: Path, kind: str) -> list[search_pb2.Trial]:
    source, overrides = SEARCHES[kind]
    file = source
    if not source.endswith(".yaml"):
        file = str(folder / f"{kind}.yaml")
        Path(file).write_text(source)
    flags = [word for one in overrides for word in ("--set", one)]
    out = ("--id", kind, "--out", str(folder / "out"))
    done = mesh.nasmesh("search", "create", "-f", file, *flags, *out, timeout_s=120)
    assert done.code == 0, done.stderr
    with mesh.client() as client:
        return list(client.list_trials(kind))


def network_of(client: Client, trial: search_pb2.Trial) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(client.export(trial.network.name).content)


@pytest.mark.parametrize("kind", SEARCHES)
def test_search_when_its_space_has_paths_and_a_head_then_both_train_and_the_model_has_neither(
    mesh: Mesh, tmp_path: Path, kind: str
) -> None:
    trials = ended(mesh, tmp_path, kind)
    assert {trial.outcome for trial in trials} == {search_pb2.TRIAL_OUTCOME_SUCCEEDED}
    (final,) = (trial for trial in trials if trial.final)
    with mesh.client() as client:
        trained = network_of(client, final)
        marked = [bool(named_values(network_of(client, trial), DROP_PATH_KEY)) for trial in trials if not trial.final]
    assert len(trained.graph.output) == 2
    assert len(named_values(trained, AUXILIARY_KEY)) == 1
    assert named_values(trained, DROP_PATH_KEY)
    assert any(marked) == (kind == "envelope")  # the example asks for them in its final phase
    content = (tmp_path / "out" / "best.onnx").read_bytes()
    session = runtime.open_session(content)
    assert len(session.get_outputs()) == 1
    runtime.fused(content, str(tmp_path / "fused.onnx"))
    assert "Dropout" not in {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
    (logits,) = session.run(None, {session.get_inputs()[0].name: np.zeros((3, 1, 8, 8), np.float32)})
    assert logits.shape == (3, 10)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["best"]["trial"] == final.name
