"""`admin compact`: brings the snapshot up to date and drops the events that nobody needs any more."""

from dataclasses import dataclass
from pathlib import Path

from nasmesh.errors import NotFound
from scheduler.admin.display import progress
from scheduler.domain import OPEN_SEARCHES, SearchCreated, State
from scheduler.journal import codec
from scheduler.journal.base import Batch
from scheduler.journal.reading import JournalReader
from scheduler.journal.sqlite import SqliteJournal
from scheduler.replaying import replay_event


@dataclass(frozen=True, slots=True)
class Compaction:
    """What was done: events dropped and kept, bytes of the file before and after."""

    dropped: int
    kept: int
    bytes_before: int
    bytes_after: int
    open_searches: tuple[str, ...]


def compact(path: Path) -> Compaction:
    """Compact a journal that no scheduler uses.

    Events from the creation of the oldest open search on are kept, with the state before them, so that those searches
    can still be replayed. Raises NotFound (JOURNAL_MISSING), Unavailable (JOURNAL_LOCKED, JOURNAL_FULL, JOURNAL_IO),
    Invalid (JOURNAL_CORRUPT, JOURNAL_INCOMPLETE, JOURNAL_TOO_NEW). Nothing is lost where it fails.
    """
    if not path.is_file():
        raise NotFound("JOURNAL_MISSING", f"journal: there is no file {path}", field="journal")
    before = _bytes(path)
    journal = SqliteJournal(path)
    try:
        journal.open()
        at, rows = journal.snapshot()
        state = codec.decode_rows(rows)
        for sequence, body in journal.events(at):
            replay_event(state, sequence, body)
        journal.append(Batch(state.sequence + 1, (), {}, _rows(state), state.sequence))
        opened = tuple(run.name for run in state.searches.values() if run.state in OPEN_SEARCHES)
        through, base, first = _cut(path, {name.partition("/")[2] for name in opened}, state.sequence)
        journal.compact(through, base)
    finally:
        journal.close()
    return Compaction(max(0, through - first + 1), state.sequence - through, before, _bytes(path), opened)


def _cut(path: Path, opened: set[str], last: int) -> tuple[int, dict[str, bytes], int]:
    """Return the last event that goes, the rows of the state there, and the first event that is there now."""
    reader = JournalReader(path)
    reader.open()
    try:
        first = reader.oldest()
        if not opened:
            return last, {}, first
        at, origin = reader.origin()
        kept = dict(origin)
        state = codec.decode_rows(kept.items())
        with progress("events", last) as advance:
            for sequence, body in reader.events(at):
                event = codec.decode_event(sequence, body)
                if isinstance(event.change, SearchCreated) and event.change.search in opened:
                    rows = kept | _rows(state)
                    return sequence - 1, {key: body for key, body in rows.items() if body}, first
                replay_event(state, sequence, body)
                advance(sequence)
        return at, kept, first  # an open search is older than what compaction left before
    finally:
        reader.close()


def _rows(state: State) -> dict[str, bytes]:
    return {key: codec.encode_row(state, key) for key in (*state.dirty, "state")}


def _bytes(path: Path) -> int:
    beside = path.with_name(path.name + "-wal")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
