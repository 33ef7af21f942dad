"""`nasmesh network transform` on files: what it writes computes what the parent does, trains on, and its refusals."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from nasmesh.model import runtime
from nasmesh.model.morph_apply import TOLERANCE
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from tests.builders import training_jobs as jobs
from tests.builders.cli_runs import Run, runner


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    return runner(monkeypatch, capsys)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def trained(store: MemoryStore, tmp_path: Path) -> Path:
    path = tmp_path / "parent.onnx"
    path.write_bytes(store.get(jobs.run(jobs.request(jobs.stored(store), steps=40), store).checkpoint))
    return path


def _outputs(path: Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((16, 1, 8, 8)).astype(np.float32)
    return runtime.open_session(path.read_bytes()).run(None, {"x": x})[0]


def test_transform_when_a_trained_network_grows_then_outputs_stay_and_training_goes_on_from_there(
    run: Run, trained: Path, tmp_path: Path, store: MemoryStore
) -> None:
    target = tmp_path / "child.onnx"
    steps = ("--deepen", "a=5", "--widen", "b=20", "--widen", "a=7", "--skip", "x=b")
    code, out, err = run("network", "transform", trained, "-o", target, *steps, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["parameters"] > 1300
    before, after = _outputs(trained), _outputs(target)
    assert np.abs(before - after).max() <= TOLERANCE * max(1, np.abs(before).max())
    assert told["max_abs_diff"] <= TOLERANCE * max(1, np.abs(before).max())
    model = onnx.ModelProto.FromString(target.read_bytes())
    assert not model.training_info
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"a_deeper.conv.weight", "b_joined.scale.b_adapter", "b.scale.x"} <= names
    # The child is a network like any other: a training may start from it, and finds all of its weights.
    start = jobs.request(store.put(ObjectKind.CHECKPOINT, target.read_bytes()), steps=1)
    start.initial_weights.CopyFrom(start.network)
    result = jobs.run(start, store)
    assert (result.inheritance.taken_share, list(result.inheritance.initialized)) == (1.0, [])


def test_transform_when_the_network_is_weightless_then_its_form_changes(
    run: Run, tmp_path: Path, store: MemoryStore
) -> None:
    source, target = tmp_path / "form.onnx", tmp_path / "child.onnx"
    source.write_bytes(store.get(jobs.stored(store)))
    code, out, _ = run("network", "transform", source, "-o", target, "--widen", "a=8")
    assert code == 0
    assert "the network has no weights, so only its form was changed" in out
    assert not onnx.ModelProto.FromString(target.read_bytes()).graph.initializer[0].name.startswith("a.conv")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "name at least one of --widen, --deepen, --skip"),
        (("--widen", "a"), 2, "--widen: 'a' is not BLOCK=CHANNELS"),
        (("--deepen", "a=x"), 2, "--deepen: 'a=x' is not BLOCK=KERNEL"),
        (("--skip", "x"), 2, "--skip: 'x' is not SOURCE=BLOCK"),
        (("--widen", "fc=12"), 2, "fc: its channels are tied to the logits"),
        (("--deepen", "nope"), 2, "nope: there is no such block"),
        (("--skip", "b=a"), 2, "a: 'b' does not come before it"),
    ],
)
def test_transform_when_that_cannot_be_then_says_so_and_writes_nothing(
    run: Run, trained: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    target = tmp_path / "child.onnx"
    found = run("network", "transform", trained, "-o", target, *arguments)
    assert (found[0], said in found[2]) == (code, True), found
    assert not target.exists()


def test_transform_when_the_file_is_missing_taken_or_no_network_then_says_so(
    run: Run, trained: Path, tmp_path: Path
) -> None:
    assert (
        "there is no such file" in run("network", "transform", "none.onnx", "-o", tmp_path / "o", "--widen", "a=9")[2]
    )
    assert run("network", "transform", trained, "-o", trained, "--widen", "a=9")[0] == 5
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    assert run("network", "transform", junk, "-o", tmp_path / "o", "--widen", "a=9")[0] == 2
    bare = onnx.ModelProto.FromString(trained.read_bytes())
    kept = [prop for prop in bare.metadata_props if prop.key != "nasmesh.architecture"]
    del bare.metadata_props[:]
    bare.metadata_props.extend(kept)
    junk.write_bytes(bare.SerializeToString())
    assert "carries no architecture" in run("network", "transform", junk, "-o", tmp_path / "o", "--widen", "a=9")[2]
