"""One attempt in hand: its lease, how far it is, and whether it should stop. Drivers see nothing else of the agent."""

import threading
from collections.abc import Callable

from nasmesh.agent.spool import Spool, about, job_id_of
from nasmesh.logs import get_logger
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import evaluate_service_pb2, object_pb2, search_pb2, train_service_pb2

_LOG = get_logger("agent")

Progress = train_service_pb2.TrainProgress | evaluate_service_pb2.EvaluateProgress

_KINDS = {
    "generate": search_pb2.TASK_KIND_GENERATE,
    "finalize": search_pb2.TASK_KIND_GENERATE,
    "admit": search_pb2.TASK_KIND_GENERATE,
    "train": search_pb2.TASK_KIND_TRAIN,
    "evaluate": search_pb2.TASK_KIND_EVALUATE,
}


def kind_of(lease: pb.Lease) -> search_pb2.TaskKind.ValueType:
    """Return what kind of work a lease is; UNSPECIFIED where it has none that is known here."""
    return _KINDS.get(lease.WhichOneof("work") or "", search_pb2.TASK_KIND_UNSPECIFIED)


class Attempt:
    """An attempt as its driver works on it. Every method may be called from any thread."""

    def __init__(
        self,
        lease: pb.Lease,
        *,
        spool: Spool,
        reported: Callable[[], None],
        checkpoint: object_pb2.ObjectRef | None = None,
        adopted: bool = False,
    ) -> None:
        """Hold a lease; `adopted`: an earlier process of this agent may have started the work."""
        self.lease = lease
        self.token = lease.token
        self.job_id = job_id_of(lease.token)
        self.kind = kind_of(lease)
        self.adopted = adopted
        self._spool = spool
        self._reported = reported
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._checkpoint = checkpoint
        self._cancelled = threading.Event()
        self._superseded = False
        self._grace_s: float | None = None
        self._on_cancel: Callable[[], None] | None = None

    @property
    def about(self) -> dict[str, object]:
        """What log lines say of the attempt."""
        return {"search": self.lease.search.removeprefix("searches/"), **about(self.token)}

    @property
    def cancelled(self) -> threading.Event:
        """Set once the attempt should stop, for whatever reason."""
        return self._cancelled

    @property
    def superseded(self) -> bool:
        """Whether the attempt is no longer this agent's: nobody wants its outcome."""
        return self._superseded

    @property
    def checkpoint(self) -> object_pb2.ObjectRef | None:
        """The last stored checkpoint."""
        with self._lock:
            return self._checkpoint

    def report(self, progress: Progress | None, checkpoint: object_pb2.ObjectRef | None = None) -> None:
        """Tell how far the work is; goes with the next heartbeat. A new checkpoint is also remembered on disk."""
        with self._lock:
            if progress is not None:
                self._progress = progress
            is_new = checkpoint is not None and checkpoint != self._checkpoint
            if is_new:
                self._checkpoint = checkpoint
        if is_new and checkpoint is not None:
            try:
                self._spool.put_checkpoint(self.token, checkpoint)
            except OSError as error:
                _LOG.error("checkpoint_not_remembered", **self.about, error=str(error))
        self._reported()

    def rebase(self, lease: pb.Lease) -> None:
        """Replace the lease by one that goes on from a later point; on disk too, for a next process."""
        self.lease = lease
        try:
            self._spool.put_lease(lease)
        except OSError as error:
            _LOG.error("lease_not_remembered", **self.about, error=str(error))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Have `callback` called on a thread of its own when the attempt should stop; at once if it should already."""
        with self._lock:
            self._on_cancel = callback
            late = self._cancelled.is_set()
        if late:
            self._call_back()

    @property
    def grace_s(self) -> float | None:
        """How long the work may take to store a checkpoint once it should stop; None: the server's own time."""
        return self._grace_s

    def cancel(self, *, superseded: bool = False, grace_s: float | None = None) -> None:
        """Make the work stop; where it is wanted again later, `grace_s` is the time for its checkpoint."""
        with self._lock:
            self._superseded = self._superseded or superseded
            first = not self._cancelled.is_set()
            if first:
                self._grace_s = grace_s
            self._cancelled.set()
        if first:
            self._call_back()

    def progress(self) -> pb.AttemptProgress:
        """Return the line of this attempt in a heartbeat."""
        with self._lock:
            line = pb.AttemptProgress(token=self.token, checkpoint=self._checkpoint)
            if isinstance(self._progress, train_service_pb2.TrainProgress):
                line.train.CopyFrom(self._progress)
            elif self._progress is not None:
                line.evaluate.CopyFrom(self._progress)
            return line

    def released(self) -> pb.AttemptOutcome:
        """Return the outcome that gives the attempt back with its last checkpoint."""
        return pb.AttemptOutcome(released=pb.AttemptReleased(checkpoint=self.checkpoint))

    def _call_back(self) -> None:
        with self._lock:
            callback = self._on_cancel
        if callback is not None:
            # Not on the caller's thread: that one reads the scheduler's stream, and a cancel may take seconds.
            threading.Thread(target=callback, name=f"cancel-{self.job_id}", daemon=True).start()
