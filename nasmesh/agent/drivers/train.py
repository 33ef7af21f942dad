"""Drives a train server."""

from collections.abc import Iterator

from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.following import JobStatus, follow
from nasmesh.agent.drivers.places import keep_place
from nasmesh.agent.targets import Target
from nasmesh.v1 import dispatch_service_pb2, job_pb2, object_pb2, search_pb2
from nasmesh.v1 import train_service_pb2 as pb


class TrainCalls:
    """TrainService in terms of leases."""

    def __init__(self, target: Target) -> None:
        """Call this server."""
        self._target = target

    def start(self, job_id: str, lease: dispatch_service_pb2.Lease) -> JobStatus:
        """Start the training of a lease."""
        work = lease.train
        request = pb.StartTrainingRequest(
            training_id=job_id,
            network=work.network,
            config=work.config,
            data=work.data,
            instrumentation=work.instrumentation if work.HasField("instrumentation") else None,
            initial_weights=work.initial_weights if work.HasField("initial_weights") else None,
            resume_from=work.resume_from if work.HasField("resume_from") else None,
            until_step=work.until_step,
            gang=work.gang if work.HasField("gang") else None,
        )
        return _status(self._target.unary("StartTraining", request, pb.StartTrainingResponse).training)

    def get(self, job_id: str) -> JobStatus:
        """Return the training."""
        request = pb.GetTrainingRequest(training_id=job_id)
        return _status(self._target.unary("GetTraining", request, pb.GetTrainingResponse).training)

    def watch(self, job_id: str, after_sequence: int) -> Iterator[JobStatus]:
        """Yield the training's changes."""
        request = pb.WatchTrainingRequest(training_id=job_id, after_sequence=after_sequence)
        for response in self._target.stream("WatchTraining", request, pb.WatchTrainingResponse):
            yield _status(response.training)

    def cancel(self, job_id: str, grace_s: float | None = None) -> None:
        """Ask the training to stop after a checkpoint."""
        request = pb.CancelTrainingRequest(training_id=job_id)
        if grace_s is not None:
            request.grace.FromMilliseconds(round(grace_s * 1000))
        self._target.unary("CancelTraining", request, pb.CancelTrainingResponse)

    def delete(self, job_id: str) -> None:
        """Forget the training."""
        self._target.unary("DeleteTraining", pb.DeleteTrainingRequest(training_id=job_id), pb.DeleteTrainingResponse)

    def continued(
        self, lease: dispatch_service_pb2.Lease, checkpoint: object_pb2.ObjectRef
    ) -> dispatch_service_pb2.Lease:
        """Return the lease with its training resumed from the checkpoint."""
        continued = dispatch_service_pb2.Lease()
        continued.CopyFrom(lease)
        continued.train.resume_from.CopyFrom(checkpoint)
        return continued


class TrainDriver:
    """Works on train tasks."""

    kind = search_pb2.TASK_KIND_TRAIN

    def __init__(self, target: Target) -> None:
        """Drive this server; its slots are asked of it."""
        self._target = target
        self._calls = TrainCalls(target)
        self.slots = 1

    def describe(self) -> job_pb2.Server:
        """Ask the server what it is."""
        request = pb.TrainServiceGetServerRequest()
        server = self._target.unary("GetServer", request, pb.TrainServiceGetServerResponse).server
        self.slots = max(1, server.slots)
        return server

    def run(self, attempt: Attempt) -> dispatch_service_pb2.AttemptOutcome:
        """Train the lease's network, alone or with other servers."""
        if attempt.lease.train.HasField("gang"):
            return keep_place(self._calls, attempt)
        return follow(self._calls, attempt)

    def forget(self, job_id: str) -> None:
        """Delete the training."""
        self._calls.delete(job_id)


def _status(training: pb.Training) -> JobStatus:
    return JobStatus(
        state=training.state,
        sequence=training.sequence,
        progress=training.progress if training.HasField("progress") else None,
        checkpoint=training.checkpoint if training.HasField("checkpoint") else None,
        outcome=dispatch_service_pb2.AttemptOutcome(train=training.result),
        failure=training.failure,
        violation=training.violation if training.HasField("violation") else None,
    )
