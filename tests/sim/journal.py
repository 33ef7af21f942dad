"""The scheduler's journal on a simulated disk: what is written outlives a kill, what is synced outlives a power cut."""

from collections.abc import Callable
from random import Random

from nasmesh.errors import Stale, Unavailable
from scheduler.journal.base import Answer, Batch
from scheduler.journal.memory import MemoryDisk, MemoryJournal
from tests.sim.dying import Boundary, nobody_dies

SCHEDULER = "scheduler"


class JournalDisk:
    """Two images of one log: `written`, as programs see it, and `platter`, as it is after a power cut."""

    def __init__(self) -> None:
        self.written = MemoryDisk()
        self.platter = MemoryDisk()
        self.unsynced: list[Batch] = []
        self.full = False
        self.lying_errors = 0
        self.boundary: Boundary = nobody_dies
        self.in_flight: Batch | None = None
        self.loses: Callable[[], bool] = lambda: False
        self.lands: Callable[[], bool] = lambda: False

    def settle(self) -> None:
        """Have a batch whose connection was lost land, or not: known before anybody else takes the journal over."""
        batch, self.in_flight = self.in_flight, None
        if batch is not None and self.lands():
            _keeper(self.written).append(batch)
            self.unsynced.append(batch)
            self.sync()

    def unlock(self) -> None:
        """Let another scheduler in: the last one is dead, or the lock does not work on this file system."""
        self.written.locked = self.platter.locked = False

    def power_cut(self, rng: Random) -> None:
        """Lose what was not synced, but for as many whole batches as happened to reach the platter."""
        keeper = _keeper(self.platter)
        for batch in self.unsynced[: rng.randint(0, len(self.unsynced))]:
            keeper.append(batch)
        self.unsynced = []
        self.written = _copy(self.platter)

    def sync(self) -> None:
        keeper = _keeper(self.platter)
        for batch in self.unsynced:
            keeper.append(batch)
        self.unsynced = []


def _keeper(disk: MemoryDisk) -> MemoryJournal:
    """Return a journal that writes to a disk under whatever epoch it has."""
    journal = MemoryJournal(disk)
    journal._epoch = disk.epoch
    return journal


def _copy(disk: MemoryDisk) -> MemoryDisk:
    return MemoryDisk(
        epoch=disk.epoch,
        events=list(disk.events),
        rows=dict(disk.rows),
        snapshot_sequence=disk.snapshot_sequence,
        answers=dict(disk.answers),
    )


class SimJournal(MemoryJournal):
    """A journal whose every write has three moments at which its scheduler can die: before, unsynced, synced."""

    def __init__(self, disk: JournalDisk) -> None:
        super().__init__(disk.written)
        self._sim = disk

    def open(self) -> int:
        self._sim.settle()
        epoch = super().open()
        self._sim.platter.epoch = epoch
        return epoch

    def append(self, batch: Batch) -> None:
        self._sim.boundary(SCHEDULER, "before commit")
        if self._sim.full:
            raise Unavailable("JOURNAL_FULL", "journal: no space left; free some space, work then goes on by itself")
        if self._epoch == self._sim.written.epoch and self._sim.loses():
            self._sim.in_flight = batch
            raise Stale("LEADERSHIP_LOST", "journal: the connection was lost, and with it what came of the last batch")
        super().append(batch)
        self._sim.unsynced.append(batch)
        self._sim.boundary(SCHEDULER, "written, not synced")
        self.sync()
        self._sim.boundary(SCHEDULER, "after commit")

    def answer(self, request_id: str) -> Answer | None:
        """Return an answer: one that others gave after this journal was opened is seen once it is durable.

        SQLite tells readers of a commit after it has synced its log (sqlite3WalFrames), PostgreSQL after the flush.
        """
        disk = self._sim.written if self._epoch == self._sim.written.epoch else self._sim.platter
        return disk.answers.get(request_id)

    def sync(self) -> None:
        """Make what was written durable, as synchronous=FULL does at every commit."""
        self._sim.sync()

    def forget_answers(self, before_s: float) -> None:
        super().forget_answers(before_s)
        _keeper(self._sim.platter).forget_answers(before_s)
