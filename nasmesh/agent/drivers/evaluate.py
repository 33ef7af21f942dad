"""Drives an evaluate server."""

from collections.abc import Iterator

from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.following import JobStatus, follow
from nasmesh.agent.targets import Target
from nasmesh.v1 import dispatch_service_pb2, job_pb2, object_pb2, search_pb2
from nasmesh.v1 import evaluate_service_pb2 as pb


class EvaluateCalls:
    """EvaluateService in terms of leases."""

    def __init__(self, target: Target) -> None:
        """Call this server."""
        self._target = target

    def start(self, job_id: str, lease: dispatch_service_pb2.Lease) -> JobStatus:
        """Start the evaluation of a lease."""
        work = lease.evaluate
        request = pb.StartEvaluationRequest(
            evaluation_id=job_id,
            model=work.model,
            config=work.config,
            data=work.data,
            choices=work.choices if work.HasField("choices") else None,
            untrained=work.untrained,
        )
        return _status(self._target.unary("StartEvaluation", request, pb.StartEvaluationResponse).evaluation)

    def get(self, job_id: str) -> JobStatus:
        """Return the evaluation."""
        request = pb.GetEvaluationRequest(evaluation_id=job_id)
        return _status(self._target.unary("GetEvaluation", request, pb.GetEvaluationResponse).evaluation)

    def watch(self, job_id: str, after_sequence: int) -> Iterator[JobStatus]:
        """Yield the evaluation's changes."""
        request = pb.WatchEvaluationRequest(evaluation_id=job_id, after_sequence=after_sequence)
        for response in self._target.stream("WatchEvaluation", request, pb.WatchEvaluationResponse):
            yield _status(response.evaluation)

    def cancel(self, job_id: str, grace_s: float | None = None) -> None:  # noqa: ARG002 - it has no checkpoint to store
        """Ask the evaluation to stop."""
        request = pb.CancelEvaluationRequest(evaluation_id=job_id)
        self._target.unary("CancelEvaluation", request, pb.CancelEvaluationResponse)

    def delete(self, job_id: str) -> None:
        """Forget the evaluation."""
        request = pb.DeleteEvaluationRequest(evaluation_id=job_id)
        self._target.unary("DeleteEvaluation", request, pb.DeleteEvaluationResponse)

    def continued(
        self,
        lease: dispatch_service_pb2.Lease,
        checkpoint: object_pb2.ObjectRef,  # noqa: ARG002 - evaluations have none
    ) -> dispatch_service_pb2.Lease:
        """Return the lease as it is: an evaluation starts over."""
        return lease


class EvaluateDriver:
    """Works on evaluate tasks."""

    kind = search_pb2.TASK_KIND_EVALUATE

    def __init__(self, target: Target) -> None:
        """Drive this server; its slots are asked of it."""
        self._target = target
        self._calls = EvaluateCalls(target)
        self.slots = 1

    def describe(self) -> job_pb2.Server:
        """Ask the server what it is."""
        request = pb.EvaluateServiceGetServerRequest()
        server = self._target.unary("GetServer", request, pb.EvaluateServiceGetServerResponse).server
        self.slots = max(1, server.slots)
        return server

    def run(self, attempt: Attempt) -> dispatch_service_pb2.AttemptOutcome:
        """Score the lease's network."""
        return follow(self._calls, attempt)

    def forget(self, job_id: str) -> None:
        """Delete the evaluation."""
        self._calls.delete(job_id)


def _status(evaluation: pb.Evaluation) -> JobStatus:
    return JobStatus(
        state=evaluation.state,
        sequence=evaluation.sequence,
        progress=evaluation.progress if evaluation.HasField("progress") else None,
        checkpoint=None,
        outcome=dispatch_service_pb2.AttemptOutcome(evaluate=evaluation.result),
        failure=evaluation.failure,
        violation=evaluation.violation if evaluation.HasField("violation") else None,
    )
