"""T3: power cuts under the real SQLite journal, by a file system that forgets, cuts and tears what was not synced.

The journal's own code runs over SQLite's own code; below it an apsw VFS notes every write and sync. At random moments
an image of the disk is made as a power cut would leave it, and opened as any journal is.

    python -m tests.sim.power_cuts --cuts 20000
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import apsw

from nasmesh.clock import derive_seed, seeded_random
from nasmesh.errors import NasmeshError
from scheduler.journal import sqlite, transaction
from scheduler.journal.base import Answer, Batch
from scheduler.journal.sqlite import SqliteJournal
from tests.sim import logged

CUTS = 1000
SECTOR = 512
APPENDS = 30
_VFS = "forgetful"
_REAL = sqlite.sqlite3


class CutError(AssertionError):
    """A power cut cost something that was acknowledged, or left something half done."""


@dataclass(slots=True)
class Platter:
    """One file: what is safe, and the writes since then, oldest first; a write without bytes cuts the file."""

    safe: bytearray = field(default_factory=bytearray)
    writes: list[tuple[int, bytes]] = field(default_factory=list)

    def sync(self) -> None:
        for offset, content in self.writes:
            _apply(self.safe, offset, content)
        self.writes.clear()

    def image(self, rng: Random) -> bytes:
        """Return the file as a power cut may leave it: some later writes, in whatever order, some of them torn."""
        image = bytearray(self.safe)
        chance = rng.random()
        if chance < 0.25:
            kept = []
        elif chance < 0.5:
            kept = self.writes[: rng.randint(0, len(self.writes))]
        elif chance < 0.9:
            kept = [write for write in self.writes if rng.random() < 0.5]
        else:
            kept = list(self.writes)
        for offset, content in kept:
            if rng.random() < 0.3:
                content = content[: rng.randint(0, len(content) // SECTOR) * SECTOR]
                if not content:
                    continue
            _apply(image, offset, content)
        return bytes(image)


def _apply(file: bytearray, offset: int, content: bytes) -> None:
    if not content:
        del file[offset:]
        return
    if len(file) < offset:
        file.extend(bytes(offset - len(file)))
    file[offset : offset + len(content)] = content


class Disk:
    """All files that SQLite writes, and what is done before each write or sync."""

    def __init__(self) -> None:
        self.files: dict[str, Platter] = {}
        self.before: Any = lambda: None

    def platter(self, path: str) -> Platter:
        return self.files.setdefault(Path(path).name, Platter())


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: Any) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.before()
        self._disk.platter(self._name).writes.append((offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.before()
        self._disk.platter(self._name).writes.append((newsize, b""))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.before()
        super().xSync(flags)
        self._disk.platter(self._name).sync()


class _FileSystem(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(_VFS, "")

    def xOpen(self, name: Any, flags: Any) -> _File:  # noqa: N802
        return _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self._disk.files.pop(Path(filename).name, None)


class _Connection(apsw.Connection):
    """apsw's connection with the one name of sqlite3's that it lacks."""

    def executescript(self, script: str) -> None:
        self.execute(script)


@contextmanager
def forgetful(disk: Disk) -> Iterator[None]:
    """Have the journal open its files on a disk that forgets."""
    vfs = _FileSystem(disk)

    def connect(path: Path, **_: object) -> _Connection:
        db = _Connection(str(path), vfs=_VFS)
        db.execute("PRAGMA wal_autocheckpoint = 60")  # so that checkpoints are cut too
        return db

    module = SimpleNamespace(**vars(_REAL))
    module.connect, module.Error = connect, apsw.Error
    with _using(module):
        yield
    vfs.unregister()


@contextmanager
def _using(module: Any) -> Iterator[None]:
    before = sqlite.sqlite3, transaction.sqlite3
    sqlite.sqlite3 = transaction.sqlite3 = module
    try:
        yield
    finally:
        sqlite.sqlite3, transaction.sqlite3 = before


@dataclass(slots=True)
class Kept:
    """What a journal must hold after so many batches."""

    events: list[bytes] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    rows: dict[str, bytes] = field(default_factory=dict)
    at: int = 0

    def after(self, batch: Batch) -> "Kept":
        rows = {**self.rows, **batch.rows}
        return Kept(
            [*self.events, *batch.events],
            {**self.answers, **batch.answers},
            {key: body for key, body in rows.items() if body},
            batch.snapshot_sequence or self.at,
        )


@dataclass(slots=True)
class Report:
    """What was cut. `lost` counts images without something acknowledged; only a planted bug may make any."""

    cuts: int = 0
    lives: int = 0
    unacknowledged: int = 0
    lost: int = 0
    said: str = ""
    seconds: float = 0.0

    def told(self) -> str:
        return (
            f"T3: {self.cuts} power cuts in {self.lives} lives, {self.unacknowledged} with a batch that was not yet"
            f" acknowledged, {self.lost} lost something, {self.seconds:.1f} s"
        )


class Life:
    """One journal that is written to until it has been cut often enough."""

    def __init__(self, seed: int, home: Path, report: Report) -> None:
        self._seed = seed
        self._rng = seeded_random(derive_seed(seed, "power cuts"))
        self._home = home
        self._report = report
        self._disk = Disk()
        self._disk.before = self._maybe_cut
        self._sure = Kept()
        self._next = self._sure
        self._cutting = False
        self._acknowledged_epoch = 0

    def run(self, appends: int = APPENDS) -> None:
        """Open, write, and look at an image now and then."""
        journal = SqliteJournal(self._home / "live" / "journal.db")
        with forgetful(self._disk):
            self._acknowledged_epoch = journal.open()
            for number in range(appends):
                batch = self._batch(number)
                self._next = self._sure.after(batch)
                journal.append(batch)
                self._sure = self._next
                if number == appends // 2:
                    journal.forget_answers(-1.0)
            self._disk.before = lambda: None
            journal.close()

    def _batch(self, number: int) -> Batch:
        rng = self._rng
        events = tuple(rng.randbytes(rng.choice([20, 200, 3000])) for _ in range(rng.randint(1, 6)))
        first = len(self._sure.events) + 1
        answers = {f"r{number}": Answer(b"d", rng.randbytes(30), float(number))} if rng.random() < 0.4 else {}
        if rng.random() > 0.3:
            return Batch(first, events, answers)
        rows = {f"row/{rng.randint(0, 9)}": rng.choice([b"", rng.randbytes(500)]) for _ in range(4)}
        return Batch(first, events, answers, rows, first + len(events) - 1)

    def _maybe_cut(self) -> None:
        if self._acknowledged_epoch and not self._cutting and self._rng.random() < 0.12:
            self._cutting = True
            self._cut()
            self._cutting = False

    def _cut(self) -> None:
        self._report.cuts += 1
        place = self._home / f"cut-{self._report.cuts}"
        place.mkdir()
        for name, platter in self._disk.files.items():
            (place / name).write_bytes(platter.image(self._rng))
        try:
            with _using(_REAL):
                self._look(place / "journal.db")
        except (CutError, NasmeshError) as error:
            self._report.lost += 1
            self._report.said = f"{error}\nreplay: python -m tests.sim.power_cuts --seed {self._seed}"

    def _look(self, path: Path) -> None:
        """Open an image as a scheduler would: it must hold what was acknowledged, or that and the batch in hand."""
        journal = SqliteJournal(path)
        try:
            if journal.open() <= self._acknowledged_epoch:
                raise CutError("the epoch fell")
            events = [body for _, body in journal.events(0)]
            if events == self._next.events != self._sure.events:
                wanted = self._next
                self._report.unacknowledged += 1
            else:
                wanted = self._sure
            if events != wanted.events:
                raise CutError(f"{len(events)} events, {len(self._sure.events)} were acknowledged")
            at, rows = journal.snapshot()
            if (at, dict(rows)) != (wanted.at, wanted.rows):
                raise CutError(f"a snapshot at {at}, wanted {wanted.at}")
            if any(journal.answer(key) != answer for key, answer in wanted.answers.items()):
                raise CutError("an answer is gone")
            journal.append(Batch(len(events) + 1, (b"goes on",)))
        finally:
            journal.close()


def run(cuts: int = CUTS, *, first_seed: int = 0, lives: int | None = None) -> Report:
    """Live journals until so many power cuts were looked at."""
    began = time.process_time()
    report = Report()
    seed = first_seed
    with logged.quiet():
        while report.cuts < cuts if lives is None else report.lives < lives:
            with tempfile.TemporaryDirectory() as folder:
                Life(seed, Path(folder), report).run()
            report.lives += 1
            seed += 1
    report.seconds = time.process_time() - began
    return report


def main() -> int:
    """Run and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.power_cuts")
    parser.add_argument("--cuts", type=int, default=CUTS, help=f"power cuts to look at [{CUTS}]")
    parser.add_argument("--seed", type=int, help="one life only")
    flags = parser.parse_args()
    report = run(flags.cuts) if flags.seed is None else run(first_seed=flags.seed, lives=1)
    print(report.told())
    if report.said:
        print(report.said)
    return 1 if report.lost else 0


if __name__ == "__main__":
    sys.exit(main())
