"""`admin compact`: brings the snapshot up to date and drops the events that nobody needs any more."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nasmesh.clock import SystemClock
from nasmesh.errors import NotFound, Unavailable
from scheduler.admin.display import progress
from scheduler.admin.places import in_use
from scheduler.domain import OPEN_SEARCHES, State
from scheduler.engine import Engine
from scheduler.facts import SearchCreated
from scheduler.journal import codec, ended
from scheduler.journal.base import Batch
from scheduler.journal.places import Place, journal_of, reader_of
from scheduler.replaying import replay_event


@dataclass(frozen=True, slots=True)
class Compaction:
    """What was done: events dropped and kept, bytes of the file before and after."""

    dropped: int
    kept: int
    bytes_before: int
    bytes_after: int
    open_searches: tuple[str, ...]


def compact(path: Place) -> Compaction:
    """Compact a journal that no scheduler uses.

    Events from the creation of the oldest open search on are kept, with the state before them, so that those searches
    and later ones can be replayed. Raises NotFound (JOURNAL_MISSING), Unavailable (JOURNAL_LOCKED, JOURNAL_FULL,
    JOURNAL_IO), Invalid (JOURNAL_CORRUPT, JOURNAL_INCOMPLETE, JOURNAL_TOO_NEW). Nothing is lost where it fails.
    """
    before = _bytes(path)
    journal = journal_of(path)
    engine = Engine(journal, SystemClock())
    try:
        _recover(engine, path)
        state = engine.state
        rows, at = engine.snapshots.rows(state, 0)
        journal.append(Batch(state.sequence + 1, (), {}, rows, at))
        opened = tuple(run.name for run in state.searches.values() if run.state in OPEN_SEARCHES)
        through, base, first = _cut(path, {name.partition("/")[2] for name in opened})
        journal.compact(through, base)
    finally:
        journal.close()
    return Compaction(max(0, through - first + 1), state.sequence - through, before, _bytes(path), opened)


def _recover(engine: Engine, path: Place) -> None:
    try:
        engine.recover()
    except Unavailable as error:
        if error.reason != "JOURNAL_LOCKED":
            raise
        raise in_use(path) from error


def _cut(path: Place, opened: set[str]) -> tuple[int, dict[str, bytes], int]:
    """Return the last event that goes, the rows of the state there, and the first event that is there now."""
    reader = reader_of(path)
    reader.open()
    try:
        first = reader.oldest()
        at, origin = reader.origin()
        kept = dict(origin)
        state = codec.decode_rows(kept.items())
        state.dirty.clear()
        with progress("events", reader.last()) as advance:
            for sequence, body in reader.events(at):
                change = codec.decode_event(sequence, body).change
                if state.searches.keys() & opened or (isinstance(change, SearchCreated) and change.search in opened):
                    break
                replay_event(state, sequence, body)
                advance(sequence)
        return state.sequence, dict(_base(state, kept)), first
    finally:
        reader.close()


def _base(state: State, kept: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the rows of a state; those that the snapshot has for good, without their bodies."""
    for key in {**kept, **state.dirty}:
        if not key.startswith(("ended/", "network/")) and not _has_ended(state, key):
            body = codec.encode_row(state, key) if key in state.dirty else kept[key]
            if body and key != "state":
                yield key, body
    yield "state", codec.encode_row(state, "state")
    for run in state.searches.values():
        yield from ((ended.row_key(run.id, trial.number), b"") for trial in run.trials if trial.outcome)
    yield from ((f"network/{index:012d}", b"") for index, name in enumerate(state.network_names) if name)


def _has_ended(state: State, key: str) -> bool:
    """Say whether a row is of a trial that has ended, which is one row with its tasks."""
    kind, _, rest = key.partition("/")
    if kind == "task":
        task = state.tasks.get(rest)
        if task is None or not task.trial:
            return False
        return bool(state.searches[task.search].trials[task.trial - 1].outcome)
    if kind == "trial":
        search, _, number = rest.partition("/")
        return bool(search in state.searches and state.searches[search].trials[int(number) - 1].outcome)
    return False


def _bytes(path: Place) -> int:
    """Return what a journal takes, its log too; raises NotFound (JOURNAL_MISSING): none is made here."""
    if isinstance(path, Path):
        if not path.is_file():
            raise NotFound("JOURNAL_MISSING", f"journal: there is no file {path}", field="journal")
        beside = path.with_name(path.name + "-wal")
        return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    with closing(reader_of(path)) as reader:
        reader.open()
        return reader.size_bytes()
