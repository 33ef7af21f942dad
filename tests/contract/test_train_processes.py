"""Trainings over several processes on a real server: the slots that they take, and kill -9 of the first process."""

import psutil
import pytest

from nasmesh.errors import Invalid
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1 import training_pb2 as training
from tests.builders import training_jobs as jobs
from tests.builders.serving import children, serving_trainings

SLOTS = 2
EVERYTHING = training.InstrumentationPlan(
    probes=[
        training.Probe(tap=tap, statistics=[training.STATISTIC_NORM])
        for tap in (training.TAP_ACTIVATION, training.TAP_WEIGHT, training.TAP_GRADIENT)
    ],
    proxies=[proxy for proxy in training.ZeroCostProxy.values() if proxy],
    profile=True,
)
RUNNING, SUCCEEDED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving_trainings(tmp_path_factory.mktemp("train"), slots=SLOTS) as running:
        yield running


def _request(server, training_id, *, processes=1, **config):
    distribution = training.Distribution(processes=processes)
    network = jobs.stored(server.store, jobs.plain())
    return jobs.request(network, training_id=training_id, batch_size=60, distribution=distribution, **config)


def _watch(server, training_id):
    request = pb.WatchTrainingRequest(training_id=training_id)
    for response in server.stub.WatchTraining(request, timeout=120):
        yield response.training


def _gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_training_over_all_slots_when_others_wait_then_none_runs_beside_it(server):
    names = {"narrow-1": 1, "wide": 2, "narrow-2": 1, "narrow-3": 1}
    for name, processes in names.items():
        start = _request(server, name, processes=processes, steps=60)
        start.instrumentation.CopyFrom(EVERYTHING)
        server.stub.StartTraining(start)
    beside = []
    for seen in _watch(server, "wide"):
        if seen.state == RUNNING and seen.progress.step:  # before, the end of another may yet be on its way to the disk
            listed = server.stub.ListTrainings(pb.ListTrainingsRequest()).trainings
            states = {one.training_id: one.state for one in listed}
            if states["wide"] == RUNNING:  # it may have ended since
                beside.append([name for name in names if name != "wide" and states[name] == RUNNING])
    assert beside
    assert not any(beside)
    for name in names:
        *_, last = _watch(server, name)
        assert last.state == SUCCEEDED, last.failure
        assert last.result.environment["processes"] == str(names[name])
        read = {found.metric for found in last.result.measurements}
        assert {"norm", "weight_norm", "gradient_norm", "synflow", "naswot", "snip", "forward_ms"} <= read


def test_training_over_more_processes_than_slots_when_started_then_is_refused_by_its_field(server):
    with pytest.raises(Invalid) as caught, errors_from_rpc():
        server.stub.StartTraining(_request(server, "wider", processes=3))
    assert caught.value.reason == "TRAIN_CONFIG_INVALID"
    assert "this server has 2" in caught.value.message


def test_training_when_its_first_process_is_killed_then_the_others_end_and_another_attempt_has_the_same_weights(server):
    config = {"processes": 2, "steps": 150, "seed": 5, "checkpoint_interval_s": 0.05}
    server.stub.StartTraining(_request(server, "whole", **config))
    *_, whole = _watch(server, "whole")
    assert whole.state == SUCCEEDED, whole.failure
    server.stub.StartTraining(_request(server, "broken", **config))
    others, broken = [], None
    for broken in _watch(server, "broken"):
        if not others and broken.state == RUNNING and broken.checkpoint.sha256 and broken.progress.step > 20:
            firsts = [child for child in children(server) if child.children()]  # one may be idle
            others = [other for first in firsts for other in first.children()]
            for first in firsts:
                first.kill()
    assert broken.failure.reason == "CHILD_CRASHED"
    assert broken.failure.retryable
    psutil.wait_procs(others, timeout=10)
    assert others
    assert all(_gone(process) for process in others)
    again = _request(server, "again", **config)
    again.resume_from.CopyFrom(broken.checkpoint)
    server.stub.StartTraining(again)
    *_, last = _watch(server, "again")
    assert last.state == SUCCEEDED, last.failure
    states = [load_checkpoint(server.store.get(end.result.checkpoint)).state for end in (whole, last)]
    assert all((states[0][name] == states[1][name]).all() for name in states[0])
