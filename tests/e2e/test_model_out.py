"""From data to a model in hand, by the command line alone: inferred search, best at any time, transfer, exports."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import pytest

from nasmesh.client import read_spec
from nasmesh.data.load import load
from nasmesh.model import runtime
from nasmesh.v1 import dataset_pb2
from tests.e2e.mesh import Mesh

CELLS = """
data: { dataset: datasets/digits }
generator: { generator: generators/random }
space: { cell: { cells: [1, 1], width: 4 } }
objectives: [{ metric: accuracy, goal: GOAL_MAXIMIZE }]
budget: { maxTrials: 2 }
train: { epochs: 1 }
final: { repeats: 2, train: { epochs: 2 }, evaluate: { quantization: QUANTIZATION_STATIC } }
seed: 3
"""
# torch and numpy alone: without the site module nothing that was installed for development is found.
BARE = """
import importlib.util, sys
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("nasmesh") is None
sys.path.insert(0, ".")
import numpy, model
numpy.save("said.npy", model.predict(numpy.load("samples.npy")))
"""


@pytest.fixture(scope="module")
def cells(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search over cells that has ended, and the folder that `best` wrote of it."""
    folder = tmp_path_factory.mktemp("cells")
    (folder / "cells.yaml").write_text(CELLS)
    done = mesh.nasmesh("search", "create", "-f", str(folder / "cells.yaml"), "--id", "cells", "--wait", timeout_s=120)
    assert done.code == 0, done.stderr
    early = mesh.nasmesh("search", "best", "nothing", "--out", str(folder / "none"))
    assert (early.code, early.stderr) == (4, "error: there is no search searches/nothing\n")
    done = mesh.nasmesh("search", "best", "cells", "--out", str(folder / "out"), "--opset", "17", "--int8", "--json")
    assert done.code == 0, done.stderr
    return folder / "out"


def test_the_stand_alone_file_says_what_onnxruntime_says_of_real_data(cells: Path) -> None:
    samples = load(dataset_pb2.DatasetSpec(dataset="datasets/digits")).samples.rows(np.arange(64))
    np.save(cells / "samples.npy", samples)
    command = [sys.executable, "-I", "-S", "-c", BARE, sysconfig.get_path("purelib")]
    done = subprocess.run(command, cwd=cells, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    session = runtime.open_session((cells / "best.onnx").read_bytes())
    assert onnx.load(cells / "best.onnx").opset_import[0].version == 17
    prepared = (samples.astype(np.float32) / 255 - np.float32(0.30531)) / np.float32(0.37589)
    for count in (1, 64):  # the batch size is free
        expected = session.run(None, {session.get_inputs()[0].name: prepared[:count]})[0]
        np.testing.assert_allclose(np.load(cells / "said.npy")[:count], expected, atol=1e-4 * np.abs(expected).max())


def test_the_report_has_scores_with_intervals_over_seeds_and_in_8_bits(cells: Path) -> None:
    report = json.loads((cells / "report.json").read_text())
    (final,) = report["finals"]
    assert len(final["values"]) == len(set(final["seeds"])) == 2
    assert final["mean"] == pytest.approx(sum(final["values"]) / 2)
    metrics = {item["metric"] for item in report["best"]["measurements"]}
    assert {"accuracy", "accuracy_low", "accuracy_high", "int8_accuracy"} <= metrics
    assert json.loads((cells / "evaluation.json").read_text())["confusion"]["rows"] == "labels"
    assert set(report["files"]) == {path.name for path in cells.iterdir()} - {"samples.npy", "said.npy", "__pycache__"}


def test_a_network_goes_deeper_with_its_weights_and_says_where_it_comes_from(
    mesh: Mesh, cells: Path, tmp_path: Path
) -> None:
    assert cells.is_dir()
    arguments = ("cells/1", "--cells", "2", "--width-multiplier", "1", "--weights", "--id", "deeper", "--wait")
    done = mesh.nasmesh("search", "transfer", *arguments, "--out", str(tmp_path / "out"), timeout_s=120)
    assert done.code == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["lineage"][0] == "searches/cells/trials/1"
    with mesh.client() as client:
        source, taken = client.get_trial("searches/cells/trials/1"), client.get_trial("searches/deeper/trials/1")
        assert taken.initial_weights == source.checkpoint
        assert taken.network.parameters > source.network.parameters
        assert client.get_search("deeper").spec.transfer.network == source.network.name


def test_each_form_of_a_trial_is_exported(mesh: Mesh, cells: Path, tmp_path: Path) -> None:
    trial = json.loads((cells / "report.json").read_text())["best"]["trial"]
    for form, files in {"checkpoint": 1, "int8": 1, "report": 1, "python": 2}.items():
        folder = tmp_path / form
        folder.mkdir()
        done = mesh.nasmesh("network", "export", trial, "-o", str(folder / "net.py"), "--form", form)
        assert done.code == 0, done.stderr
        assert len(list(folder.iterdir())) == files
    refused = mesh.nasmesh("network", "export", "searches/cells/trials/1", "-o", str(tmp_path / "x"), "--form", "int8")
    assert (refused.code, "evaluate.quantization" in refused.stderr) == (1, True)


def test_a_search_without_a_specification_keeps_its_bound_and_its_specification(mesh: Mesh, tmp_path: Path) -> None:
    arguments = ("--data", "digits", "--max-params", "20k", "--budget", "60s", "--id", "inferred")
    paths = ("--save", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "out"))
    short = ("--set", "budget.maxIterations=1", "--set", "train.epochs=1", "--set", "final.train.epochs=2")
    done = mesh.nasmesh("search", *arguments, *paths, *short, timeout_s=120)
    assert done.code == 0, done.stderr
    assert "bound: at most 20,000 parameters" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["best"]["parameters"] <= 20_000
    assert read_spec(tmp_path / "spec.yaml").constraints[0].max == 20_000
    assert "best.int8.onnx" not in report["files"]
    done = mesh.nasmesh("search", "best", "inferred", "--out", str(tmp_path / "out"), "--int8")
    assert done.code == 0, done.stderr
    assert str(tmp_path / "out" / "best.int8.onnx") in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    scores = {item["metric"]: item for item in report["best"]["measurements"]}
    assert scores["int8_accuracy"]["split"] == scores["accuracy"]["split"] == "test"
    assert abs(scores["int8_accuracy"]["value"] - scores["accuracy"]["value"]) < 0.05
    assert any(check.startswith("best.int8.onnx: made here after the search") for check in report["verification"])
