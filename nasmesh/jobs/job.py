"""A job with its past, and how one begins in memory: new, or read from what an earlier process left."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from google.protobuf.message import DecodeError

from nasmesh.jobs.attention import Attention
from nasmesh.jobs.room import Claim
from nasmesh.jobs.view import ENDED, JobView, view_of
from nasmesh.v1 import job_pb2, search_pb2, worker_pb2


@dataclass(slots=True, eq=False)
class Job:
    """A job with its past; changed only under the board's lock, `view` only by the board."""

    view: JobView
    attention: Attention
    claim: Claim = field(default_factory=Claim)
    is_orphan: bool = False
    states: list[JobView] = field(default_factory=list)
    cancel_at: float | None = None
    """When the process of a cancelled job is ended, on the monotonic clock; None: not cancelled."""
    wake: Callable[[], None] | None = None
    began_at: float | None = None
    ended_at: float = 0.0
    traceparent: str = ""
    """Trace of the call that started it."""


def queued(job_id: str, request: bytes, *, now: float, traceparent: str) -> Job:
    """Return a new job."""
    job = Job(JobView(job_id, job_pb2.JOB_STATE_QUEUED, 1, request), Attention(now), traceparent=traceparent)
    job.states.append(job.view)
    return job


def loaded(job_id: str, content: bytes, *, now: float) -> Job | None:
    """Return the ended job that a record is of, None where it is of none."""
    try:
        record = worker_pb2.JobRecord.FromString(content)
    except DecodeError:
        return None
    if record.job_id != job_id or record.state not in ENDED:
        return None
    job = Job(view_of(record), Attention(now), ended_at=now)
    job.states.append(job.view)
    return job


def ended_view(view: JobView, finished: worker_pb2.JobFinished, orphaned: search_pb2.Failure | None) -> JobView:
    """Return a running job's view as it ended; `orphaned`: why, where nobody had asked it to stop."""
    if finished.HasField("failure"):
        outside = finished.violation if finished.HasField("violation") else None
        return replace(view, state=job_pb2.JOB_STATE_FAILED, failure=finished.failure, violation=outside)
    if finished.HasField("stopped"):
        return replace(view, state=job_pb2.JOB_STATE_CANCELLED, failure=orphaned)
    return replace(view, state=job_pb2.JOB_STATE_SUCCEEDED, result=finished.result)
