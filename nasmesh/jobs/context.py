"""What a work function sees of the job it runs: a way to report, and whether it should stop."""

import threading
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.message import Message

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid
from nasmesh.limits import MESSAGE_BYTES
from nasmesh.v1 import object_pb2, worker_pb2

_MARK_INTERVAL_S = 0.05


class Foretold(NamedTuple):
    """The memory that was foretold for a job, in bytes, and the estimate before what this host has learned."""

    predicted: int = 0
    estimated: int = 0


NOTHING_FORETOLD = Foretold()


class Cancelled(Exception):  # noqa: N818 - it is no error: the job ends as it was asked to
    """Raised by a work function to end a cancelled job."""


class JobContext:
    """Passed to a work function as its second argument. `report` may be called from any thread."""

    def __init__(  # noqa: PLR0913 - all that a job is told; a value object would only rename it
        self,
        job_id: str,
        *,
        send: Callable[[worker_pb2.JobMark], None],
        cancelled: threading.Event,
        clock: Clock | None = None,
        memory_bytes: int = 0,
        foretold: Foretold = NOTHING_FORETOLD,
        checkpoint: object_pb2.ObjectRef | None = None,
    ) -> None:
        """Bind to one job; `send` takes marks, `cancelled` is set by whoever wants the job to stop.

        `memory_bytes`: the most that it may hold beyond what its process held before it [0: no bound], and what was
        foretold of that. `checkpoint`: the last that an earlier try at this job stored.
        """
        self.job_id = job_id
        self.memory_bytes = memory_bytes
        self.foretold = foretold
        self.checkpoint = checkpoint
        self._send = send
        self._cancelled = cancelled
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._waiting: worker_pb2.JobMark | None = None
        self._next_mark = self._clock.monotonic()

    @property
    def cancelled(self) -> bool:
        """Whether the job should write a checkpoint and raise Cancelled."""
        return self._cancelled.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait, or until the job should stop; says whether it should."""
        return self._cancelled.wait(seconds)

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled once the job should stop."""
        if self.cancelled:
            raise Cancelled

    def report(self, progress: Message, *, checkpoint: object_pb2.ObjectRef | None = None) -> None:
        """Tell how far the job is. Marks closer than 50 ms are merged, the latest wins; a checkpoint is told at once.

        Raises Invalid (PROGRESS_TOO_LARGE) for a message that exceeds what gRPC carries.
        """
        content = progress.SerializeToString()
        if len(content) > MESSAGE_BYTES:
            raise Invalid("PROGRESS_TOO_LARGE", f"a progress mark of {len(content)} bytes exceeds {MESSAGE_BYTES}")
        mark = worker_pb2.JobMark(job_id=self.job_id, progress=content, checkpoint=checkpoint)
        with self._lock:
            now = self._clock.monotonic()
            if checkpoint is None and now < self._next_mark:
                self._waiting = mark
                return
            self._next_mark = now + _MARK_INTERVAL_S
            self._waiting = None
            self._send(mark)

    def flush(self) -> None:
        """Send the mark that was held back, if any."""
        with self._lock:
            if self._waiting is not None:
                self._send(self._waiting)
                self._waiting = None
