"""The journal in one SQLite file: write-ahead log, synchronous=FULL, one transaction a batch."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from nasmesh.errors import Compacted, Invalid, NasmeshError, Stale, Unavailable
from nasmesh.logs import get_logger
from scheduler.journal.base import Answer, Batch
from scheduler.journal.inserting import insert
from scheduler.journal.logfile import read_log
from scheduler.journal.schema import (
    APPLICATION_ID,
    QUICK_CHECK_BYTES,
    SCHEMA,
    SCHEMA_VERSION,
    UPGRADES,
    event_crc,
    row_crc,
)
from scheduler.journal.transaction import Transaction

_log = get_logger(__name__)


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
            with self._transaction() as db:
                db.execute("UPDATE epoch SET number = number + 1, open = 1")
                self._epoch = int(db.execute("SELECT number FROM epoch").fetchone()[0])
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
                if crc is not None and crc != event_crc(sequence, body):
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
                found = int(db.execute("SELECT number FROM epoch").fetchone()[0])
                if found != self._epoch:
                    raise Stale("EPOCH_STALE", f"journal: epoch {found} has taken over from {self._epoch}")
                numbered = enumerate(batch.events, start=batch.first_sequence)
                insert(db, "INSERT INTO event", [(n, body, event_crc(n, body)) for n, body in numbered])
                if batch.answers:
                    rows = [(key, a.body_digest, a.reply, a.time_s) for key, a in batch.answers.items()]
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

    def answer(self, request_id: str) -> Answer | None:
        """Return an answer; see Journal."""
        try:
            row = (
                self._db()
                .execute("SELECT body_digest, reply, time_s FROM answer WHERE request_id = ?", (request_id,))
                .fetchone()
            )
        except sqlite3.Error as error:
            raise self._explain(error) from error
        return Answer(*row) if row else None

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
        self._upgrade(db, version)
        if not has_log and db.execute("SELECT open FROM epoch").fetchone()[0]:
            raise self._incomplete()

    def _upgrade(self, db: sqlite3.Connection, version: int) -> None:
        if version < SCHEMA_VERSION and version not in UPGRADES:
            raise self._corrupt(f"it has schema {version}, which never was")
        for older in range(version, SCHEMA_VERSION):
            db.executescript(f"BEGIN IMMEDIATE; {UPGRADES[older]} PRAGMA user_version = {older + 1}; COMMIT;")

    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable("JOURNAL_CLOSED", f"journal {self._path}: it is closed")
        return self._connection

    def _snapshot_at(self) -> int:
        return int(self._db().execute("SELECT sequence FROM snapshot_at").fetchone()[0])

    def _rows(self, query: str) -> Iterator[tuple[str, bytes]]:
        try:
            for key, body, crc in self._db().execute(query):
                if crc is not None and crc != row_crc(key, body):
                    raise self._corrupt(f"snapshot row {key[:80]} does not have its checksum")
                yield key, body
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _transaction(self) -> Transaction:
        return Transaction(self._db())

    # --- below: errors ------------------------------------------------------------------------------------------

    def _explain(self, error: sqlite3.Error) -> NasmeshError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        _log.error("journal_error", path=str(self._path), error=str(error), code=code)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._corrupt(str(error))
        if code == sqlite3.SQLITE_FULL:
            return Unavailable(
                "JOURNAL_FULL", f"journal {self._path}: no space left; free some space, work then goes on by itself"
            )
        return Unavailable("JOURNAL_IO", f"journal {self._path}: {error}; check disk and permissions")

    def _corrupt(self, what: str) -> Invalid:
        return Invalid(
            "JOURNAL_CORRUPT",
            f"journal {self._path} is damaged ({what}); restore it from a backup together with its -wal file, or move"
            " it away to start with an empty one (objects in the store stay)",
            field="journal",
        )

    def _gap(self, after: int, expected: int, found: int) -> NasmeshError:
        """Return what a gap means: the oldest events may have been dropped on purpose, never those in between."""
        if expected > after + 1 or self._snapshot_at() < found - 1:
            return self._corrupt(f"event {expected} is missing")
        return Compacted(
            "JOURNAL_COMPACTED", f"journal {self._path}: events up to {found - 1} were dropped by nasmesh admin compact"
        )

    def _incomplete(self) -> Invalid:
        return Invalid(
            "JOURNAL_INCOMPLETE",
            f"journal {self._path}: a scheduler was killed on it, and the file {self._path.name}-wal with what was"
            " acknowledged last is not beside it; put it back. If it is lost, or another program has opened the journal"
            " since and folded it in, go on with:"
            f" nasmesh admin restore {self._path} --journal sqlite:{self._path} --force",
            field="journal",
        )
