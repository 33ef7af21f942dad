"""`nasmesh search export`: event files and MLflow runs are read back, number by number."""

import json
import struct
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from nasmesh.v1 import measurement_pb2, search_pb2
from tests.builders.cli_runs import Run, fake_of_the_shell, runner
from tests.builders.fake_scheduler import EXAMPLES, START, FakeScheduler

DIGITS = str(EXAMPLES / "digits.yaml")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with fake_of_the_shell(monkeypatch, tmp_path / "home") as served:
        yield served


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def ended(fake: FakeScheduler, run: Run) -> dict[int, search_pb2.Trial]:
    """The trials of an ended search; the second has more to tell than a score, the third failed."""
    assert run("search", "create", "-f", DIGITS, "--id", "one")[0] == 0
    fake.play("searches/one")
    trials = fake.trials["searches/one"]
    second = trials[2]
    second.train.steps = 30
    second.train.optimizer.learning_rate = 0.25
    second.choices.values["kernel"] = "3x3"
    for step, value in ((10, 0.5), (20, 0.25)):
        second.measurements.add(
            metric="gradient_norm", value=value, element="b", step=step, split=measurement_pb2.SPLIT_TRAIN
        )
    for number, trial in trials.items():
        trial.create_time.FromSeconds(START + number)
        trial.end_time.FromSeconds(START + 10 * number)
    trials[3].outcome = search_pb2.TRIAL_OUTCOME_FAILED
    trials[3].failure.message = "the loss is not finite"
    return trials


def _masked(content: bytes) -> int:
    value = crc32c(content)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(folder: Path) -> dict[tuple[str, int], float]:
    """Read scalars as TensorBoard does: length, its checksum, the message, its checksum (TFRecord)."""
    (path,) = folder.glob("events.out.tfevents.*")
    content, found = path.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12]) == (_masked(content[:8]),)
        body = content[12 : 12 + length]
        assert struct.unpack("<I", content[12 + length : 16 + length]) == (_masked(body),)
        event = Event.FromString(body)
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag, event.step] = value.simple_value
        content = content[16 + length :]
    return found


def test_event_files_when_read_back_then_hold_every_measurement_at_its_step(run: Run, ended, tmp_path: Path) -> None:
    code, out, err = run("search", "export", "one", "--tensorboard", tmp_path, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["tensorboard"] == {"folder": str(tmp_path / "one"), "written": len(ended)}
    found = read_events(tmp_path / "one" / "trial-000002")
    assert found["validation/accuracy", 0] == pytest.approx(0.935)
    assert (found["train/gradient_norm/b", 10], found["train/gradient_norm/b", 20]) == (0.5, 0.25)
    assert found["network/parameters", 0] == ended[2].network.parameters
    assert found["network/mean_square/s1_c1_b3x3", 0] == pytest.approx(0.4)
    course = read_events(tmp_path / "one" / "course")
    assert course["validation/accuracy", 2] == pytest.approx(0.935)
    spent = sum(trial.device_time_s for trial in ended.values())
    assert course["device_time_s", max(ended)] == pytest.approx(spent, rel=1e-5)


def test_event_files_when_exported_again_then_only_what_is_new_is_added(run: Run, ended, tmp_path: Path) -> None:
    late = search_pb2.Trial()
    late.CopyFrom(ended.pop(4))
    first = json.loads(run("search", "export", "one", "--tensorboard", tmp_path, "--json")[1])
    ended[4] = late
    _, out, _ = run("search", "export", "one", "--tensorboard", tmp_path)
    assert f"1 of {first['ended'] + 1} ended trials are new" in out
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"course", *(f"trial-{number:06d}" for number in ended)}
    assert ("validation/accuracy", 4) in read_events(tmp_path / "one" / "course")


def test_mlflow_when_read_back_then_holds_metrics_parameters_and_what_became_of_it(
    run: Run, ended, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    code, out, err = run("search", "export", "one", "--mlflow", folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["mlflow"]["logged"] == len(ended)
    client = MlflowClient(tracking_uri=folder.as_uri())
    experiment = client.get_experiment_by_name("searches/one").experiment_id
    runs = {int(one.info.run_name.removeprefix("trial-")): one for one in client.search_runs([experiment])}
    assert runs.keys() == ended.keys()
    second = runs[2]
    assert second.data.metrics["validation/accuracy"] == pytest.approx(0.935)
    history = client.get_metric_history(second.info.run_id, "train/gradient_norm/b")
    assert [(point.step, point.value) for point in history] == [(10, 0.5), (20, 0.25)]
    assert second.data.params["train.optimizer.learning_rate"] == "0.25"
    assert second.data.params["choices.kernel"] == "3x3"
    assert second.data.tags["nasmesh.trial"] == "searches/one/trials/2"
    assert second.info.end_time == ended[2].end_time.ToMilliseconds()
    assert (second.info.status, runs[3].info.status) == ("FINISHED", "FAILED")
    assert runs[3].data.tags["nasmesh.failure"] == "the loss is not finite"
    # Again: nothing is doubled. A run that somebody's crash left half written is made anew.
    client.update_run(second.info.run_id, status="RUNNING")
    assert json.loads(run("search", "export", "one", "--mlflow", folder, "--json")[1])["mlflow"]["logged"] == 1
    assert len(client.search_runs([experiment])) == len(ended)


@pytest.mark.usefixtures("ended")
def test_export_when_nothing_is_named_or_nobody_takes_it_then_says_so(run: Run, tmp_path: Path) -> None:
    code, _, err = run("search", "export", "one")
    assert (code, "name --tensorboard DIR, --mlflow URI, or both" in err) == (2, True)
    (tmp_path / "file").write_text("")
    code, _, err = run("search", "export", "one", "--tensorboard", tmp_path / "file")
    assert (code, "cannot be written" in err) == (2, True)
    code, _, err = run("search", "export", "one", "--mlflow", "nonsense://x")
    assert (code, "cannot be opened" in err) == (2, True), err


@pytest.mark.usefixtures("ended")
def test_export_to_a_database_without_what_keeps_them_then_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.cli.export.mlflow.find_spec", lambda name: None if name == "sqlalchemy" else name)
    code, _, err = run("search", "export", "one", "--mlflow", f"sqlite:///{tmp_path}/runs.db")
    assert (code, "which needs the whole of MLflow; pip install mlflow" in err) == (2, True), err
    assert not list(tmp_path.glob("*.db"))
