"""Journals of older schemas, upgraded: whatever kills that, there is the old one or the new one, nothing is lost."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from nasmesh.errors import Invalid
from scheduler.admin.checking import check
from scheduler.admin.copying import backup
from scheduler.admin.migrating import migrate
from scheduler.journal import postgres_schema, schema
from scheduler.journal.answers import answer_crc
from scheduler.journal.base import Answer, Batch
from scheduler.journal.contents import digest
from scheduler.journal.places import Place, journal_of, reader_of
from scheduler.journal.postgres_url import PostgresPlace, parse
from tests.builders.old_journals import ASSETS, restored_database
from tests.e2e.mesh import ROOT

FILES = sorted(ASSETS.glob("journal-v*.db"))
DATABASE = ASSETS / "journal-postgres-v1.sql"

# Opens a journal again and again, each time in a process that is killed one statement later, until one is not.
FILE_SCRIPT = """
import json, os, shutil, signal, sqlite3, sys
from pathlib import Path
from scheduler.journal import sqlite
from scheduler.journal.contents import digest
from scheduler.journal.places import reader_of
source, target = Path(sys.argv[1]), Path(sys.argv[2])

def dies_at(number):
    target.mkdir()
    path, left = Path(shutil.copy(source, target / "journal.db")), [number]
    def told(statement):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def traced(db, version, upgrade=sqlite.upgrade):
        db.set_trace_callback(told)
        upgrade(db, version)
        db.set_trace_callback(None)
    process = os.fork()
    if not process:
        sqlite.upgrade = traced
        sqlite.SqliteJournal(path).open()
        os._exit(0)
    return path, os.waitpid(process, 0)[1]

found = []
for number in range(200):
    path, status = dies_at(number)
    reader = reader_of(path)
    reader.open()
    version, held = reader.schema, digest(reader).sha256
    reader.close()
    journal = sqlite.SqliteJournal(path)
    if status:
        journal.open()
        journal.close()
        reader = reader_of(path)
        reader.open()
        found.append([version, held, reader.schema, digest(reader).sha256])
        reader.close()
    shutil.rmtree(target)
    if not status:
        break
print(json.dumps([status, found]))
"""
DATABASE_SCRIPT = """
import json, os, signal, sys
import psycopg
from scheduler.journal.postgres import PostgresJournal
from scheduler.journal.postgres_url import parse
place, left = parse(sys.argv[1]), [0]
for kind in (psycopg.Cursor, psycopg.ServerCursor):
    def counted(self, *args, _before=kind.execute, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return _before(self, *args, **kwargs)
    kind.execute = counted
left[0] = int(sys.argv[2])
PostgresJournal(place).open()
os._exit(0)
"""


def told(place: Place) -> tuple[int, str]:
    """Return the schema of a journal and what it holds."""
    with closing(reader_of(place)) as reader:
        reader.open()
        return reader.schema, digest(reader).sha256


def answers(place: Place) -> dict[str, Answer]:
    with closing(reader_of(place)) as reader:
        reader.open()
        return dict(reader.answers())


@pytest.mark.parametrize("source", FILES, ids=lambda path: path.stem)
def test_file_when_its_upgrade_is_killed_at_any_statement_then_old_or_new_and_whole(
    source: Path, tmp_path: Path
) -> None:
    old, wanted = told(source)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FILE_SCRIPT, str(source), str(tmp_path / "killed")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, found = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, "the last one was not killed"
    versions = [version for version, *_ in found]
    assert versions == sorted(versions)
    assert set(versions) == set(range(old, schema.SCHEMA_VERSION)), "it died within every step"
    assert len(found) >= 9 * len(set(versions))
    for _, before, after, content in found:
        assert (before, after, content) == (wanted, schema.SCHEMA_VERSION, wanted)


def test_database_when_its_upgrade_is_killed_at_any_statement_then_old_or_new_and_whole(database: str) -> None:
    place = restored_database(database, DATABASE)
    wanted = told(place)[1]
    versions = []
    for number in range(100):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DATABASE_SCRIPT, database, str(number)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, -9), done.stderr
        wait_alone(database)
        version, held = told(place)
        assert held == wanted
        versions.append(version)
        if done.returncode == 0:
            break
    assert versions == sorted(versions)
    assert versions.count(1) >= 10
    assert versions.count(2) >= 2, "one was killed after it, one was not"
    assert check(place).violations == []


def wait_alone(database: str) -> None:
    """Return once the server has seen that who was killed is gone, and has let go of the lock."""
    with psycopg.connect(database, autocommit=True) as db:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = %s"
        for _ in range(100_000):
            if db.execute(query, ("client backend",)).fetchone() == (1,):
                return
    raise AssertionError("somebody is still connected")


@pytest.mark.parametrize("source", [*FILES, DATABASE], ids=lambda path: path.stem)
def test_journal_when_upgraded_then_every_row_has_a_checksum_and_is_refused_where_it_differs(
    source: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: Place = tmp_path / "journal.db"
    if source == DATABASE:
        place = restored_database(request.getfixturevalue("database"), source)
    else:
        shutil.copy(source, tmp_path / "journal.db")
    before = answers(place)
    assert len(before) == 5
    with closing(journal_of(place)) as journal:
        journal.open()
        assert {key: journal.answer(key) for key in before} == before
        journal.append(Batch(journal_end(place) + 1, (), {"new": Answer(b"d", b"r", 1.0)}))
    sums = {key: answer_crc(key, answer) for key, answer in answers(place).items()}
    assert sums.keys() == before.keys() | {"new"}
    if isinstance(place, PostgresPlace):
        with psycopg.connect(**place.parameters, autocommit=True) as db:  # type: ignore[arg-type]
            found = db.execute("SELECT request_id, crc FROM nasmesh.answer").fetchall()
            assert {key.decode(): crc for key, crc in found} == sums
            assert db.execute("SELECT version FROM nasmesh.journal").fetchone() == (postgres_schema.SCHEMA_VERSION,)
            with pytest.raises(psycopg.errors.NotNullViolation):
                db.execute("INSERT INTO nasmesh.answer VALUES ('x', 'x', 'x', 1.0, NULL)")
            db.execute("UPDATE nasmesh.answer SET reply = 'x' WHERE request_id = 'create-open'")
    else:
        with closing(sqlite3.connect(place)) as file, file:
            assert dict(file.execute("SELECT request_id, crc FROM answer")) == sums
            for table in ("event", "snapshot"):
                assert file.execute(f"SELECT count(*) FROM {table} WHERE crc IS NULL").fetchone() == (0,)
            with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
                file.execute("INSERT INTO answer VALUES ('x', x'00', x'00', 1.0, NULL)")
            file.execute("UPDATE answer SET reply = x'00' WHERE request_id = 'create-open'")
    with closing(journal_of(place)) as refused, pytest.raises(Invalid, match="request id 'create-open' does not have"):
        refused.open()


def journal_end(place: Place) -> int:
    with closing(reader_of(place)) as reader:
        reader.open()
        return reader.last()


@pytest.mark.parametrize("source", [*FILES, DATABASE], ids=lambda path: path.stem)
def test_journal_of_an_older_schema_when_read_copied_and_moved_then_it_stays_and_the_copies_are_todays(
    source: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: Place = tmp_path / "journal.db"
    target: Place = tmp_path / "moved.db"
    if source == DATABASE:
        place = restored_database(request.getfixturevalue("database"), source)
    else:
        shutil.copy(source, tmp_path / "journal.db")
        target = parse(request.getfixturevalue("database"))
    old, content = told(place)
    assert check(place).violations == []
    assert check(place).schema == old
    backup(place, tmp_path / "backup.db")
    assert migrate(place, target).sha256 == content
    newest = schema.SCHEMA_VERSION, postgres_schema.SCHEMA_VERSION
    assert told(tmp_path / "backup.db") == (newest[0], content)
    assert told(target) == (newest[isinstance(target, PostgresPlace)], content)
    assert told(place) == (old, content), "nothing was done to it"


def test_database_when_the_leader_before_has_an_answer_in_flight_then_it_is_waited_for_and_has_a_checksum(
    database: str,
) -> None:
    """A scheduler of the older version was killed in the middle of a commit; another of its kind may still write."""
    place = restored_database(database, DATABASE)
    with (
        psycopg.connect(database, autocommit=True) as slow,
        psycopg.connect(database, autocommit=True) as watcher,
        closing(journal_of(place)) as journal,
    ):
        append = (
            "SELECT nasmesh.append(1000001, 56, '{}', '{}', '{}', '{}', '{}', '{}', 0, %s, '{d}', '{reply}', '{2.5}')"
        )
        slow.execute("BEGIN")
        slow.execute(append, (["late"],))
        opening = threading.Thread(target=journal.open)
        opening.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'"
        while watcher.execute(waiting).fetchone() == (0,):
            assert opening.is_alive()
        slow.execute("COMMIT")
        opening.join(20)
        assert journal.answer("late") == Answer(b"d", b"reply", 2.5)
        with pytest.raises(psycopg.errors.UndefinedFunction):
            slow.execute(append, (["later"],))
        assert journal.answer("later") is None


@pytest.mark.parametrize("version", [0, -1])
def test_database_when_of_a_schema_that_never_was_then_refused_and_untouched(database: str, version: int) -> None:
    place = restored_database(database, DATABASE)
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("UPDATE nasmesh.journal SET version = %s", (version,))
    for act in (journal_of(place).open, reader_of(place).open):
        with pytest.raises(Invalid, match="which never was") as caught:
            act()
        assert caught.value.reason == "JOURNAL_CORRUPT"
