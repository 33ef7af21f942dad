"""Journals in PostgreSQL that are no good, or go away while they are written: told in a sentence, nothing harmed."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from nasmesh.clock import ManualClock
from nasmesh.errors import Denied, Invalid, NasmeshError, Stale, Unavailable
from scheduler.engine import Engine
from scheduler.journal import postgres_arrays
from scheduler.journal.base import Batch
from scheduler.journal.places import journal_at
from scheduler.journal.postgres import LOOK_S, PostgresJournal
from scheduler.journal.postgres_reading import PostgresReader
from scheduler.journal.postgres_url import PostgresPlace, parse
from scheduler.journal.schema import event_crc
from tests.builders import journals
from tests.builders.postgres_server import PostgresServer
from tests.e2e.mesh import ROOT

Spoil = Callable[[psycopg.Connection[tuple[object, ...]]], object]


def by_hand(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url, autocommit=True)


def recovered(url: str) -> int:
    """Return the epoch of a scheduler that starts on a journal, and ends."""
    engine = Engine(PostgresJournal(parse(url)), ManualClock(), seed=1)
    try:
        engine.recover()
        return engine.state.epoch
    finally:
        engine.journal.close()


def refused(url: str) -> NasmeshError:
    with pytest.raises(NasmeshError) as caught:
        recovered(url)
    return caught.value


@pytest.fixture
def used(database: str) -> str:
    """A journal in which a search has ended."""
    past = journals.Past(PostgresJournal(parse(database)))
    past.create("ended", max_trials=4)
    past.work("ended")
    past.close()
    return database


CASES: list[tuple[str, str, str]] = [
    ("UPDATE nasmesh.journal SET version = 99", "JOURNAL_TOO_NEW", "upgrade nasmesh, or use another --journal"),
    ("DROP TABLE nasmesh.event", "JOURNAL_INCOMPLETE", "table event is missing"),
    ("DROP TABLE nasmesh.journal", "JOURNAL_INCOMPLETE", "DROP SCHEMA nasmesh CASCADE"),
    ("DELETE FROM nasmesh.journal", "JOURNAL_INCOMPLETE", "its version"),
    ("DELETE FROM nasmesh.epoch", "JOURNAL_INCOMPLETE", "its epoch"),
    ("DELETE FROM nasmesh.event WHERE sequence = 6", "JOURNAL_CORRUPT", "event 6 is missing"),
    ("UPDATE nasmesh.event SET body = 'x' WHERE sequence = 7", "JOURNAL_CORRUPT", "event 7 does not have its checksum"),
    (
        "UPDATE nasmesh.answer SET time_s = 7",
        "JOURNAL_CORRUPT",
        "the answer to request id 'create-ended' does not have",
    ),
    ("UPDATE nasmesh.epoch SET number = 0", "JOURNAL_CORRUPT", "epoch 1, which comes after 1"),
    ("DROP SCHEMA nasmesh CASCADE; CREATE TABLE recipes (name text)", "JOURNAL_CORRUPT", "public.recipes"),
]


@pytest.mark.parametrize(("statement", "reason", "words"), CASES)
def test_journal_when_spoilt_then_refused_in_the_same_words_each_time(
    used: str, statement: str, reason: str, words: str
) -> None:
    with by_hand(used) as db:
        db.execute(statement)
    for _ in range(2):
        error = refused(used)
        assert (error.reason, words in error.message) == (reason, True), error.message


def test_database_when_its_encoding_is_another_then_told_how_to_make_one(postgres_server: PostgresServer) -> None:
    with postgres_server.connect() as db:
        db.execute("CREATE DATABASE old_letters ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    error = refused(postgres_server.url("old_letters"))
    assert (type(error), error.reason) == (Invalid, "JOURNAL_ENCODING")
    assert "ENCODING 'UTF8' TEMPLATE template0" in error.message


def test_database_when_it_cannot_be_reached_then_told_why_and_what_to_do(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("*:*:*:*:not-it\n")
    empty = tmp_path / "empty"
    empty.touch(0o600)
    url, port = postgres_server.url, f":{postgres_server.port}/"
    for text, kind, reason, words in (
        (url(passfile=str(wrong)), Denied, "JOURNAL_DENIED", "its password is refused"),
        (url(passfile=str(empty)), Denied, "JOURNAL_DENIED", "passfile=FILE"),
        (url("nowhere"), Invalid, "JOURNAL_DATABASE_MISSING", 'CREATE DATABASE "nowhere"'),
        (url(sslmode="require"), Denied, "JOURNAL_UNTRUSTED", "SSL"),
        (url().replace(port, ":1/"), Unavailable, "JOURNAL_IO", "nobody answers there"),
    ):
        error = refused(text)
        assert (type(error), error.reason, words in error.message) == (kind, reason, True), error.message
        assert "not-it" not in error.message


@pytest.mark.parametrize(
    ("url", "reason", "words"),
    [
        ("postgresql://u:secret@h/d", "JOURNAL_URL_SECRET", "passfile=FILE"),
        ("postgresql://u@h/d?password=secret", "JOURNAL_URL_SECRET", "mode 0600"),
        ("postgresql://h/d", "JOURNAL_URL_INVALID", "user, host and database"),
        ("postgresql://u@h", "JOURNAL_URL_INVALID", "user, host and database"),
        ("postgresql://u@h:x/d", "JOURNAL_URL_INVALID", "cannot be read"),
        ("postgresql://u@h/d?sslmode=maybe", "JOURNAL_URL_INVALID", "verify-full"),
        ("postgresql://u@h/d?sslmode=verify-ca", "JOURNAL_URL_INVALID", "sslrootcert=FILE"),
        ("postgresql://u@h/d?host=other", "JOURNAL_URL_INVALID", "'host'"),
        ("postgres://u@h/d", "JOURNAL_URL_INVALID", "postgresql://USER@HOST"),
        ("mysql://u:secret@h/d", "JOURNAL_URL_INVALID", "postgresql://"),
    ],
)
def test_url_when_wrong_then_refused_without_its_secret(url: str, reason: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        journal_at(url)
    assert (caught.value.reason, words in caught.value.message) == (reason, True), caught.value.message
    assert "secret" not in caught.value.message


def test_url_when_sound_then_tls_is_verified_beyond_this_machine_unless_it_says_otherwise() -> None:
    def mode(url: str) -> tuple[object, object, bool]:
        place = parse(url)
        assert "passfile" not in str(place)
        return place.parameters["sslmode"], place.parameters.get("sslrootcert"), place.unverified

    assert mode("postgresql://u@127.0.0.1/d") == ("prefer", None, False)
    assert mode("postgresql://u@db.example/d?passfile=/p") == ("verify-full", "system", False)
    assert mode("postgresql://u@db.example/d?sslrootcert=/ca") == ("verify-full", "/ca", False)
    assert mode("postgresql://u@db.example/d?sslmode=require") == ("require", None, True)
    assert str(parse("postgresql://u@[fd00::1]:5433/d")) == "postgresql://u@[fd00::1]:5433/d"


def test_append_when_the_epoch_was_taken_over_then_stale_and_nothing_written(database: str) -> None:
    with closing(PostgresJournal(parse(database))) as journal:
        journal.open()
        with by_hand(database) as other:
            other.execute("UPDATE nasmesh.epoch SET number = number + 1")
        with pytest.raises(Stale) as caught:
            journal.append(Batch(1, (b"late",)))
        assert caught.value.reason == "EPOCH_STALE"
        assert list(journal.events(0)) == []


def test_append_when_one_row_cannot_be_written_then_nothing_is_and_the_next_batch_may_be(database: str) -> None:
    with closing(PostgresJournal(parse(database))) as journal:
        journal.open()
        journal.append(Batch(1, (b"a", b"b")))
        with pytest.raises(Unavailable) as caught:
            journal.append(Batch(2, (b"twice", b"c"), rows={"x": b"1"}, snapshot_sequence=3))
        assert caught.value.reason == "JOURNAL_IO"
        assert list(journal.events(0)) == [(1, b"a"), (2, b"b")]
        assert list(journal.snapshot()[1]) == []
        journal.append(Batch(3, (b"c",)))


def test_take_over_when_a_batch_is_in_flight_then_it_is_waited_for_and_read(database: str) -> None:
    """The leader before is killed in the middle of a commit: what comes of it is known before the next one reads."""
    first = PostgresJournal(parse(database))
    first.open()
    with by_hand(database) as slow, by_hand(database) as watcher:
        slow.execute("BEGIN")
        slow.execute("SELECT nasmesh.fence(1)")
        slow.execute("INSERT INTO nasmesh.event VALUES (1, 'a', %s)", (event_crc(1, b"a"),))
        first.close()  # its lock is free, its transaction goes on in the server
        second = PostgresJournal(parse(database))
        epochs: list[int] = []
        taking = threading.Thread(target=lambda: epochs.append(second.open()))
        taking.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%epoch%'"
        while not watcher.execute(waiting).fetchone()[0]:  # type: ignore[index]
            assert taking.is_alive()
        assert epochs == []
        slow.execute("COMMIT")
        taking.join(20)
    assert epochs == [2]
    assert list(second.events(0)) == [(1, b"a")]
    second.close()


@pytest.mark.parametrize("whose", ["the writer's", "the lock's"])
def test_connection_when_lost_then_the_journal_writes_nothing_more_and_says_so(database: str, whose: str) -> None:
    with closing(PostgresJournal(parse(database))) as journal:
        journal.open()
        journal.append(Batch(1, (b"a",)))
        told = threading.Event()
        journal.on_loss(lambda _: told.set())
        connection = journal._connection if whose == "the writer's" else journal._lock
        assert connection is not None
        with by_hand(database) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        if whose == "the lock's":
            assert told.wait(LOOK_S * 10)
        for _ in range(2):
            with pytest.raises(Stale) as caught:
                journal.append(Batch(2, (b"b",)))
            assert caught.value.reason == "LEADERSHIP_LOST"
        assert told.is_set()
        if whose == "the writer's":  # who asks is told to ask again, elsewhere
            with pytest.raises(Unavailable) as unread:
                journal.answer("r")
            assert unread.value.reason == "SCHEDULER_STOPPING"
    with closing(PostgresJournal(parse(database))) as after:
        assert after.open() == 2
        assert list(after.events(0)) == [(1, b"a")]


def test_connection_when_lost_while_it_is_opened_then_unavailable_as_nobody_led(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(db: psycopg.Connection[tuple[object, ...]]) -> None:
        with by_hand(database) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (db.info.backend_pid,))

    monkeypatch.setattr(postgres_arrays, "register", cut)
    error = refused(database)
    assert (type(error), error.reason) == (Unavailable, "JOURNAL_IO"), error.message


def test_reader_when_its_connection_is_lost_then_unavailable_as_it_never_led(used: str) -> None:
    with closing(PostgresReader(parse(used))) as reader:
        reader.open()
        assert reader._connection is not None
        with by_hand(used) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (reader._connection.info.backend_pid,))
        with pytest.raises(Unavailable) as caught:
            reader.last()
    assert caught.value.reason == "JOURNAL_IO"


def test_connection_when_lost_after_the_commit_then_the_next_leader_finds_the_batch(
    postgres_server: PostgresServer, database: str
) -> None:
    """The unknown outcome: the server has done it and dies before it says so. Nobody may do it again."""
    with closing(PostgresJournal(parse(database))) as journal, by_hand(database) as other:
        journal.open()
        # A commit that waits for a standby server which never comes is done, and not told.
        other.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        other.execute("SELECT pg_reload_conf()")
        try:
            ended = _terminate_in_commit(postgres_server, journal)
            last = _append_until_lost(journal)
            ended.join(20)
        finally:
            other.execute("ALTER SYSTEM RESET synchronous_standby_names")
            other.execute("SELECT pg_reload_conf()")
    with closing(PostgresJournal(parse(database))) as after:
        after.open()
        assert list(after.events(0)) == [(number, b"written") for number in range(1, last + 1)]


def _append_until_lost(journal: PostgresJournal) -> int:
    """Append until the outcome of a batch is unknown, and return its number: the new setting takes its time."""
    number = 0

    def append() -> None:
        nonlocal number
        while number < 10_000:
            number += 1
            journal.append(Batch(number, (b"written",)))

    with pytest.raises(Stale, match="whether the last batch was written"):
        append()
    return number


def _terminate_in_commit(server: PostgresServer, journal: PostgresJournal) -> threading.Thread:
    assert journal._connection is not None
    pid = journal._connection.info.backend_pid

    def terminate() -> None:
        with server.connect() as db:
            query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
            for _ in range(100_000):
                row = db.execute(query, (pid,)).fetchone()
                if row is not None and row[0] == "SyncRep":
                    break
            db.execute("SELECT pg_terminate_backend(%s)", (pid,))

    thread = threading.Thread(target=terminate)
    thread.start()
    return thread


def test_program_when_its_journal_is_refused_then_a_sentence_and_an_exit_code(used: str, tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NASMESH_")}
    command = [sys.executable, "-m", "scheduler", "--listen", "127.0.0.1:0", "--store", "memory:", "--journal"]
    first = PostgresJournal(parse(used))
    first.open()
    with closing(first):
        done = subprocess.run(
            [*command, used],
            env={**kept, "NASMESH_HOME": str(tmp_path)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1].startswith("error: journal postgresql://")
    assert "--standby" in done.stderr
    assert "Traceback" not in done.stderr


def test_place_when_shown_then_without_files_or_parameters(database: str) -> None:
    place = parse(database)
    assert isinstance(place, PostgresPlace)
    assert "passfile" not in repr(place)
