"""A real mesh stops trials early: parts of trainings add up to the whole training, wherever each part ran."""

import json
from pathlib import Path

from nasmesh.client import read_spec
from nasmesh.v1 import search_pb2
from tests.e2e.mesh import Mesh
from tests.e2e.specs import TINY

RULE = 'earlyStopping={"asynchronousHalving": {"reduction": 2}}'


def run(mesh: Mesh, search_id: str, *overrides: str) -> dict[int, search_pb2.Trial]:
    path = mesh.home / "tiny.yaml"
    path.write_text(TINY.replace("final: { train: { epochs: 2 } }\n", ""))
    with mesh.client() as client:
        client.create_search(
            read_spec(path, ["seed=11", "budget.maxTrials=5", "parallelism=2", "train.epochs=2", *overrides]),
            search_id=search_id,
        )
        for _ in client.watch(search_id):
            pass
        assert client.get_search(search_id).state == search_pb2.SEARCH_STATE_SUCCEEDED
        return {trial.number: trial for trial in client.list_trials(search_id)}


def test_trials_when_stopped_early_then_those_that_went_on_are_as_if_trained_at_once(mesh: Mesh) -> None:
    early = run(mesh, "early", RULE)
    whole = run(mesh, "whole", "cache=CACHE_MODE_REPEAT")
    finished = [trial for trial in early.values() if trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED]
    stopped = [trial for trial in early.values() if trial.outcome == search_pb2.TRIAL_OUTCOME_STOPPED]
    assert len(finished) + len(stopped) == 5
    assert finished
    assert stopped
    # 1,150 samples make 17 updates an epoch: a quarter and a half of 34.
    steps = [rung.step for rung in finished[0].rungs]
    assert len(steps) == 2
    assert abs(steps[1] - 2 * steps[0]) <= 1
    for trial in finished:
        other = whole[trial.number]
        assert trial.network == other.network
        assert [m for m in trial.measurements if m.metric == "accuracy"] == [
            m for m in other.measurements if m.metric == "accuracy"
        ]
        assert trial.model.sha256 == other.model.sha256
        assert trial.steps == other.steps
    for trial in stopped:
        assert trial.failure.reason == "EARLY_STOPPED"
        assert trial.checkpoint.key
        assert trial.steps == trial.rungs[-1].step
    shown = mesh.nasmesh("search", "show", "early")
    assert "rungs" in shown.stdout
    assert stopped[0].failure.message[:40] in shown.stdout
    with mesh.client() as client:
        counts = client.get_search("early").trials
    assert (counts.succeeded, counts.stopped, counts.held, counts.active) == (len(finished), len(stopped), 0, 0)


def test_search_when_its_time_is_up_before_any_training_has_ended_then_the_best_at_a_rung_is_its_model(
    mesh: Mesh, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ("--set", "budget.maxDeviceTimeS=0.01", "--id", "short", "--out", str(out))
    done = mesh.nasmesh("search", "create", "-f", "examples/chains.yaml", *flags, timeout_s=120)
    assert done.code == 0, done.stderr
    assert "no trial was trained to its end; best at a rung is trial" in mesh.nasmesh("search", "show", "short").stdout
    assert "not to its end: scored at rung 0, after 20 updates" in done.stdout
    best = json.loads((out / "report.json").read_text())["best"]
    assert best["partlyTrained"]
    trial, file = best["trial"], tmp_path / "model.onnx"
    assert mesh.nasmesh("network", "export", trial, "-o", str(file)).code == 0
    assert file.read_bytes() == (out / "best.onnx").read_bytes()
