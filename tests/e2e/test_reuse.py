"""What was measured is not measured again: the same search twice, and a network of one's own in it."""

import json
from pathlib import Path

from nasmesh.client import read_spec
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.e2e.mesh import Mesh
from tests.e2e.specs import TINY


def run(mesh: Mesh, search_id: str, *overrides: str) -> dict[int, search_pb2.Trial]:
    path = mesh.home / "tiny.yaml"
    path.write_text(TINY)
    with mesh.client() as client:
        client.create_search(read_spec(path, overrides), search_id=search_id)
        for _ in client.watch(search_id):
            pass
        assert client.get_search(search_id).state == search_pb2.SEARCH_STATE_SUCCEEDED
        return {trial.number: trial for trial in client.list_trials(search_id)}


def test_the_same_search_twice_trains_nothing_the_second_time_and_finds_the_same(mesh: Mesh) -> None:
    first = run(mesh, "first", "seed=3")
    mesh.kill9("scheduler")  # what was measured is known after a restart, too
    mesh.restart("scheduler")
    second = run(mesh, "second", "seed=3")
    assert list(second) == list(first)
    for number, trial in second.items():
        source = first[number]
        assert (trial.outcome, trial.reused_from) == (search_pb2.TRIAL_OUTCOME_SUCCEEDED, source.name)
        assert list(trial.measurements) == list(source.measurements)
        assert (trial.checkpoint, trial.model) == (source.checkpoint, source.model)
        assert (trial.device_time_s, trial.device_time_saved_s) == (0.0, source.device_time_s)
    with mesh.client() as client:
        best = [client.best(name) for name in ("first", "second")]
        assert (best[0].network, best[0].model) == (best[1].network, best[1].model)
        search = client.get_search("second")
        assert search.device_time_s == 0
        saved = search.device_time_saved_s
        assert abs(saved - sum(trial.device_time_s for trial in first.values())) < 1e-6
        assert client.export(best[1].name).content == client.export(best[0].name).content
    shown = mesh.nasmesh("search", "show", "second").stdout
    assert f"of device time saved: {len(second)} trials measured before" in shown
    report = json.loads(mesh.nasmesh("search", "show", "second", "--json").stdout)
    assert abs(report["deviceTimeSavedS"] - saved) < 1e-6


def test_asked_for_repetition_everything_is_trained_again_and_another_seed_is_another_trial(mesh: Mesh) -> None:
    run(mesh, "once", "seed=4", "budget.maxTrials=1")
    again = run(mesh, "again", "seed=4", "budget.maxTrials=1", "cache=CACHE_MODE_REPEAT")
    other = run(mesh, "other", "seed=4", "budget.maxTrials=1", "train.seed=9")
    for trials in (again, other):
        trained = [trial for trial in trials.values() if not trial.final or trials is again]
        assert all(trial.device_time_s > 0 and not trial.reused_from for trial in trained)


def test_a_network_of_ones_own_joins_a_running_search(mesh: Mesh, tmp_path: Path) -> None:
    found = run(mesh, "source", "seed=5", "budget.maxTrials=1")
    onnx = tmp_path / "mine.onnx"
    with mesh.client() as client:
        onnx.write_bytes(client.export(found[1].network.name).content)
        path = mesh.home / "tiny.yaml"
        client.create_search(read_spec(path, ["seed=6", "budget.maxTrials=4", "train.epochs=2"]), search_id="open")
        client.pause_search("open")  # so that there is a phase to join, however fast this host is
    choices = tmp_path / "choices.yaml"
    choices.write_text("".join(f"{name}: {value}\n" for name, value in found[1].choices.values.items()))
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no network")
    added = {}
    for flag, file in (("--onnx", onnx), ("--choices", choices), ("--onnx", bad)):
        done = mesh.nasmesh("trial", "add", "open", flag, str(file), "--set", "train.epochs=1", "--json")
        assert done.code == 0, done.stderr
        added[file] = json.loads(done.stdout)["name"]
    assert mesh.nasmesh("search", "resume", "open").code == 0
    with mesh.client() as client:
        for _ in client.watch("open"):
            pass
        assert client.get_search("open").state == search_pb2.SEARCH_STATE_SUCCEEDED
        for file in (onnx, choices):
            trial = client.get_trial(added[file])
            assert (trial.outcome, trial.enqueued) == (search_pb2.TRIAL_OUTCOME_SUCCEEDED, True), trial.failure
            assert (trial.network.name, trial.train.epochs) == (found[1].network.name, 1)
        refused = client.get_trial(added[bad])
        assert refused.outcome == search_pb2.TRIAL_OUTCOME_FAILED
        assert refused.failure.message
        proposed = [trial for trial in client.list_trials("open") if not trial.enqueued and not trial.final]
        assert len(proposed) == 1  # the budget is four


def test_deleted_and_swept_nothing_is_left_that_nothing_names(mesh: Mesh) -> None:
    run(mesh, "gone", "seed=7", "budget.maxTrials=1")
    refused = mesh.nasmesh("search", "delete", "first")
    assert refused.code == 1
    assert "took measurements over" in refused.stderr
    would = json.loads(mesh.nasmesh("search", "delete", "gone", "--json").stdout)
    assert (would["trials"], would["applied"]) == ("2", False)
    assert json.loads(mesh.nasmesh("search", "delete", "gone", "--apply", "--json").stdout)["applied"]
    assert mesh.nasmesh("search", "show", "gone").code == 4
    swept = json.loads(mesh.nasmesh("admin", "sweep", "--apply", "--json").stdout)
    assert swept.get("objects", "0") == "0"  # nothing is old enough
    assert int(swept["referencedObjects"]) > 0
    with mesh.client() as client:
        assert client.export(client.best("first").name, pb.EXPORT_FORM_CHECKPOINT).content
