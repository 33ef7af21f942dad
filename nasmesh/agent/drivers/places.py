"""A place in a training over several servers: whose end is told, who waits for word, and what is nobody's fault.

The outcome of the server that leads is everybody's. Whoever else is done, or has lost the others, keeps its place until
it is told to stop, since it cannot know how the training ended. What is wrong with its own part it says at once.
"""

from collections.abc import Iterator

from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.following import JobCalls, JobStatus, follow
from nasmesh.errors import NasmeshError, NotFound, Stale
from nasmesh.jobs.failures import failure
from nasmesh.logs import get_logger
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import object_pb2

_LOG = get_logger("agent")

RANK_LOST = "RANK_LOST"
_UNCOUNTED = frozenset({RANK_LOST, "GANG_REFUSED", "DATASET_DIFFERS"})
"""Reasons that tell of the servers and never of the network: another attempt is made, with others perhaps."""

WORD_S = 600.0
"""How long one that has lost the others waits to be told what became of the training."""
FAULT_S = 3.0
"""How long the one that leads leaves it to others to say what they ended of, before it says that one is lost."""


def keep_place(
    calls: JobCalls, attempt: Attempt, *, word_s: float = WORD_S, fault_s: float = FAULT_S
) -> pb.AttemptOutcome:
    """Return the outcome of an attempt that has a place in a training over several servers; raises as `follow` does."""
    rank = attempt.lease.train.gang.rank
    outcome = _ended(calls, attempt)
    reason = outcome.failure.reason
    if reason in _UNCOUNTED:
        outcome.failure.retryable, outcome.failure.counted = True, False
    if reason == RANK_LOST:
        told = attempt.cancelled.wait(word_s if rank else fault_s)
    elif rank and outcome.HasField("train"):
        _LOG.info("place_kept", rank=rank)
        told = attempt.cancelled.wait()
    else:
        told = False
    return attempt.released() if told else outcome


def _ended(calls: JobCalls, attempt: Attempt) -> pb.AttemptOutcome:
    try:
        return follow(_PlaceCalls(calls, attempt), attempt)
    except NasmeshError as error:
        if error.reason not in _UNCOUNTED:
            raise
        return pb.AttemptOutcome(failure=failure(error.reason, error.message, retryable=True))


class _PlaceCalls:
    """The calls of a job that is not begun again: the others do not wait for one whose server has lost it."""

    def __init__(self, calls: JobCalls, attempt: Attempt) -> None:
        self._calls = calls
        self._attempt = attempt

    def start(self, job_id: str, lease: pb.Lease) -> JobStatus:
        return self._calls.start(job_id, lease)

    def get(self, job_id: str) -> JobStatus:
        try:
            return self._calls.get(job_id)
        except NotFound:
            if self._attempt.cancelled.is_set():
                raise
            raise Stale(RANK_LOST, "the server beside the agent has lost its part of the training") from None

    def watch(self, job_id: str, after_sequence: int) -> Iterator[JobStatus]:
        return self._calls.watch(job_id, after_sequence)

    def cancel(self, job_id: str, grace_s: float | None = None) -> None:
        self._calls.cancel(job_id, grace_s)

    def delete(self, job_id: str) -> None:
        self._calls.delete(job_id)

    def continued(self, lease: pb.Lease, checkpoint: object_pb2.ObjectRef) -> pb.Lease:
        return self._calls.continued(lease, checkpoint)
