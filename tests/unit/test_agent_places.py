"""An agent's place in a training over several servers: who tells an end, who waits for word, what counts."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.following import JobStatus
from nasmesh.agent.drivers.places import RANK_LOST, keep_place
from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.spool import Spool
from nasmesh.agent.targets import LocalTarget
from nasmesh.errors import Invalid, NasmeshError, NotFound
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, object_pb2, search_pb2
from nasmesh.v1 import train_service_pb2 as train

GONE = search_pb2.Failure(reason=RANK_LOST, retryable=True, counted=True)


def place(directory: Path, rank: int, *, adopted: bool = False) -> Attempt:
    lease = pb.Lease(token=pb.AttemptToken(task="t", attempt=1))
    lease.train.gang.CopyFrom(train.GangMember(rank=rank, size=2, rendezvous="127.0.0.1:7403"))
    return Attempt(lease, spool=Spool(directory), reported=lambda: None, adopted=adopted)


class Calls:
    """A server whose job ends at once: with a failure, or well; `error` is what it answers a start with."""

    def __init__(self, failure: search_pb2.Failure | None = None, *, error: NasmeshError | None = None) -> None:
        self.failure, self.error = failure, error
        self.watched = threading.Event()

    def start(self, job_id: str, lease: pb.Lease) -> JobStatus:  # noqa: ARG002
        if self.error is not None:
            raise self.error
        return JobStatus(job_pb2.JOB_STATE_RUNNING, 1, None, None, pb.AttemptOutcome(), search_pb2.Failure())

    def get(self, job_id: str) -> JobStatus:  # noqa: ARG002
        raise NotFound("TRAINING_UNKNOWN", "gone")

    def watch(self, job_id: str, after_sequence: int) -> Iterator[JobStatus]:  # noqa: ARG002
        self.watched.set()
        state = job_pb2.JOB_STATE_FAILED if self.failure else job_pb2.JOB_STATE_SUCCEEDED
        done = pb.AttemptOutcome(train=train.TrainResult())
        yield JobStatus(state, 2, None, None, done, self.failure or search_pb2.Failure())

    def cancel(self, job_id: str, grace_s: float | None = None) -> None:
        pass

    def delete(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def continued(self, lease: pb.Lease, checkpoint: object_pb2.ObjectRef) -> pb.Lease:  # noqa: ARG002
        return lease


@pytest.mark.parametrize("failure", [None, GONE])
def test_member_when_done_or_alone_then_says_nothing_until_it_is_told_to_stop(
    tmp_path: Path, failure: search_pb2.Failure | None
) -> None:
    attempt, calls, ended = place(tmp_path, 1), Calls(failure), []
    thread = threading.Thread(target=lambda: ended.append(keep_place(calls, attempt)))
    thread.start()
    assert calls.watched.wait(10)
    thread.join(0.2)
    assert not ended
    attempt.cancel()
    thread.join(10)
    assert [outcome.WhichOneof("result") for outcome in ended] == ["released"]


@pytest.mark.parametrize("rank", [0, 1])
def test_place_when_nobody_tells_what_became_of_a_lost_server_then_it_is_no_fault_of_the_network(
    tmp_path: Path, rank: int
) -> None:
    outcome = keep_place(Calls(GONE), place(tmp_path, rank), word_s=0.01, fault_s=0.01)
    assert outcome.failure.reason == RANK_LOST
    assert outcome.failure.retryable
    assert not outcome.failure.counted


def test_leader_when_done_then_its_outcome_is_told_at_once(tmp_path: Path) -> None:
    assert keep_place(Calls(), place(tmp_path, 0)).HasField("train")


@pytest.mark.parametrize("rank", [0, 1])
def test_place_when_the_network_is_at_fault_then_it_is_told_at_once_and_counts(tmp_path: Path, rank: int) -> None:
    outcome = keep_place(Calls(search_pb2.Failure(reason="CHILD_CRASHED", counted=True)), place(tmp_path, rank))
    assert (outcome.failure.reason, outcome.failure.counted) == ("CHILD_CRASHED", True)


def test_place_when_its_server_has_lost_the_job_then_it_is_not_begun_again(tmp_path: Path) -> None:
    attempt = place(tmp_path, 0, adopted=True)
    assert keep_place(Calls(error=Invalid("BEGUN", "again")), attempt, fault_s=0.01).failure.reason == RANK_LOST


def test_place_when_the_server_refuses_it_then_others_are_tried_and_other_refusals_are_final(tmp_path: Path) -> None:
    refused = keep_place(Calls(error=Invalid("GANG_REFUSED", "no address")), place(tmp_path, 1))
    assert refused.failure.retryable
    assert not refused.failure.counted
    with pytest.raises(Invalid, match="wrong"):
        keep_place(Calls(error=Invalid("FIELD_INVALID", "wrong")), place(tmp_path, 1))


def test_train_driver_when_the_lease_has_a_place_then_the_server_is_told_of_it(tmp_path: Path) -> None:
    asked = []

    class Servicer:
        def StartTraining(self, request: train.StartTrainingRequest, _: object) -> object:  # noqa: N802
            asked.append(request.gang)
            raise Invalid("FIELD_INVALID", "enough is seen")

    attempt = place(tmp_path, 1)
    with pytest.raises(Invalid):
        TrainDriver(LocalTarget(Servicer())).run(attempt)
    assert asked == [attempt.lease.train.gang]
