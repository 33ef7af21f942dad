"""A journal in memory, for tests and throw-away runs; the disk outlives the journal, as a file would."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from nasmesh.errors import Stale, Unavailable
from scheduler.journal.base import Answer, Batch


@dataclass(slots=True)
class MemoryDisk:
    """What survives a restart. `full` makes writes fail, for tests."""

    epoch: int = 0
    events: list[bytes] = field(default_factory=list)
    rows: dict[str, bytes] = field(default_factory=dict)
    snapshot_sequence: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    locked: bool = False
    full: bool = False


class MemoryJournal:
    """Keeps the log on a MemoryDisk."""

    kind_name = "memory"

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        """Use a disk that may hold a log already."""
        self._disk = disk if disk is not None else MemoryDisk()
        self._epoch = 0

    def open(self) -> int:
        """Take the log over; see Journal."""
        if self._disk.locked:
            raise Unavailable("JOURNAL_LOCKED", "journal: another scheduler uses it; stop that one first")
        self._check_space()
        self._disk.locked = True
        self._disk.epoch += 1
        self._epoch = self._disk.epoch
        return self._epoch

    def withdraw(self) -> None:
        """Put the epoch back and close; see Journal."""
        self._disk.epoch -= 1
        self._epoch -= 1
        self.close()

    def snapshot(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return the snapshot; see Journal."""
        return self._disk.snapshot_sequence, iter(sorted(self._disk.rows.items()))

    def events(self, after: int) -> Iterator[tuple[int, bytes]]:
        """Return events; see Journal."""
        return iter(enumerate(self._disk.events[after:], start=after + 1))

    def append(self, batch: Batch) -> None:
        """Write a batch; see Journal."""
        self._check_space()
        if self._epoch != self._disk.epoch:
            raise Stale("EPOCH_STALE", f"journal: epoch {self._disk.epoch} has taken over from {self._epoch}")
        if batch.events and batch.first_sequence != len(self._disk.events) + 1:
            raise Unavailable("JOURNAL_IO", f"journal: event {batch.first_sequence} does not follow")
        self._disk.events.extend(batch.events)
        self._disk.answers.update(batch.answers)
        self._disk.rows.update(batch.rows)
        for key in [key for key, body in batch.rows.items() if not body]:
            del self._disk.rows[key]
        self._disk.snapshot_sequence = batch.snapshot_sequence or self._disk.snapshot_sequence

    def settle(self) -> None:
        """Do nothing: memory has nothing to put in order; see Journal."""

    def answer(self, request_id: str) -> Answer | None:
        """Return an answer; see Journal."""
        return self._disk.answers.get(request_id)

    def forget_answers(self, before_s: float) -> None:
        """Drop old answers; see Journal."""
        self._disk.answers = {key: kept for key, kept in self._disk.answers.items() if kept.time_s >= before_s}

    def close(self) -> None:
        """Let the log go."""
        if self._epoch == self._disk.epoch:
            self._disk.locked = False

    def _check_space(self) -> None:
        if self._disk.full:
            raise Unavailable("JOURNAL_FULL", "journal: no space left; free some space, work then goes on by itself")
