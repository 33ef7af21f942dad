"""One training over several train servers, driven by hand: equal to one process, ended, cancelled, cut and refused."""

import contextlib

import numpy as np
import psutil
import pytest

from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.rpc.server import Service
from nasmesh.settings import parse_address
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1 import train_service_pb2_grpc as rpc
from nasmesh.v1 import training_pb2 as training
from tests.builders import training_jobs as jobs
from tests.builders.serving import children, serving
from tests.unit.test_train_together import EVERYTHING, TOLERANCE
from train_svc.address import GangAddress
from train_svc.service import TrainServicer

SERVERS = 3
RUNNING, SUCCEEDED, CANCELLED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_CANCELLED


def _server(directory, number):
    address = GangAddress(f"127.0.0.{1 + number}:0")  # all of them this machine's, and yet not the same

    def service(table):
        servicer = TrainServicer(table, gang_address=address.text)
        return Service("nasmesh.v1.TrainService", rpc.add_TrainServiceServicer_to_server, servicer)

    return serving(
        directory / str(number),
        noun="training",
        work="train_svc.job:run",
        service=service,
        stub=rpc.TrainServiceStub,
        slots=2,
        gang_listen=address.text,
        store=f"dir:{directory / 'objects'}",
    )


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Three servers with one store, as on three hosts; each has a process of its own for its part."""
    directory = tmp_path_factory.mktemp("gangs")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_server(directory, number)) for number in range(SERVERS)]


def _address(server):
    return server.stub.GetServer(pb.TrainServiceGetServerRequest()).server.gang_address


def _starts(members, training_id, network=None, **config):
    """Return what each of these servers is asked, by rank."""
    distribution = training.Distribution(processes=len(members), across_hosts=True)
    stored = jobs.stored(members[0].store, network or jobs.headed())
    asked = jobs.request(stored, training_id=training_id, distribution=distribution, **{**EVERYTHING, **config})
    rendezvous = _address(members[0])
    for rank in range(len(members)):
        start = pb.StartTrainingRequest()
        start.CopyFrom(asked)
        start.gang.CopyFrom(pb.GangMember(rank=rank, size=len(members), rendezvous=rendezvous))
        yield start


def _begin(members, training_id, *, resume_from=None, **config):
    for member, start in zip(members, _starts(members, training_id, **config), strict=True):
        if resume_from is not None:
            start.resume_from.CopyFrom(resume_from)
        member.stub.StartTraining(start)


def _watch(server, training_id):
    for response in server.stub.WatchTraining(pb.WatchTrainingRequest(training_id=training_id), timeout=120):
        yield response.training


def _end(server, training_id):
    *_, last = _watch(server, training_id)
    return last


def _weights(server, result):
    state = load_checkpoint(server.store.get(result.checkpoint)).state
    return {name: tensor.numpy() for name, tensor in state.items()}


def _largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_training_over_three_servers_when_all_is_on_then_has_the_weights_of_one_process(servers):
    distribution = training.Distribution(processes=1)
    alone = jobs.request(
        jobs.stored(servers[0].store, jobs.headed()), training_id="alone", distribution=distribution, **EVERYTHING
    )
    servers[0].stub.StartTraining(alone)
    expected = _end(servers[0], "alone").result
    began = SystemClock().monotonic()
    _begin(servers, "shared")
    ends = [_end(server, "shared") for server in servers]
    assert [end.state for end in ends] == [SUCCEEDED] * SERVERS, ends
    first, *others = (end.result for end in ends)
    assert all(other == pb.TrainResult() for other in others)
    assert first.environment["processes"] == "3"
    assert first.peak_memory_bytes > 0
    assert first.device_time_s > SystemClock().monotonic() - began, "each of three servers was held"
    assert _largest_difference(_weights(servers[0], expected), _weights(servers[0], first)) <= TOLERANCE
    assert [m.metric for m in first.measurements] == [m.metric for m in expected.measurements]


def test_training_over_two_servers_when_one_dies_then_the_other_says_so_and_a_third_goes_on_bit_for_bit(
    servers,
):
    config = {"steps": 150, "checkpoint_interval_s": 0.05}
    _begin(servers[:2], "whole", **config)
    whole = _end(servers[0], "whole")
    assert whole.state == SUCCEEDED, whole.failure
    before = children(servers[1])
    _begin(servers[:2], "broken", **config)
    killed, broken = [], None
    for broken in _watch(servers[0], "broken"):
        if not killed and broken.checkpoint.sha256 and broken.progress.step > 10:
            killed = before
            for child in killed:
                child.kill()
    assert killed
    assert broken.failure.reason == "RANK_LOST", broken
    assert broken.failure.retryable
    _begin(servers[::2], "again", resume_from=broken.checkpoint, **config)
    again = _end(servers[0], "again")
    assert again.state == SUCCEEDED, again.failure
    assert _largest_difference(_weights(servers[0], whole.result), _weights(servers[0], again.result)) == 0


def test_training_over_two_servers_when_cancelled_then_stores_a_checkpoint_and_the_other_ends_without_a_word(servers):
    _begin(servers[:2], "stopped", steps=100_000)
    for seen in _watch(servers[0], "stopped"):
        if seen.progress.step > 3:
            listening = [
                connection.laddr
                for server in servers
                for child in children(server)
                for connection in child.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            ]
            stop = pb.CancelTrainingRequest(training_id="stopped")
            stop.grace.FromSeconds(60)
            servers[0].stub.CancelTraining(stop)
            break
    last = _end(servers[0], "stopped")
    assert last.state == CANCELLED
    assert load_checkpoint(servers[0].store.get(last.checkpoint)).scalars["step"] == last.progress.step
    assert _end(servers[1], "stopped").state == SUCCEEDED
    assert ("127.0.0.1", parse_address(_address(servers[0]))[1]) in listening
    assert {address for address, _ in listening} == {"127.0.0.1", "127.0.0.2"}, "each at its own address and no other"


def test_server_when_it_leads_a_training_already_then_another_fails_and_may_be_tried_again(servers):
    _begin(servers[:2], "leading", steps=100_000)
    for seen in _watch(servers[0], "leading"):
        if seen.progress.step > 3:
            break
    (start, _) = _starts([servers[0], servers[2]], "second", steps=5)
    servers[0].stub.StartTraining(start)
    second = _end(servers[0], "second")
    assert second.failure.reason == "PORT_IN_USE"
    assert second.failure.retryable
    assert not second.failure.counted
    # One that was sent to a training which another attempt has taken the place of, waits there and can be stopped.
    late = next(iter(_starts([servers[0], servers[2]], "late", steps=5)))
    late.gang.rank = 1
    servers[2].stub.StartTraining(late)
    for name, server in (("leading", servers[0]), ("late", servers[2])):
        server.stub.CancelTraining(pb.CancelTrainingRequest(training_id=name))
        assert _end(server, name).state == CANCELLED


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"gang": None}, "gang"),
        ({"size": 3}, "gang.size"),
        ({"rank": 2}, "gang.rank"),
        ({"rank": -1}, "gang.rank"),
        ({"rendezvous": "127.0.0.1:0"}, "gang.rendezvous"),
        ({"rendezvous": "nowhere"}, "gang.rendezvous"),
        ({"rendezvous": "127.0.0.1:9"}, "gang.rendezvous"),
    ],
)
def test_place_in_a_training_when_it_cannot_be_then_is_refused_by_its_field(servers, change, field):
    start = next(iter(_starts(servers[:2], "wrong")))
    if "gang" in change:
        start.ClearField("gang")
    else:
        (name, value) = next(iter(change.items()))
        setattr(start.gang, name, value)
    with pytest.raises(Invalid) as caught, errors_from_rpc():
        servers[0].stub.StartTraining(start)
    assert caught.value.field == field
