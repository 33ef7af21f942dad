"""Opening and closing of a journal's file: what is refused stays as it was, and what is let go is free."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nasmesh.errors import Invalid, Unavailable
from scheduler.journal.base import Batch
from scheduler.journal.schema import SCHEMA_VERSION
from scheduler.journal.sqlite import SqliteJournal

OLD = Path(__file__).parents[1] / "assets" / "journal-v1.db"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_open_when_its_log_is_missing_then_refused_every_time_and_the_file_is_let_go(tmp_path: Path) -> None:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        journal.open()
        journal.append(Batch(1, (b"a",)))
        copy = Path(shutil.copy(tmp_path / "journal.db", tmp_path / "copy.db"))
    refused = [SqliteJournal(copy) for _ in range(3)]
    before = descriptors()
    for one in refused:
        with pytest.raises(Invalid, match="a scheduler was killed on it") as caught:
            one.open()
        assert caught.value.reason == "JOURNAL_INCOMPLETE"
    assert descriptors() == before


def test_open_when_refused_by_sqlite_then_the_file_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    SqliteJournal(path).open()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TRIGGER kept BEFORE UPDATE ON epoch BEGIN SELECT RAISE(ABORT, 'not today'); END")
    refused = [SqliteJournal(path) for _ in range(2)]
    before = descriptors()
    for one in refused:
        with pytest.raises(Unavailable, match="not today"):
            one.open()
    assert descriptors() == before


def test_open_when_a_page_is_damaged_that_no_start_reads_then_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    SqliteJournal(path).open()
    with closing(sqlite3.connect(path)) as db:
        page_size = db.execute("PRAGMA page_size").fetchone()[0]
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'answer'").fetchone()
    content = bytearray(path.read_bytes())
    content[(root - 1) * page_size] = 0xFF  # no kind of page
    path.write_bytes(content)
    with pytest.raises(Invalid, match="is damaged") as caught:
        SqliteJournal(path).open()
    assert caught.value.reason == "JOURNAL_CORRUPT"


def test_open_when_another_has_it_then_nothing_is_left_open(tmp_path: Path) -> None:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        journal.open()
        refused = [SqliteJournal(tmp_path / "journal.db") for _ in range(3)]
        before = descriptors()
        for one in refused:
            with pytest.raises(Unavailable, match="another scheduler"):
                one.open()
        assert descriptors() == before


def test_journal_when_closed_twice_or_dropped_then_the_next_one_opens(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    assert journal.open() == 1
    journal.close()
    journal.close()
    with pytest.raises(Unavailable) as caught:
        journal.append(Batch(1, (b"a",)))
    assert caught.value.reason == "JOURNAL_CLOSED"
    journal = SqliteJournal(tmp_path / "journal.db")
    assert journal.open() == 2
    del journal
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        assert journal.open() == 3


def test_open_when_somebody_still_reads_an_earlier_moment_then_its_log_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(SqliteJournal(path)) as journal:
        journal.open()
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM event").fetchone()
            for number in range(1, 5):
                journal.append(Batch(number, (b"a",)))
            journal.close()
            with closing(SqliteJournal(path)) as after:
                assert after.open() == 2
                assert len(list(after.events(0))) == 4


def test_compact_when_done_then_its_log_is_empty(tmp_path: Path) -> None:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        journal.open()
        journal.append(Batch(1, (b"a" * 100_000,), rows={"state": b"1"}, snapshot_sequence=1))
        journal.compact(1, {})
        assert (tmp_path / "journal.db-wal").stat().st_size == 0
        assert (tmp_path / "journal.db").stat().st_size < 100_000


def test_open_when_of_an_older_schema_then_upgraded_for_good(tmp_path: Path) -> None:
    path = Path(shutil.copy(OLD, tmp_path / "journal.db"))
    for epoch in (2, 3):
        with closing(SqliteJournal(path)) as journal:
            assert journal.open() == epoch
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM epoch",
        "DELETE FROM snapshot_at",
        "UPDATE event SET body = CAST(body AS TEXT)",
        "UPDATE event SET body = CAST(x'ff' AS TEXT)",
        "UPDATE event SET crc = NULL",
        "UPDATE snapshot SET body = CAST(body AS TEXT)",
        "UPDATE snapshot SET key = CAST(key AS BLOB)",
        "UPDATE snapshot SET crc = NULL",
    ],
)
def test_journal_when_a_number_is_missing_or_a_value_has_another_type_then_damaged_and_no_other_error(
    tmp_path: Path, statement: str
) -> None:
    path = tmp_path / "journal.db"
    with closing(SqliteJournal(path)) as journal:
        journal.open()
        journal.append(Batch(1, (b"a", b"b"), rows={"x": b"1"}, snapshot_sequence=1))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
    with pytest.raises(Invalid, match="restore it from a backup") as caught:
        read_all(path)
    assert caught.value.reason == "JOURNAL_CORRUPT"


def read_all(path: Path) -> None:
    with closing(SqliteJournal(path)) as journal:
        journal.open()
        list(journal.snapshot()[1])
        list(journal.events(0))
