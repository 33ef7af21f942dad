"""One job as everybody sees it, and the record that is kept of an ended one."""

from dataclasses import dataclass

from nasmesh.v1 import job_pb2, object_pb2, search_pb2, worker_pb2

ENDED = frozenset({job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED})


@dataclass(frozen=True, slots=True)
class JobView:
    """One job at one moment. `request`, `progress` and `result` are serialised messages."""

    job_id: str
    state: job_pb2.JobState.ValueType
    sequence: int
    request: bytes
    progress: bytes = b""
    checkpoint: object_pb2.ObjectRef | None = None
    result: bytes = b""
    failure: search_pb2.Failure | None = None
    violation: search_pb2.ConstraintViolation | None = None
    """Beside a failure for want of memory: by how much the job is outside what there is."""

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self.state in ENDED


def record_of(view: JobView) -> bytes:
    """Return the bytes that are kept of an ended job."""
    return worker_pb2.JobRecord(
        job_id=view.job_id,
        request=view.request,
        state=view.state,
        sequence=view.sequence,
        progress=view.progress,
        checkpoint=view.checkpoint,
        result=view.result,
        failure=view.failure,
        violation=view.violation,
    ).SerializeToString()


def view_of(record: worker_pb2.JobRecord) -> JobView:
    """Return the job that a record is of."""
    return JobView(
        job_id=record.job_id,
        state=record.state,
        sequence=record.sequence,
        request=record.request,
        progress=record.progress,
        checkpoint=record.checkpoint if record.HasField("checkpoint") else None,
        result=record.result,
        failure=record.failure if record.HasField("failure") else None,
        violation=record.violation if record.HasField("violation") else None,
    )
