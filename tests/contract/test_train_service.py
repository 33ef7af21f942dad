"""TrainService over real gRPC, with trainings in real child processes."""

import pytest

from nasmesh.errors import Conflict, Invalid, NotFound, Stale
from nasmesh.model.admission import admit
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.v1 import job_pb2, measurement_pb2
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1 import training_pb2 as training
from tests.builders import training_jobs as jobs
from tests.builders.serving import serving_trainings

RUNNING, SUCCEEDED, FAILED, CANCELLED = (
    job_pb2.JOB_STATE_RUNNING,
    job_pb2.JOB_STATE_SUCCEEDED,
    job_pb2.JOB_STATE_FAILED,
    job_pb2.JOB_STATE_CANCELLED,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving_trainings(tmp_path_factory.mktemp("train")) as running:
        yield running


def _start(server, training_id, **config):
    start = jobs.request(jobs.stored(server.store), training_id=training_id, **config)
    return start, server.stub.StartTraining(start).training


def _watch(server, training_id, after=0):
    request = pb.WatchTrainingRequest(training_id=training_id, after_sequence=after)
    return [response.training for response in server.stub.WatchTraining(request, timeout=60)]


def test_training_when_started_then_is_watched_to_a_result_whose_objects_are_stored(server):
    _, started = _start(server, "whole", steps=40)
    assert started.state in (job_pb2.JOB_STATE_QUEUED, RUNNING)
    seen = _watch(server, "whole")
    assert [t.sequence for t in seen] == sorted({t.sequence for t in seen})
    last = seen[-1]
    assert last.state == SUCCEEDED, last.failure
    assert last.progress.step == last.progress.total_steps == 40
    assert last.checkpoint == last.result.checkpoint
    admit(server.store.get(last.result.model), checkpoint=True)
    assert {m.metric for m in last.result.measurements} == {"train_loss", "train_accuracy"}
    assert all(m.split == measurement_pb2.SPLIT_TRAIN for m in last.result.measurements)
    assert server.stub.GetTraining(pb.GetTrainingRequest(training_id="whole")).training == last


def test_training_when_started_again_then_is_the_same_and_another_body_is_refused(server):
    start, _ = _start(server, "twice", steps=2)
    _watch(server, "twice")
    assert server.stub.StartTraining(start).training.state == SUCCEEDED
    start.config.steps = 3
    with pytest.raises(Conflict) as caught, errors_from_rpc():
        server.stub.StartTraining(start)
    assert caught.value.reason == "TRAINING_ID_REUSED"


def test_training_when_cancelled_then_leaves_a_checkpoint_that_continues(server):
    start, _ = _start(server, "long", steps=100_000)
    for response in server.stub.WatchTraining(pb.WatchTrainingRequest(training_id="long"), timeout=60):
        if response.training.progress.step:
            server.stub.CancelTraining(pb.CancelTrainingRequest(training_id="long"))
    ended = server.stub.GetTraining(pb.GetTrainingRequest(training_id="long")).training
    assert ended.state == CANCELLED
    assert ended.checkpoint.sha256
    start.training_id = "longer"
    start.resume_from.CopyFrom(ended.checkpoint)
    server.stub.StartTraining(start)
    for response in server.stub.WatchTraining(pb.WatchTrainingRequest(training_id="longer"), timeout=60):
        if response.training.progress.step:
            assert response.training.progress.step > ended.progress.step
            server.stub.CancelTraining(pb.CancelTrainingRequest(training_id="longer"))
    assert _watch(server, "longer")[-1].state == CANCELLED


@pytest.mark.parametrize("seconds", [-1, 0, 601, 10**10])
def test_training_when_cancelled_with_a_grace_that_makes_no_sense_then_refused(server, seconds):
    request = pb.CancelTrainingRequest(training_id="whatever")
    request.grace.seconds = seconds
    with pytest.raises(Invalid) as caught, errors_from_rpc():
        server.stub.CancelTraining(request)
    assert (caught.value.reason, caught.value.field) == ("FIELD_INVALID", "grace")


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"config": training.TrainConfig(steps=-1)}, "TRAIN_CONFIG_INVALID", "config.steps"),
        ({"config": training.TrainConfig()}, "TRAIN_CONFIG_INVALID", "config.budget"),
        ({"data": {"dataset": "datasets/imagenet"}}, "DATASET_UNKNOWN", "data.dataset"),
        ({"data": {"dataset": "datasets/digits", "test_fraction": 2}}, "DATASET_SPEC_INVALID", "data.test_fraction"),
        ({"network": {"key": "../../etc/passwd"}}, "OBJECT_REF_INVALID", "network"),
        ({"training_id": "No Id"}, "NAME_INVALID", "training_id"),
        (
            {"instrumentation": training.InstrumentationPlan(probes=[training.Probe(tap=1)])},
            "TRAIN_CONFIG_INVALID",
            "instrumentation.probes[0].statistics",
        ),
    ],
)
def test_start_when_the_request_is_wrong_then_names_the_field_before_any_work(server, change, reason, field):
    good = jobs.request(jobs.stored(server.store), training_id="wrong")
    fields = {"training_id": "wrong", "network": good.network, "config": good.config, "data": good.data}
    with pytest.raises(Invalid) as caught, errors_from_rpc():
        server.stub.StartTraining(pb.StartTrainingRequest(**{**fields, **change}))
    assert caught.value.reason == reason
    assert [violation.field for violation in caught.value.violations] == [field]
    with pytest.raises(NotFound), errors_from_rpc():
        server.stub.GetTraining(pb.GetTrainingRequest(training_id="wrong"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("missing", None, "OBJECT_MISSING"), ("junk", b"junk" * 1000, None)],
)
def test_training_when_its_object_is_bad_then_fails_with_a_reason_and_the_server_goes_on(server, name, content, reason):
    ref = object_ref(ObjectKind.NETWORK, b"gone") if content is None else server.store.put(ObjectKind.NETWORK, content)
    server.stub.StartTraining(jobs.request(ref, training_id=name))
    last = _watch(server, name)[-1]
    assert last.state == FAILED
    assert last.failure.reason == reason or (reason is None and last.failure.reason)
    assert not last.failure.retryable or name == "missing"
    _start(server, f"after-{name}", steps=1)
    assert _watch(server, f"after-{name}")[-1].state == SUCCEEDED


def test_training_when_it_diverges_then_fails_with_step_and_rate(server):
    _start(server, "diverges", steps=50, optimizer=training.OptimizerConfig(learning_rate=1e30))
    failure = _watch(server, "diverges")[-1].failure
    assert failure.reason == "NETWORK_DIVERGED"
    assert "step" in failure.message
    assert "1e+30" in failure.message
    assert not failure.retryable


def test_training_when_deleted_then_is_unknown(server):
    _start(server, "short-lived", steps=1)
    _watch(server, "short-lived")
    server.stub.DeleteTraining(pb.DeleteTrainingRequest(training_id="short-lived"))
    for call, request in (
        (server.stub.GetTraining, pb.GetTrainingRequest(training_id="short-lived")),
        (server.stub.CancelTraining, pb.CancelTrainingRequest(training_id="short-lived")),
        (server.stub.DeleteTraining, pb.DeleteTrainingRequest(training_id="short-lived")),
    ):
        with pytest.raises(NotFound) as caught, errors_from_rpc():
            call(request)
        assert caught.value.reason == "TRAINING_UNKNOWN"
    with pytest.raises(NotFound), errors_from_rpc():
        list(server.stub.WatchTraining(pb.WatchTrainingRequest(training_id="short-lived"), timeout=5))


def test_delete_when_it_still_runs_then_refuses(server):
    _start(server, "busy", steps=100_000)
    with pytest.raises(Stale) as caught, errors_from_rpc():
        server.stub.DeleteTraining(pb.DeleteTrainingRequest(training_id="busy"))
    assert caught.value.reason == "TRAINING_NOT_ENDED"
    server.stub.CancelTraining(pb.CancelTrainingRequest(training_id="busy"))
    assert _watch(server, "busy")[-1].state == CANCELLED


def test_list_when_paged_then_gives_every_training_once_newest_first(server):
    for number in range(3):
        _start(server, f"page-{number}", steps=1)
        _watch(server, f"page-{number}")
    token, names = "", []
    while True:
        page = server.stub.ListTrainings(pb.ListTrainingsRequest(page_size=2, page_token=token))
        names += [one.training_id for one in page.trainings]
        token = page.next_page_token
        if not token:
            break
    assert len(names) == len(set(names))
    assert [name for name in names if name.startswith("page-")] == ["page-2", "page-1", "page-0"]
    for wrong in (pb.ListTrainingsRequest(page_token="x"), pb.ListTrainingsRequest(page_size=-1)):
        with pytest.raises(Invalid), errors_from_rpc():
            server.stub.ListTrainings(wrong)


def test_server_when_asked_then_describes_itself(server):
    about = server.stub.GetServer(pb.TrainServiceGetServerRequest()).server
    assert about.engine.startswith("torch 2.")
    assert about.slots == 1
    assert about.devices[0].id == "cpu"
    assert about.devices[0].memory_bytes > 0
    datasets = {dataset.name: dataset for dataset in about.datasets}
    assert datasets["datasets/digits"].available
    assert sum(split.samples for split in datasets["datasets/digits"].splits) == 1797
