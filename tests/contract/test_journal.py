"""One contract over every journal: all or nothing, durable, one writer, epochs that only grow."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nasmesh.errors import Invalid, Stale, Unavailable
from scheduler.journal.base import Answer, Batch, Journal
from scheduler.journal.memory import MemoryDisk, MemoryJournal
from scheduler.journal.postgres import PostgresJournal
from scheduler.journal.postgres_url import parse
from scheduler.journal.sqlite import SqliteJournal

Open = Callable[[], Journal]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Return a function that makes another journal over the same disk."""
    disk = MemoryDisk()
    if request.param == "postgres":
        place = parse(request.getfixturevalue("database"))
        return lambda: PostgresJournal(place)
    if request.param == "memory":
        return lambda: MemoryJournal(disk)
    return lambda: SqliteJournal(tmp_path / "sub" / "sub" / "journal.db")


def batch(first: int, *events: bytes, **more: object) -> Batch:
    return Batch(first, events, **more)  # type: ignore[arg-type]


def test_append_when_reopened_then_everything_is_there(open_again: Open) -> None:
    journal = open_again()
    assert journal.open() == 1
    journal.append(batch(1, b"a", b"b"))
    journal.append(batch(3, b"c", answers={"r": Answer(b"digest", b"reply", 5.0)}))
    journal.close()
    journal = open_again()
    assert journal.open() == 2
    assert list(journal.events(0)) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert list(journal.events(2)) == [(3, b"c")]
    assert journal.answer("r") == Answer(b"digest", b"reply", 5.0)
    assert journal.answer("other") is None
    journal.close()


def test_snapshot_when_written_again_then_rows_are_merged_and_empty_ones_go(open_again: Open) -> None:
    journal = open_again()
    journal.open()
    assert journal.snapshot()[0] == 0
    journal.append(batch(1, b"a", rows={"x": b"1", "y": b"1"}, snapshot_sequence=1))
    journal.append(batch(2, b"b", rows={"y": b"2"}, snapshot_sequence=2))
    at, rows = journal.snapshot()
    assert (at, list(rows)) == (2, [("x", b"1"), ("y", b"2")])
    journal.append(batch(3, b"c", rows={"x": b"", "z": b"3"}, snapshot_sequence=3))
    at, rows = journal.snapshot()
    assert (at, list(rows)) == (3, [("y", b"2"), ("z", b"3")]), "a row without a body is gone"
    journal.close()


def test_settle_when_called_at_any_time_then_what_is_there_stays_and_writing_goes_on(open_again: Open) -> None:
    journal = open_again()
    journal.open()
    journal.settle()
    journal.append(batch(1, b"a", rows={"x": b"1"}, answers={"r": Answer(b"d", b"r", 1.0)}, snapshot_sequence=1))
    journal.settle()
    journal.settle()
    journal.append(batch(2, b"b"))
    journal.close()
    journal = open_again()
    assert journal.open() == 2
    assert list(journal.events(0)) == [(1, b"a"), (2, b"b")]
    at, rows = journal.snapshot()
    assert (at, list(rows), journal.answer("r")) == (1, [("x", b"1")], Answer(b"d", b"r", 1.0))
    journal.close()


def test_settle_when_the_log_has_grown_then_the_file_holds_all_of_it_and_the_next_commit_need_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.open()
    for number in range(1, 200):
        journal.append(batch(number, bytes(4096)))
    log = path.with_name("journal.db-wal")
    grown = log.stat().st_size
    journal.settle()
    for number in range(200, 399):
        journal.append(batch(number, bytes(4096)))
    assert log.stat().st_size <= 1.2 * grown, "the log begins anew where all of it is in the file"
    journal.close()


def test_settle_when_a_reader_needs_the_log_then_it_keeps_its_moment_and_commits_go_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.open()
    journal.append(batch(1, b"a"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM event").fetchone()  # a reader, whose moment must stay in the log
    journal.append(batch(2, b"b"))
    journal.settle()
    journal.append(batch(3, b"c"))
    assert other.execute("SELECT count(*) FROM event").fetchone() == (1,)
    other.execute("COMMIT")
    other.close()
    assert [body for _, body in journal.events(0)] == [b"a", b"b", b"c"]
    journal.close()


def test_open_when_another_holds_it_then_locked(open_again: Open) -> None:
    first = open_again()
    first.open()
    for _ in range(2):
        refused = open_again()
        with pytest.raises(Unavailable, match="another scheduler") as caught:
            refused.open()
        assert caught.value.reason == "JOURNAL_LOCKED"
        refused.close()
    first.append(batch(1, b"still mine"))
    first.close()
    second = open_again()
    assert second.open() == 2
    second.close()


def test_open_when_withdrawn_then_closed_and_the_epoch_is_given_again(open_again: Open) -> None:
    journal = open_again()
    assert journal.open() == 1
    journal.withdraw()
    second = open_again()
    assert second.open() == 1
    second.append(batch(1, b"a"))
    second.close()


def test_forget_answers_when_old_then_gone(open_again: Open) -> None:
    journal = open_again()
    journal.open()
    answers = {"old": Answer(b"d", b"r", 10.0), "at": Answer(b"d", b"r", 15.0), "new": Answer(b"d", b"r", 20.0)}
    journal.append(batch(1, b"a", answers=answers))
    journal.forget_answers(15.0)
    assert journal.answer("old") is None
    assert journal.answer("at") is not None
    assert journal.answer("new") is not None
    journal.close()


def test_append_when_epoch_was_taken_over_then_stale_and_nothing_written(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.open()
    with sqlite3.connect(tmp_path / "journal.db") as other:  # as a scheduler on a file system without locks would
        other.execute("UPDATE epoch SET number = number + 1")
    with pytest.raises(Stale) as caught:
        journal.append(batch(1, b"late"))
    assert caught.value.reason == "EPOCH_STALE"
    assert list(journal.events(0)) == []
    journal.close()


def test_memory_append_when_epoch_was_taken_over_then_stale() -> None:
    disk = MemoryDisk()
    journal = MemoryJournal(disk)
    journal.open()
    disk.epoch += 1
    with pytest.raises(Stale):
        journal.append(batch(1, b"late"))
    assert disk.events == []


def test_append_when_disk_is_full_then_typed_error_and_nothing_half_applied(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.open()
    journal.append(batch(1, b"kept"))
    pages = journal._db().execute("PRAGMA page_count").fetchone()[0]
    journal._db().execute(f"PRAGMA max_page_count = {pages + 2}")
    answers = {"r": Answer(b"d", b"x", 1.0)}
    with pytest.raises(Unavailable, match="no space left") as caught:
        journal.append(batch(2, b"small", b"x" * 100_000, answers=answers))
    assert caught.value.reason == "JOURNAL_FULL"
    assert list(journal.events(0)) == [(1, b"kept")]
    assert journal.answer("r") is None
    journal._db().execute("PRAGMA max_page_count = 1000000")
    journal.append(batch(2, b"again"))
    journal.close()


def test_append_when_file_may_not_grow_then_typed_error_and_old_rows_readable(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from nasmesh.errors import Unavailable
from scheduler.journal.base import Batch
from scheduler.journal.sqlite import SqliteJournal
journal = SqliteJournal(Path(sys.argv[1]))
journal.open()
journal.append(Batch(1, (b"kept",)))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
sequence = 2
try:
    while True:
        journal.append(Batch(sequence, (b"x" * 20_000,)))
        sequence += 1
except Unavailable as error:
    reason = error.reason
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert [n for n, _ in journal.events(0)] == list(range(1, sequence)), sequence
journal.append(Batch(sequence, (b"after",)))
print(reason)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "j.db")], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("JOURNAL_FULL", "JOURNAL_IO")


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to look like one" * 20, b"SQLite format 3\0junk"]
)
def test_open_when_file_is_damaged_then_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(Invalid, match="restore it from a backup") as caught:
        SqliteJournal(path).open()
    assert caught.value.reason == "JOURNAL_CORRUPT"
    assert path.read_bytes() == content


def read_all(path: Path) -> None:
    journal = SqliteJournal(path)
    journal.open()
    list(journal.events(0))


def test_open_when_a_page_is_damaged_then_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.open()
    journal.append(batch(1, *(b"x" * 900 for _ in range(50))))
    journal.close()
    content = bytearray(path.read_bytes())
    content[-8192:-4096] = b"\xff" * 4096
    path.write_bytes(bytes(content))
    with pytest.raises(Invalid) as caught:
        read_all(path)
    assert caught.value.reason == "JOURNAL_CORRUPT"


def test_open_when_written_by_a_newer_version_then_refused(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.open()
    journal.close()
    with sqlite3.connect(tmp_path / "journal.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Invalid, match="newer nasmesh") as caught:
        SqliteJournal(tmp_path / "journal.db").open()
    assert caught.value.reason == "JOURNAL_TOO_NEW"


def test_open_when_database_is_somebody_elses_then_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(Invalid, match="something else"):
        SqliteJournal(tmp_path / "other.db").open()


def test_events_when_one_is_missing_then_corrupt(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.open()
    journal.append(batch(1, b"a", b"b", b"c"))
    journal._db().execute("DELETE FROM event WHERE sequence = 2")
    with pytest.raises(Invalid, match="event 2 is missing"):
        list(journal.events(0))
    journal.close()


def test_open_when_directory_cannot_be_made_then_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable) as caught:
        SqliteJournal(tmp_path / "file" / "journal.db").open()
    assert caught.value.reason == "JOURNAL_IO"


def test_durability_when_set_up_then_full_synchronous_wal(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.open()
    assert journal._db().execute("PRAGMA synchronous").fetchone()[0] == 2
    assert journal._db().execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    journal.close()
