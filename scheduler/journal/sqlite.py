"""The journal in one SQLite file: write-ahead log, synchronous=FULL, one transaction a batch."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from nasmesh.errors import Compacted, Invalid, NasmeshError, Stale, Unavailable
from scheduler.journal.answers import answer_crc, checked_answer
from scheduler.journal.base import Answer, Batch
from scheduler.journal.inserting import insert
from scheduler.journal.logfile import read_log
from scheduler.journal.schema import APPLICATION_ID, QUICK_CHECK_BYTES, SCHEMA, SCHEMA_VERSION, event_crc, row_crc
from scheduler.journal.sqlite_errors import corrupt, explain, incomplete
from scheduler.journal.transaction import Transaction
from scheduler.journal.upgrading import UPGRADES, upgrade


class SqliteJournal:
    """Keeps the log in a file. A second scheduler on the same file is refused by a lock beside it."""

    kind_name = "sqlite"

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self._path = path
        self._lock = -1
        self._epoch = 0
        self._connection: sqlite3.Connection | None = None

    def open(self) -> int:
        """Lock the file, check it, create it where it is missing, and raise the epoch; see Journal."""
        self._take_lock()
        try:
            self._connect()
            for _ in self.answers():  # each against its checksum: what is asked for again is asked for much later
                pass
            with self._transaction() as db:
                db.execute("UPDATE epoch SET number = number + 1, open = 1")
                self._epoch = self._one("SELECT number FROM epoch")
            # So that the file alone, without its write-ahead log, says that it is not whole.
            self._db().execute("PRAGMA wal_checkpoint(PASSIVE)")
        except NasmeshError:
            self.close()
            raise
        except sqlite3.Error as error:
            self.close()
            raise self._explain(error) from error
        return self._epoch

    def withdraw(self) -> None:
        """Put the epoch back and close; see Journal."""
        try:
            self._db().execute("UPDATE epoch SET number = number - 1 WHERE number = ?", (self._epoch,))
        except sqlite3.Error as error:
            raise self._explain(error) from error
        self._epoch -= 1
        self.close()

    def snapshot(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return the snapshot; see Journal."""
        try:
            at = self._snapshot_at()
        except sqlite3.Error as error:
            raise self._explain(error) from error
        return at, self._rows("SELECT key, body, crc FROM snapshot ORDER BY key")

    def events(self, after: int) -> Iterator[tuple[int, bytes]]:
        """Return events; see Journal."""
        expected = after
        try:
            for sequence, body, crc in self._db().execute(
                "SELECT sequence, body, crc FROM event WHERE sequence > ? ORDER BY sequence", (after,)
            ):
                expected += 1
                if sequence != expected:
                    raise self._gap(after, expected, sequence)
                if not isinstance(body, bytes) or crc != event_crc(sequence, body):
                    raise self._corrupt(f"event {sequence} does not have its checksum")
                yield sequence, body
            if expected == after < self._snapshot_at():
                raise self._gap(after, after + 1, self._snapshot_at() + 1)
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def append(self, batch: Batch) -> None:
        """Write a batch in one transaction; see Journal."""
        try:
            with self._transaction() as db:
                found = self._one("SELECT number FROM epoch")
                if found != self._epoch:
                    raise Stale("EPOCH_STALE", f"journal: epoch {found} has taken over from {self._epoch}")
                numbered = enumerate(batch.events, start=batch.first_sequence)
                insert(db, "INSERT INTO event", [(n, body, event_crc(n, body)) for n, body in numbered])
                if batch.answers:
                    rows = [(k, a.body_digest, a.reply, a.time_s, answer_crc(k, a)) for k, a in batch.answers.items()]
                    insert(db, "INSERT INTO answer", rows)
                if batch.rows:
                    keyed = [(key, body, row_crc(key, body)) for key, body in batch.rows.items() if body]
                    insert(db, "INSERT OR REPLACE INTO snapshot", keyed)
                    gone = [(key,) for key, body in batch.rows.items() if not body]
                    db.executemany("DELETE FROM snapshot WHERE key = ?", gone)
                if batch.snapshot_sequence:
                    db.execute("UPDATE snapshot_at SET sequence = ?", (batch.snapshot_sequence,))
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def settle(self) -> None:
        """Put what the write-ahead log holds into the file; see Journal.

        SQLite does that within a commit once the log has 1,000 pages, and costs that commit two further syncs.
        """
        with contextlib.suppress(sqlite3.Error):  # the next commit says what is wrong, and nothing is lost
            self._db().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def answer(self, request_id: str) -> Answer | None:
        """Return an answer; see Journal."""
        query = "SELECT body_digest, reply, time_s, crc FROM answer WHERE request_id = ?"
        try:
            row = self._db().execute(query, (request_id,)).fetchone()
        except sqlite3.Error as error:
            raise self._explain(error) from error
        return None if row is None else checked_answer(request_id, row, self._corrupt)

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Yield all answers in the order of request ids; raises Invalid (JOURNAL_CORRUPT) at a spoilt one."""
        query = "SELECT request_id, body_digest, reply, time_s, crc FROM answer ORDER BY request_id"
        try:
            for request_id, *row in self._db().execute(query):
                yield request_id, checked_answer(request_id, row, self._corrupt)
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def forget_answers(self, before_s: float) -> None:
        """Drop old answers; see Journal."""
        try:
            with self._transaction() as db:
                db.execute("DELETE FROM answer WHERE time_s < ?", (before_s,))
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def compact(self, through: int, base: Mapping[str, bytes]) -> None:
        """Drop the events up to a sequence number, which the snapshot must cover, and give the space back.

        `base` are the rows of the state at that moment, from which later events can be replayed; an empty body stands
        for the same row of the snapshot.
        Raises Unavailable (JOURNAL_FULL, JOURNAL_IO); the events are dropped all or none.
        """
        try:
            with self._transaction() as db:
                db.execute("DELETE FROM event WHERE sequence <= ?", (min(through, self._snapshot_at()),))
                db.execute("DELETE FROM base")
                db.executemany(
                    "INSERT INTO base VALUES (?, ?, ?)", [(key, body, row_crc(key, body)) for key, body in base.items()]
                )
                db.execute("UPDATE base_at SET sequence = ?", (through,))
            self._db().execute("VACUUM")
            self._db().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def __del__(self) -> None:
        """Close: a connection that goes away takes the log along, and then the file must say that it is whole."""
        with contextlib.suppress(Exception):
            self.close()

    def close(self) -> None:
        """Close the file and give the lock back."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # a full disk: the log stays beside the file, and nothing is lost
                self._connection.execute("UPDATE epoch SET open = 0 WHERE number = ?", (self._epoch,))
            self._connection.close()
            self._connection = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- below: opening ---------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        path = self._path.with_name(self._path.name + ".lock")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise Unavailable(
                "JOURNAL_LOCKED",
                f"journal {self._path}: another scheduler uses it; stop that one, or give this one its own --journal",
                field="journal",
            ) from error
        except OSError as error:
            self.close()
            raise Unavailable(
                "JOURNAL_IO", f"journal {self._path}: {error.strerror}; check path, owner and space", field="journal"
            ) from error

    def _connect(self) -> None:
        beside = self._path.with_name(self._path.name + "-wal")
        has_log, log = beside.exists(), read_log(beside)
        # The core commits from one worker thread and reads from the loop's, never both at once.
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=64)
        self._connection = db
        db.execute("PRAGMA busy_timeout = 5000")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        application = int(db.execute("PRAGMA application_id").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise Invalid(
                "JOURNAL_TOO_NEW",
                f"journal {self._path}: written by a newer nasmesh (schema {version}, this one knows {SCHEMA_VERSION});"
                " upgrade nasmesh, or use another --journal",
                field="journal",
            )
        tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        if tables and application != APPLICATION_ID:
            raise self._corrupt("it is a database of something else")
        if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise Unavailable("JOURNAL_IO", f"journal {self._path}: this file system allows no write-ahead log")
        db.execute("PRAGMA synchronous = FULL")
        if not tables:
            db.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
            return
        if self._path.stat().st_size <= QUICK_CHECK_BYTES:
            told = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if told != "ok":
                raise self._corrupt(str(told)[:200])
        damage = log.damage(int(db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]))
        if damage:
            raise self._corrupt(damage)
        if version < SCHEMA_VERSION and version not in UPGRADES:
            raise self._corrupt(f"it has schema {version}, which never was")
        upgrade(db, version)
        if self._one("SELECT open FROM epoch") and not has_log:
            raise incomplete(self._path)

    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable("JOURNAL_CLOSED", f"journal {self._path}: it is closed")
        return self._connection

    def _snapshot_at(self) -> int:
        return self._one("SELECT sequence FROM snapshot_at")

    def _one(self, query: str) -> int:
        """Return the number in a table of one row."""
        row = self._db().execute(query).fetchone()
        if row is None or not isinstance(row[0], int):
            raise self._corrupt(f"the number is missing of {query}")
        return row[0]

    def _rows(self, query: str) -> Iterator[tuple[str, bytes]]:
        try:
            for key, body, crc in self._db().execute(query):
                if not (isinstance(key, str) and isinstance(body, bytes)) or crc != row_crc(key, body):
                    raise self._corrupt(f"snapshot row {str(key)[:80]} does not have its checksum")
                yield key, body
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _transaction(self) -> Transaction:
        return Transaction(self._db())

    # --- below: errors ------------------------------------------------------------------------------------------

    def _explain(self, error: sqlite3.Error) -> NasmeshError:
        return explain(self._path, error)

    def _corrupt(self, what: str) -> Invalid:
        return corrupt(self._path, what)

    def _gap(self, after: int, expected: int, found: int) -> NasmeshError:
        """Return what a gap means: the oldest events may have been dropped on purpose, never those in between."""
        if expected > after + 1 or self._snapshot_at() < found - 1:
            return self._corrupt(f"event {expected} is missing")
        return Compacted(
            "JOURNAL_COMPACTED", f"journal {self._path}: events up to {found - 1} were dropped by nasmesh admin compact"
        )
