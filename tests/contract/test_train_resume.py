"""kill -9 of a child in the middle of an epoch, over real gRPC: the next attempt ends with the very same weights."""

import pytest

from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1 import training_pb2 as training
from tests.builders import training_jobs as jobs
from tests.builders.serving import children, serving_trainings

STEPS = 160
BATCH = 25  # 51 updates an epoch


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving_trainings(tmp_path_factory.mktemp("train")) as running:
        yield running


def _request(server, training_id):
    how = training.AugmentationConfig(crop_padding=1, mixup=0.4, cutmix=1)
    start = jobs.request(
        jobs.stored(server.store, jobs.headed()),
        training_id=training_id,
        steps=STEPS,
        batch_size=BATCH,
        seed=11,
        drop_path_rate=0.3,
        ema_decay=0.99,
        augmentation=how,
        schedule=training.ScheduleConfig(kind=training.SCHEDULE_KIND_ONE_CYCLE),
        checkpoint_interval_s=0.05,
    )
    start.instrumentation.probes.add(tap=training.TAP_OUTPUT, statistics=[training.STATISTIC_MEAN])
    return start


def _watch(server, training_id):
    request = pb.WatchTrainingRequest(training_id=training_id)
    for response in server.stub.WatchTraining(request, timeout=120):
        yield response.training


def _state(server, ref):
    return {name: tensor.numpy().tobytes() for name, tensor in load_checkpoint(server.store.get(ref)).state.items()}


def _at_work(server):
    """Return the child with most processor time: the others are spares."""
    return max(children(server), key=lambda child: sum(child.cpu_times()[:2]))


def test_training_when_compiled_in_a_child_that_may_not_unpickle_then_ends(server):
    start = jobs.request(jobs.stored(server.store, jobs.flat()), training_id="compiled", steps=3)
    start.config.compute.compile = training.COMPILE_MODE_ALWAYS
    server.stub.StartTraining(start)
    *_, last = _watch(server, "compiled")
    assert last.state == job_pb2.JOB_STATE_SUCCEEDED, last.failure
    assert last.result.environment["compiled"] == "true"


def test_training_when_its_child_is_killed_in_an_epoch_then_goes_on_to_the_same_weights(server):
    server.stub.StartTraining(_request(server, "whole"))
    *_, whole = _watch(server, "whole")
    assert whole.state == job_pb2.JOB_STATE_SUCCEEDED, whole.failure
    server.stub.StartTraining(_request(server, "broken"))
    broken = None
    for broken in _watch(server, "broken"):
        if broken.state == job_pb2.JOB_STATE_RUNNING and broken.checkpoint.sha256 and broken.progress.step > 60:
            _at_work(server).kill()
    assert broken.state == job_pb2.JOB_STATE_FAILED
    assert broken.failure.reason == "CHILD_CRASHED"
    step = load_checkpoint(server.store.get(broken.checkpoint)).scalars["step"]
    assert 0 < step < STEPS
    again = _request(server, "again")
    again.resume_from.CopyFrom(broken.checkpoint)
    server.stub.StartTraining(again)
    *_, resumed = _watch(server, "again")
    assert resumed.state == job_pb2.JOB_STATE_SUCCEEDED, resumed.failure
    assert resumed.result.model.sha256 == whole.result.model.sha256
    assert _state(server, resumed.checkpoint) == _state(server, whole.checkpoint)
    assert resumed.result.measurements == whole.result.measurements
