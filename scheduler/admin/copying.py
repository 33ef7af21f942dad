"""`admin backup` and `admin restore`: a whole journal as one file, and back; neither ever leaves half of one.

The file is one of SQLite, whatever keeps the journal.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nasmesh.errors import Conflict, Invalid, NasmeshError, Unavailable
from scheduler.admin.display import progress
from scheduler.admin.places import in_use
from scheduler.domain import OPEN_SEARCHES, OPEN_TASKS, State
from scheduler.journal import codec
from scheduler.journal.base import Reader
from scheduler.journal.contents import write_file
from scheduler.journal.places import Place, reader_of
from scheduler.journal.postgres_url import PostgresPlace
from scheduler.journal.reading import JournalReader
from scheduler.journal.upgrading import upgrade
from scheduler.replaying import replay_event

# Restoring forgets boots that came after the backup. Agents refuse an epoch below the highest they saw, and tokens of
# attempts carry it; so the next boot must be above any that was. One boot a second for eleven days stays below this.
EPOCH_STEP = 1_000_000
_PAGES = 2000
PART = ".part"


@dataclass(frozen=True, slots=True)
class Copied:
    """A backup that was written and opened again."""

    path: str
    size_bytes: int
    epoch: int
    last_event: int
    time_us: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A journal that was put in place; what was recorded after the backup is forgotten."""

    path: str
    aside: str
    epoch: int
    last_event: int
    time_us: int
    open_searches: tuple[str, ...]
    open_tasks: tuple[str, ...]


def backup(journal: Place, target: Path) -> Copied:
    """Copy a journal, live or not, to one file that appears whole or not at all.

    Raises NotFound (JOURNAL_MISSING), Conflict (BACKUP_EXISTS), Invalid (JOURNAL_CORRUPT, …), Unavailable (JOURNAL_IO).
    """
    if target.exists():
        raise Conflict("BACKUP_EXISTS", f"{target} exists; name another file", field="file")
    part = target.with_name(target.name + PART)
    reader = reader_of(journal)
    epoch = reader.open()
    try:
        with faults(target):
            if isinstance(reader, JournalReader):
                copy_file(reader, part)
            else:
                write_file(reader, epoch, part)
            copied = verify(part)
            reader.check_still()
            publish(part, target)
    finally:
        reader.close()
        part.unlink(missing_ok=True)
    return Copied(str(target), target.stat().st_size, *copied[:3])


def restore(source: Path, journal: Place, *, force: bool = False) -> Restored:
    """Put a backup in the place of a journal that no scheduler uses; an old one is kept aside, with `force` only.

    Raises Conflict (JOURNAL_EXISTS), Unavailable (JOURNAL_LOCKED, JOURNAL_IO), NotFound, Invalid as backup does.
    """
    if not isinstance(journal, Path):
        return _restore_database(source, journal, force=force)
    part = journal.with_name(journal.name + PART)
    with faults(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(journal):
            if journal.exists() and not force:
                raise Conflict(
                    "JOURNAL_EXISTS",
                    f"journal {journal} exists; --force restores in its place and keeps it aside",
                    field="journal",
                )
            reader = JournalReader(source)
            reader.open()
            try:
                copy_file(reader, part)
                epoch, last, time_us, state = verify(part)
                epoch = max(epoch, _known_epoch(journal)) + EPOCH_STEP
                _raise_epoch(part, epoch)
                aside = _put_aside(journal)
                publish(part, journal)
            finally:
                reader.close()
                part.unlink(missing_ok=True)
    return _restored(journal, str(aside) if aside else "", (epoch, last, time_us, state))


def _restore_database(source: Path, journal: PostgresPlace, *, force: bool) -> Restored:
    from scheduler.journal.postgres_filling import fill  # here: the driver is for those who have a database

    with closing(JournalReader(source)) as reader, faults(source):
        epoch = reader.open()
        filled, found = fill(journal, reader, lambda known: max(epoch, known) + EPOCH_STEP, force=force, check=examine)
    return _restored(journal, f"schema {filled.aside}" if filled.aside else "", (filled.epoch, *found))


def _restored(journal: Place, aside: str, found: tuple[int, int, int, State]) -> Restored:
    epoch, last, time_us, state = found
    return Restored(
        str(journal),
        aside,
        epoch,
        last,
        time_us,
        tuple(run.name for run in state.searches.values() if run.state in OPEN_SEARCHES),
        tuple(task.id for task in state.tasks.values() if task.state in OPEN_TASKS),
    )


def verify(path: Path) -> tuple[int, int, int, State]:
    """Read a copy as a scheduler would, every page and every event; returns epoch, last event, its time, the state.

    Raises Invalid (JOURNAL_CORRUPT).
    """
    reader = JournalReader(path)
    epoch = reader.open()
    try:
        return (epoch, *examine(reader))
    finally:
        reader.close()


def examine(reader: Reader) -> tuple[int, int, State]:
    """Read an open journal as a scheduler would, every row and event; returns the last event, its time, the state.

    Raises Invalid (JOURNAL_CORRUPT).
    """
    damage = reader.damage()
    if damage:
        raise codec.unreadable(f"the copy ({damage[0][:200]})")
    reader.events_checked()
    at, rows = reader.snapshot()
    state = codec.decode_rows(rows)
    time_us = 0
    for sequence, body in reader.events(at):
        time_us = replay_event(state, sequence, body)[0].time_us
    return state.sequence, time_us or _last_time(reader, state), state


def _last_time(reader: Reader, state: State) -> int:
    if reader.oldest() > state.sequence:
        return max((max(run.create_time_us, run.end_time_us) for run in state.searches.values()), default=0)
    found = list(reader.events(state.sequence - 1))
    return codec.decode_event(*found[-1]).time_us if found else 0


def copy_file(reader: JournalReader, part: Path) -> None:
    """Copy what the reader sees; its read transaction holds the moment while a scheduler goes on writing."""
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part, isolation_level=None)) as copy, progress("pages", 0) as advance:
        reader.connection().backup(
            copy, pages=_PAGES, progress=lambda _, remaining, total: advance(total - remaining, total)
        )
        # One file without a log beside it, which a copy of a copy could forget.
        copy.execute("PRAGMA journal_mode = DELETE")
        upgrade(copy, int(copy.execute("PRAGMA user_version").fetchone()[0]))
        copy.execute("UPDATE epoch SET open = 0")


def _raise_epoch(part: Path, epoch: int) -> None:
    with closing(sqlite3.connect(part, isolation_level=None)) as copy:
        copy.execute("UPDATE epoch SET number = ?", (epoch,))


def _known_epoch(journal: Path) -> int:
    """Return the epoch of the journal that is replaced; 0 where it cannot be read, which may be why it is replaced."""
    reader = JournalReader(journal)
    try:
        return reader.open()
    except NasmeshError:
        return 0
    finally:
        reader.close()


def _put_aside(journal: Path) -> Path | None:
    """Rename a journal with what lies beside it, a log without its file too; returns its new name."""
    parts = [suffix for suffix in ("-wal", "-shm", "") if journal.with_name(journal.name + suffix).exists()]
    if not parts:
        return None
    number = next(n for n in range(1, 1_000_000) if not _beside(journal, n))
    aside = journal.with_name(f"{journal.name}.before-{number}")
    # The log first: without its file it is nothing, the file without its log would be taken for whole.
    for suffix in parts:
        os.replace(journal.with_name(journal.name + suffix), aside.with_name(aside.name + suffix))
    return aside


def _beside(journal: Path, number: int) -> bool:
    name = f"{journal.name}.before-{number}"
    return any(journal.with_name(name + suffix).exists() for suffix in ("", "-wal", "-shm"))


def publish(part: Path, target: Path) -> None:
    """Give a written file its name, so that it is there for good, and whole, once this returns."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked_file(journal: Path) -> Iterator[None]:
    """Hold the lock that a scheduler on this journal holds; raises Unavailable (JOURNAL_LOCKED, JOURNAL_IO)."""
    lock = journal.with_name(journal.name + ".lock")
    with faults(lock):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise in_use(journal) from error
    finally:
        os.close(descriptor)


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except OSError as error:
        raise Unavailable("JOURNAL_IO", f"{path}: {error.strerror or error}; check path, owner and space") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Invalid("JOURNAL_CORRUPT", f"the journal is damaged ({error}); use another copy") from error
        raise Unavailable("JOURNAL_IO", f"{path}: {error}; check path, owner and space") from error
