"""The reader of journals: what is there, where replay can begin, and older files, which stay as they are."""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from nasmesh.errors import Compacted, Invalid, NotFound, Unavailable
from scheduler.journal.base import Batch
from scheduler.journal.reading import JournalReader
from scheduler.journal.schema import SCHEMA_VERSION
from scheduler.journal.sqlite import SqliteJournal

OLD = Path(__file__).parents[1] / "assets" / "journal-v1.db"
ROWS = {"trial/s/1": b"one", "trial/s/2": b"two", "state": b"four"}


def written(path: Path, *, snapshot: int = 4, through: int = 0, base: Mapping[str, bytes] | None = None) -> Path:
    """Write a journal of four events, compacted up to one of them where there is a base."""
    with closing(SqliteJournal(path)) as journal:
        journal.open()
        rows = ROWS if snapshot else {}
        journal.append(Batch(1, (b"a", b"b", b"c", b"d"), rows=rows, snapshot_sequence=snapshot))
        if base is not None:
            journal.compact(through, base)
    return path


def spoil(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


@contextmanager
def reading(path: Path) -> Iterator[JournalReader]:
    reader = JournalReader(path)
    reader.open()
    with closing(reader):
        yield reader


def origin(path: Path) -> tuple[int, list[tuple[str, bytes]]]:
    with reading(path) as reader:
        at, rows = reader.origin()
        return at, list(rows)


def test_origin_when_every_event_is_kept_then_the_beginning(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db")
    assert origin(path) == (0, [])
    with reading(path) as reader:
        assert (reader.is_whole(), reader.oldest(), reader.last(), reader.events_checked()) == (True, 1, 4, 4)


def test_origin_when_compacted_then_the_base_with_what_the_snapshot_has_of_it(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db", through=2, base={"trial/s/1": b"", "state": b"two"})
    assert origin(path) == (2, [("state", b"two"), ("trial/s/1", b"one")])
    with reading(path) as reader:
        assert (reader.is_whole(), reader.oldest(), reader.events_checked()) == (False, 3, 2)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM snapshot WHERE key = 'trial/s/1'", "UPDATE base_at SET sequence = 1"],
    ids=["a row that the base needs is gone", "the base is of another moment"],
)
def test_origin_when_the_base_does_not_serve_then_the_snapshot(tmp_path: Path, statement: str) -> None:
    path = written(tmp_path / "journal.db", through=2, base={"trial/s/1": b"", "state": b"two"})
    spoil(path, statement)
    at, rows = origin(path)
    assert at == 4
    assert dict(rows)["state"] == b"four"


def test_oldest_when_no_event_is_left_then_the_next_one(tmp_path: Path) -> None:
    with reading(written(tmp_path / "journal.db", through=4, base={})) as reader:
        assert (reader.oldest(), reader.last(), reader.events_checked()) == (5, 4, 0)


def test_origin_when_compacted_again_then_nothing_of_the_base_before_is_left(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db", through=2, base={"trial/s/1": b"", "state": b"two"})
    with closing(SqliteJournal(path)) as journal:
        journal.open()
        journal.compact(3, {"state": b"three"})
    assert origin(path) == (3, [("state", b"three")])


def test_damage_when_an_index_and_its_table_differ_then_told_and_else_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db")
    with reading(path) as reader:
        assert reader.damage() == []
    with closing(sqlite3.connect(path)) as db:
        page_size = db.execute("PRAGMA page_size").fetchone()[0]
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_snapshot_1'").fetchone()
    content = bytearray(path.read_bytes())
    content[(root - 1) * page_size + 3 : (root - 1) * page_size + 5] = bytes(2)  # the index has no cells
    path.write_bytes(content)
    with reading(path) as reader:
        assert any("sqlite_autoindex_snapshot_1" in line for line in reader.damage())


@pytest.mark.parametrize(
    ("gone", "snapshot", "missing"),
    [(2, 0, "event 2 is missing"), (2, 4, "event 2 is missing"), (1, 0, "event 1 is missing")],
    ids=["between others", "between others, before the snapshot", "the first, and no snapshot has it"],
)
def test_events_when_one_is_missing_then_corrupt_and_not_compacted(
    tmp_path: Path, gone: int, snapshot: int, missing: str
) -> None:
    path = written(tmp_path / "journal.db", snapshot=snapshot)
    spoil(path, f"DELETE FROM event WHERE sequence = {gone}")
    with reading(path) as reader, pytest.raises(Invalid, match=missing) as caught:
        list(reader.events(0))
    assert caught.value.reason == "JOURNAL_CORRUPT"


def test_events_when_the_first_are_in_the_snapshot_only_then_compacted(tmp_path: Path) -> None:
    with reading(written(tmp_path / "journal.db", through=2, base={})) as reader:
        with pytest.raises(Compacted, match="events up to 2 were dropped"):
            list(reader.events(0))
        assert list(reader.events(2)) == [(3, b"c"), (4, b"d")]


def test_events_when_all_are_in_the_snapshot_then_compacted_whether_others_follow_or_not(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db", through=4, base={})
    with reading(path) as reader:
        with pytest.raises(Compacted, match="events up to 4 were dropped"):
            list(reader.events(0))
        assert list(reader.events(4)) == []
    with closing(SqliteJournal(path)) as journal:
        journal.open()
        journal.append(Batch(5, (b"e",)))
        with pytest.raises(Compacted, match="events up to 4 were dropped"):
            list(journal.events(0))
        assert list(journal.events(4)) == [(5, b"e")]


def test_open_when_there_is_no_journal_then_said_with_its_path_and_closed_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(b"not a database at all" * 100)
    for name, error, reason in (
        ("none.db", NotFound, "JOURNAL_MISSING"),
        ("other.db", Invalid, "JOURNAL_CORRUPT"),
    ):
        reader = JournalReader(tmp_path / name)
        with pytest.raises(error, match=name) as caught:
            reader.open()
        assert caught.value.reason == reason
        reader.close()


def test_lacks_log_when_copied_from_a_scheduler_at_work_without_it_then_said(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db")
    with reading(path) as reader:
        assert not reader.lacks_log(), "it was closed, and is whole"
    with closing(SqliteJournal(path)) as journal:
        journal.open()
        with reading(path) as reader:
            assert not reader.lacks_log(), "the log is beside it"
        copy = Path(shutil.copy(path, tmp_path / "copy.db"))
    with reading(copy) as reader:
        assert reader.lacks_log()


def test_reading_when_a_scheduler_writes_meanwhile_then_one_moment_throughout(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db")
    with closing(SqliteJournal(path)) as journal:
        journal.open()
        with reading(path) as reader:
            journal.append(Batch(5, (b"e",), rows={"state": b"five"}, snapshot_sequence=5))
            assert (reader.last(), reader.events_checked()) == (4, 4)
            assert dict(reader.snapshot()[1]) == ROWS
        with reading(path) as reader:
            assert (reader.last(), reader.events_checked()) == (5, 5)


def test_check_still_when_a_scheduler_starts_on_what_was_at_rest_then_said_and_else_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.db")
    with reading(path) as reader:
        reader.check_still()
        with closing(SqliteJournal(path)) as journal:
            journal.open()
            with pytest.raises(Unavailable, match="has just started") as caught:
                reader.check_still()
            assert caught.value.reason == "JOURNAL_TAKEN"
            with reading(path) as other:
                other.check_still()


def test_open_when_of_an_older_schema_then_an_upgraded_copy_is_read_and_the_file_stays(tmp_path: Path) -> None:
    path = Path(shutil.copy(OLD, tmp_path / "journal.db"))
    with reading(path) as reader:
        assert reader.schema == 1
        assert reader.connection().execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert reader.events_checked() == reader.last() > 0
        at, rows = reader.snapshot()
        assert len(list(rows)) > 0
        assert 0 < at <= reader.last()
    assert path.read_bytes() == OLD.read_bytes()


@pytest.mark.parametrize("statement", ["PRAGMA application_id = 7", "PRAGMA user_version = 0"])
def test_open_when_it_is_another_programs_or_of_a_schema_that_never_was_then_refused(
    tmp_path: Path, statement: str
) -> None:
    path = written(tmp_path / "journal.db")
    spoil(path, statement)
    with pytest.raises(Invalid, match="not a journal of nasmesh"):
        JournalReader(path).open()
