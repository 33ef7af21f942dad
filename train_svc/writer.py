"""Writes checkpoints on a thread of their own, so that training waits for none but the last."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from nasmesh.v1 import object_pb2

Write = Callable[[], object_pb2.ObjectRef | None]


@dataclass(slots=True)
class _Outcome:
    ref: object_pb2.ObjectRef | None = None
    error: BaseException | None = None


class Writer:
    """Has at most one checkpoint in the making. All methods are for the training's thread."""

    def __init__(self) -> None:
        """Start with nothing to write."""
        self._thread: threading.Thread | None = None
        self._outcome = _Outcome()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written, or was and has not been collected."""
        return self._thread is not None

    def start(self, write: Write) -> None:
        """Begin to write; what was written before must have been collected."""
        if self._thread is not None:
            raise ValueError("a checkpoint is being written")
        outcome = self._outcome = _Outcome()

        def run() -> None:
            try:
                outcome.ref = write()
            except BaseException as error:  # noqa: BLE001 - it is raised where the training collects it
                outcome.error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for what is being written; how that ends is of interest to nobody any more."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def collect(self, *, wait: bool = False) -> object_pb2.ObjectRef | None:
        """Return what has been stored since the last call, None for nothing; raises what writing it raised."""
        if self._thread is None or (self._thread.is_alive() and not wait):
            return None
        self._thread.join()
        self._thread = None
        if self._outcome.error is not None:
            raise self._outcome.error
        return self._outcome.ref
