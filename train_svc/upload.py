"""Stores what a training makes; outlasts an object store that is down, which must not cost hours of training.

A checkpoint on the way is skipped, the last one waits for the store. Either is kept on this machine's disk meanwhile,
from which the same training goes on, in a next attempt or process on this machine.
"""

import hashlib
from typing import cast

from nasmesh import limits
from nasmesh.clock import Clock
from nasmesh.errors import NasmeshError, Unavailable
from nasmesh.jobs.context import Cancelled, JobContext
from nasmesh.jobs.outbox import Outbox
from nasmesh.logs import get_logger
from nasmesh.model.admission import admit
from nasmesh.model.engine.checkpoint import Checkpoint, load_checkpoint
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import object_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc.training import SNAPSHOT_VERSION, fetch_checkpoint

STORE_DOWN = "STORE_DOWN"
FIRST_S = 1.0
LONGEST_S = 30.0

_log = get_logger("upload")


def work_of(start: pb.StartTrainingRequest) -> str:
    """Return the digest of what is trained, the same for every attempt at it."""
    asked = pb.StartTrainingRequest()
    asked.CopyFrom(start)
    asked.ClearField("training_id")
    asked.ClearField("resume_from")
    asked.ClearField("until_step")
    asked.ClearField("gang")
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()


def last_checkpoint(start: pb.StartTrainingRequest, store: ObjectStore, outbox: Outbox) -> Checkpoint | None:
    """Return where the training goes on: the later of what was stored and what this machine has kept; None: nowhere.

    Raises Rejected, NotFound, Unavailable (STORE_DOWN).
    """
    stored = fetch_checkpoint(store, start.resume_from) if start.HasField("resume_from") else None
    kept = _kept(outbox, work_of(start))
    if kept is None or (stored is not None and _step(stored) >= _step(kept)):
        return stored
    _log.info("continued_from_kept", step=_step(kept))
    return kept


def _kept(outbox: Outbox, work: str) -> Checkpoint | None:
    content = outbox.load(work)
    if content is None:
        return None
    try:
        admit(content, checkpoint=True)
        found = load_checkpoint(content)
    except NasmeshError as error:
        _log.warning("kept_unreadable", reason=error.reason)
        outbox.drop(work)
        return None
    return found if found.scalars.get("version") == SNAPSHOT_VERSION else None


def _step(checkpoint: Checkpoint) -> int:
    return cast(int, checkpoint.scalars["step"])


class Upload:
    """Stores the objects of one training."""

    def __init__(self, store: ObjectStore, outbox: Outbox, work: str, context: JobContext, clock: Clock) -> None:
        """Store in `store`, and keep in `outbox` under `work` what cannot be stored."""
        self._store = store
        self._outbox = outbox
        self._work = work
        self._context = context
        self._clock = clock

    def put_or_keep(self, content: bytes) -> object_pb2.ObjectRef | None:
        """Store a checkpoint; while the store is down, keep it here and return None."""
        try:
            return self._store.put(ObjectKind.CHECKPOINT, content)
        except Unavailable as error:
            _log.warning("checkpoint_not_stored", reason=error.reason, text=error.message)
            self._outbox.keep(self._work, content)
            return None

    def put(self, content: bytes, progress: pb.TrainProgress, *, keep: bool) -> object_pb2.ObjectRef:
        """Store what the training has come to; waits for a store that is down, with `uploading` in the progress.

        `keep`: it is a checkpoint, to be kept here meanwhile. Raises Unavailable (STORE_DOWN) after limits.UPLOAD_S,
        Cancelled.
        """
        began, delay_s, kept = self._clock.monotonic(), FIRST_S, False
        while True:
            try:
                return self._store.put(ObjectKind.CHECKPOINT, content)
            except Unavailable as error:
                waited_s = self._clock.monotonic() - began
                if waited_s >= limits.UPLOAD_S:
                    raise Unavailable(STORE_DOWN, f"not stored within {waited_s:.0f} s: {error.message}") from error
                _log.warning("upload_waits", waited_s=round(waited_s), text=error.message)
            if keep and not kept:
                self._outbox.keep(self._work, content)
                kept = True
            told = pb.TrainProgress()
            told.CopyFrom(progress)
            told.uploading = True
            self._context.report(told)
            if self._context.wait(delay_s):
                raise Cancelled
            delay_s = min(LONGEST_S, 2 * delay_s)

    def done(self) -> None:
        """Forget what was kept: all is stored."""
        self._outbox.drop(self._work)
