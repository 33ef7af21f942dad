"""JobTable, the engine of train and evaluate servers: start by id, watch from a sequence number, cancel, delete."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from google.protobuf.message import Message

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid
from nasmesh.jobs.board import Board
from nasmesh.jobs.child import WORK
from nasmesh.jobs.nursery import Nursery
from nasmesh.jobs.process import ChildLimits
from nasmesh.jobs.records import RecordDirectory
from nasmesh.jobs.room import Memory, Room
from nasmesh.jobs.slot import Slot
from nasmesh.jobs.view import JobView
from nasmesh.telemetry.samples import Reading, Sample

__all__ = ["ChildLimits", "JobTable", "JobView", "Memory"]


class JobTable:
    """Runs one work function in `slots` warm child processes. Safe to call from any thread.

    Reasons of errors carry the noun: with noun "training", TRAINING_UNKNOWN, TRAINING_ID_REUSED, TRAINING_NOT_ENDED.
    """

    def __init__(  # noqa: PLR0913 - the engine's whole configuration; a value object would only rename it
        self,
        *,
        work: str,
        slots: int,
        directory: Path,
        limits: ChildLimits | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        noun: str = "job",
        queue: int | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Load ended jobs from `directory` and start the children.

        `work` is "module:function" as fixed in the program, never taken from a message. `queue`: jobs that may wait
        beyond the slots [as many as slots]. `memory`: what the jobs may hold together [no bound]; the work's module
        then has a function `weigh`, from a serialised request to bytes. Raises Invalid (WORK_INVALID, SLOTS_INVALID).
        """
        if not WORK.fullmatch(work):
            raise Invalid("WORK_INVALID", f"work: {work[:80]!r} is not module:function", field="work")
        if not 1 <= slots <= 1024:
            raise Invalid("SLOTS_INVALID", f"slots: {slots} is not between 1 and 1024", field="slots")
        self._clock = clock or SystemClock()
        self._limits = limits or ChildLimits()
        self._memory = memory or Memory()
        self._board = Board(
            RecordDirectory(directory, ".job"),
            clock=self._clock,
            noun=noun,
            capacity=slots + (slots if queue is None else queue),
            orphan_s=self._limits.orphan_s,
            room=Room(self._memory, slots),
        )
        self._nursery = Nursery(work, limits=self._limits, environment=environment or {})
        self._slots = [
            Slot(f"slot-{number}", board=self._board, nursery=self._nursery, limits=self._limits, clock=self._clock)
            for number in range(slots)
        ]
        self.slots = slots
        self.memory_bytes = self._memory.budget

    def readings(self) -> Sequence[Reading]:
        """Return what metrics tell of the table."""
        return [
            Sample("nasmesh_slots", self.slots),
            Sample("nasmesh_children_started", self._nursery.started),
            *self._board.readings(),
        ]

    def start(self, job_id: str, request: Message, *, slots: int = 1, once: bool = False) -> JobView:
        """Start a job that takes so many slots, or return the one that exists with this id and body.

        `once`: where it runs out of memory it ends, and is not tried again with more. Raises Conflict
        ({NOUN}_ID_REUSED), Busy (NO_SLOT), Unavailable (DRAINING), Invalid (NAME_INVALID, SLOTS_TOO_FEW).
        """
        if not 1 <= slots <= self.slots:
            raise Invalid("SLOTS_TOO_FEW", f"the job takes {slots} slots, this server has {self.slots}")
        return self._board.start(job_id, request.SerializeToString(deterministic=True), slots=slots, once=once)

    def get(self, job_id: str) -> JobView:
        """Return one job; raises NotFound ({NOUN}_UNKNOWN)."""
        return self._board.get(job_id)

    def list(self) -> tuple[JobView, ...]:
        """Return all jobs that are known, newest first."""
        return self._board.list()

    def watch(self, job_id: str, after_sequence: int = 0, *, timeout_s: float | None = None) -> Iterator[JobView]:
        """Yield changes after a sequence number until the job ends; progress may be skipped, states are not.

        With `timeout_s`, also returns when nothing changed for that long. Raises NotFound ({NOUN}_UNKNOWN) at once.
        """
        self._board.get(job_id)
        return self._board.watch(job_id, after_sequence, timeout_s)

    def cancel(self, job_id: str, grace_s: float | None = None) -> JobView:
        """Ask a job to stop: it has `grace_s` [cancel_grace_s] to write a checkpoint, then its process is ended.

        Raises NotFound ({NOUN}_UNKNOWN). An ended job is left as it is; for one that was asked before the first grace
        counts.
        """
        return self._board.cancel(job_id, self._limits.cancel_grace_s if grace_s is None else grace_s)

    def delete(self, job_id: str) -> None:
        """Forget an ended job; raises NotFound ({NOUN}_UNKNOWN) or Stale ({NOUN}_NOT_ENDED)."""
        self._board.delete(job_id)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new jobs, ask those at hand to stop within the time, and return whether all did."""
        self.begin_drain(timeout_s)
        return self._board.wait_until_idle(timeout_s)

    def begin_drain(self, grace_s: float) -> None:
        """Do the first two parts of `drain` and return at once; a later `cancel` does not shorten the time."""
        self._board.begin_drain(grace_s)

    def close(self) -> None:
        """End every child. Jobs that had not ended are not recorded: the same start in a next process runs them."""
        self._board.close()
        for slot in self._slots:
            slot.join()
        self._nursery.close()
