"""Starts a job on a server, watches it to its end, and outlasts lost connections and restarts of the server."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from nasmesh.agent.attempt import Attempt, Progress
from nasmesh.agent.backoff import Backoff
from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Busy, Conflict, NasmeshError, NotFound, Unavailable
from nasmesh.logs import get_logger
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, object_pb2, search_pb2

_LOG = get_logger("agent")

UNREACHABLE_S = 60.0
"""How long a server may be gone before its attempt is given up: two leases, enough for a restart that loads torch."""

_ENDED = frozenset({job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED})


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A training or an evaluation at one moment; `outcome` is what it returns once SUCCEEDED."""

    state: job_pb2.JobState.ValueType
    sequence: int
    progress: Progress | None
    checkpoint: object_pb2.ObjectRef | None
    outcome: pb.AttemptOutcome
    failure: search_pb2.Failure
    violation: search_pb2.ConstraintViolation | None = None
    """Beside a failure: the network is outside this bound."""

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self.state in _ENDED


class JobCalls(Protocol):
    """The calls that train and evaluate servers have in common, in terms of leases."""

    def start(self, job_id: str, lease: pb.Lease) -> JobStatus:
        """Start the job of a lease, or return the one that exists with this body."""
        ...

    def get(self, job_id: str) -> JobStatus:
        """Return the job."""
        ...

    def watch(self, job_id: str, after_sequence: int) -> Iterator[JobStatus]:
        """Yield the job's changes until it ends."""
        ...

    def cancel(self, job_id: str, grace_s: float | None = None) -> None:
        """Ask the job to stop, within a time for its checkpoint that is the server's own unless it is given."""
        ...

    def delete(self, job_id: str) -> None:
        """Forget the job."""
        ...

    def continued(self, lease: pb.Lease, checkpoint: object_pb2.ObjectRef) -> pb.Lease:
        """Return a lease that goes on from a checkpoint; the same lease where that has no meaning."""
        ...


def follow(
    calls: JobCalls, attempt: Attempt, *, clock: Clock | None = None, unreachable_s: float = UNREACHABLE_S
) -> pb.AttemptOutcome:
    """Return the attempt's outcome.

    Raises Unavailable (SERVER_UNREACHABLE) after a server was gone for `unreachable_s`, Busy where it had no slot for
    as long, and what the server refuses.
    """
    clock = clock or SystemClock()
    backoff = Backoff()
    known = attempt.adopted
    contact = clock.monotonic()
    attempt.on_cancel(lambda: _cancel(calls, attempt))
    while True:
        if attempt.cancelled.is_set() and not known:
            return attempt.released()
        try:
            status = _begin(calls, attempt, known=known)
            if status is None:
                return attempt.released()
            known = True
            contact = clock.monotonic()
            backoff.reset()
            if attempt.cancelled.is_set():
                # The first request to stop may have come before there was a job, or while the server was away.
                _cancel(calls, attempt)
            return _watch(calls, attempt, status)
        except (Unavailable, Busy) as error:
            away_s = clock.monotonic() - contact
            if attempt.cancelled.is_set() or away_s > unreachable_s:
                return _give_up(attempt, error, away_s)
            delay_s = max(backoff.next_s(), error.retry_after_s if isinstance(error, Busy) else 0.0)
            _LOG.info("server_away", reason=error.reason, retry_s=round(delay_s, 2))
            attempt.cancelled.wait(delay_s)


def _begin(calls: JobCalls, attempt: Attempt, *, known: bool) -> JobStatus | None:
    """Start the job, or find it again; None where it should stop and does not exist.

    One that its server lost is started again from its last checkpoint.
    """
    if known:
        try:
            found = calls.get(attempt.job_id)
            if attempt.cancelled.is_set():
                return found
        except NotFound:
            if attempt.cancelled.is_set():
                return None
            checkpoint = attempt.checkpoint
            if checkpoint is not None:
                attempt.rebase(calls.continued(attempt.lease, checkpoint))
    try:
        return calls.start(attempt.job_id, attempt.lease)
    except Conflict:
        # The id is ours alone, so another body under it is a leftover: of a scheduler whose journal is gone, for one.
        _LOG.warning("leftover_job_replaced", job=attempt.job_id)
        _clear(calls, attempt.job_id)
        return calls.start(attempt.job_id, attempt.lease)


def _clear(calls: JobCalls, job_id: str) -> None:
    calls.cancel(job_id)
    for _ in calls.watch(job_id, 0):
        pass
    calls.delete(job_id)


def _watch(calls: JobCalls, attempt: Attempt, first: JobStatus) -> pb.AttemptOutcome:
    rest = calls.watch(attempt.job_id, first.sequence) if not first.ended else iter(())
    for status in chain([first], rest):
        attempt.report(status.progress, status.checkpoint)
        if status.ended:
            return _outcome(attempt, status)
    # A server that stops ends its streams in good order.
    raise Unavailable("WATCH_ENDED", "the server ended the watch before the job ended")


def _outcome(attempt: Attempt, status: JobStatus) -> pb.AttemptOutcome:
    if status.state == job_pb2.JOB_STATE_SUCCEEDED:
        return status.outcome
    if status.state == job_pb2.JOB_STATE_FAILED and status.violation is not None:
        return pb.AttemptOutcome(infeasible=status.violation)
    if status.state == job_pb2.JOB_STATE_FAILED:
        return pb.AttemptOutcome(failure=status.failure)
    return attempt.released()


def _give_up(attempt: Attempt, error: NasmeshError, away_s: float) -> pb.AttemptOutcome:
    if attempt.cancelled.is_set():
        return attempt.released()
    if isinstance(error, Busy):
        raise error
    raise Unavailable(
        "SERVER_UNREACHABLE", f"the server beside the agent did not answer for {away_s:.0f} s: {error.message}"
    )


def _cancel(calls: JobCalls, attempt: Attempt) -> None:
    # A server that is away is asked again once it is back; one that does not know the job has nothing to stop.
    with contextlib.suppress(NasmeshError):
        calls.cancel(attempt.job_id, attempt.grace_s)
