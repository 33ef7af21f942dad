"""The journal in PostgreSQL: one statement a batch, led by whoever holds an advisory lock, fenced by the epoch.

Two connections: one holds the lock and does nothing else, the other writes. A lost connection ends the leadership:
whether the last batch was written is then unknown here, and known to whoever reads the journal next.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import psycopg

from nasmesh.errors import Compacted, NasmeshError, Stale, Unavailable
from nasmesh.logs import get_logger
from scheduler.journal.answers import checked_answer
from scheduler.journal.base import Answer, Batch
from scheduler.journal.postgres_batches import append_values
from scheduler.journal.postgres_schema import ANSWERS, APPEND, EVENTS, FUNCTIONS, LOCK, SCHEMA, SCHEMA_VERSION, SNAPSHOT
from scheduler.journal.postgres_session import (
    Connection,
    check_tables,
    connect,
    corrupt,
    explain,
    incomplete,
    locked,
    request_id_of,
    stale,
    too_new,
    unlock,
    warn,
)
from scheduler.journal.postgres_upgrading import upgrade
from scheduler.journal.postgres_url import PostgresPlace
from scheduler.journal.schema import event_crc, row_crc

# Rows of one answer while a journal is read back.
_PAGE = 2000
# How often the leader sees whether its lock's connection lives, in seconds.
LOOK_S = 1.0
# A batch of the leader before may be in flight; it is waited for.
_TAKE_OVER_MS = 8000

_log = get_logger("journal")


class PostgresJournal:
    """Keeps the log in a database. A second scheduler on the same one is refused, or stands by: see open."""

    kind_name = "postgres"

    def __init__(self, place: PostgresPlace) -> None:
        """Name the database; nothing is opened yet."""
        self.place = place
        self._epoch = 0
        self._connection: Connection | None = None
        self._lock: Connection | None = None
        self._over = threading.Event()
        self._lost: Stale | None = None
        self._on_loss: list[Callable[[Stale], object]] = []

    def open(self) -> int:
        """Take the lock, create the tables where there are none, and raise the epoch; see Journal."""
        try:
            self._lock = connect(self.place)
            with self._explained(self._lock):
                if not self._one(self._lock, "SELECT pg_try_advisory_lock(%s, %s)", LOCK):
                    raise locked(self.place)
            self._connection = connect(self.place)
            with self._explained(self._connection):
                warn(self.place, self._connection)
                self._epoch = self._prepare(self._connection)
        except BaseException:
            self.close()
            raise
        self._over, self._lost = threading.Event(), None
        threading.Thread(target=self._look, args=(self._lock, self._over), name="journal-lock", daemon=True).start()
        return self._epoch

    def withdraw(self) -> None:
        """Put the epoch back and close; see Journal."""
        with self._explained(self._db()) as db:
            db.execute("UPDATE nasmesh.epoch SET number = number - 1 WHERE number = %s", (self._epoch,))
        self._epoch -= 1
        self.close()

    def on_loss(self, tell: Callable[[Stale], object]) -> None:
        """Have `tell` called, from any thread, when the leadership is lost; at once where it is."""
        self._on_loss.append(tell)
        if self._lost is not None:
            tell(self._lost)

    def snapshot(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return the snapshot; see Journal."""
        return self._snapshot_at(), self._rows(SNAPSHOT)

    def events(self, after: int) -> Iterator[tuple[int, bytes]]:
        """Return events; see Journal."""
        expected = after
        for sequence, body, crc in self._pages(EVENTS, after):
            expected += 1
            if sequence != expected:
                raise self._gap(after, expected, sequence)
            if crc != event_crc(sequence, body):
                raise corrupt(self.place, f"event {sequence} does not have its checksum")
            yield sequence, body
        if expected == after < self._snapshot_at():
            raise self._gap(after, after + 1, self._snapshot_at() + 1)

    def append(self, batch: Batch) -> None:
        """Write a batch in one statement; see Journal. Raises Stale (LEADERSHIP_LOST) too: see the module."""
        self._check_leading()
        with self._explained(self._db()) as db:
            db.execute(APPEND, append_values(self._epoch, batch), prepare=True, binary=True)

    def settle(self) -> None:
        """Do nothing: the database puts itself in order; see Journal."""

    def answer(self, request_id: str) -> Answer | None:
        """Return an answer; see Journal. Who asks is not told that the leadership is lost, but to ask again."""
        query = "SELECT body_digest, reply, time_s, crc FROM nasmesh.answer WHERE request_id = %s"
        try:
            with self._explained(self._db()) as db:
                row = db.execute(query, (request_id.encode(),), binary=True).fetchone()
        except Stale as error:
            raise Unavailable("SCHEDULER_STOPPING", f"{error.message}; try again") from error
        return None if row is None else checked_answer(request_id, row, partial(corrupt, self.place))

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Yield all answers in the order of request ids; raises Invalid (JOURNAL_CORRUPT) at a spoilt one."""
        for key, *row in self._pages(ANSWERS, b""):
            request_id = request_id_of(self.place, key)
            yield request_id, checked_answer(request_id, row, partial(corrupt, self.place))

    def forget_answers(self, before_s: float) -> None:
        """Drop old answers; see Journal."""
        with self._fenced() as db:
            db.execute("DELETE FROM nasmesh.answer WHERE time_s < %s", (before_s,))

    def compact(self, through: int, base: Mapping[str, bytes]) -> None:
        """Drop the events up to a sequence number; see SqliteJournal.compact."""
        with self._fenced() as db:
            db.execute("DELETE FROM nasmesh.event WHERE sequence <= %s", (min(through, self._snapshot_at()),))
            db.execute("DELETE FROM nasmesh.base")
            rows = [(key.encode(), body, row_crc(key, body)) for key, body in base.items()]
            with db.cursor() as cursor:
                cursor.executemany("INSERT INTO nasmesh.base VALUES (%s, %s, %s)", rows)
            db.execute("UPDATE nasmesh.base_at SET sequence = %s", (through,))
        with self._explained(self._db()) as db:
            for table in ("event", "base", "snapshot"):
                db.execute(_VACUUM[table])

    def close(self) -> None:
        """Let the database and the lock go."""
        self._over.set()
        if self._lock is not None and self._lost is None:
            unlock(self._lock)
        for connection in (self._connection, self._lock):
            if connection is not None:
                with contextlib.suppress(psycopg.Error):
                    connection.close()
        self._connection = self._lock = None

    # --- below: leading -----------------------------------------------------------------------------------------

    def _look(self, lock: Connection, over: threading.Event) -> None:
        """Ask over the lock's connection whether it lives; once it does not, nothing more is written."""
        while not over.wait(LOOK_S):
            try:
                lock.execute("SELECT 1")
            except psycopg.Error as error:
                if over.is_set():
                    return
                _log.error("journal_lock_lost", journal=self.place.shown, error=str(error).strip()[:200])
                self._lose(stale(self.place, "the connection that held its lock was lost"))
                return

    def _lose(self, lost: Stale) -> None:
        """Write nothing more, and say so, once."""
        if self._lost is None:
            self._lost = lost
            for tell in self._on_loss:
                tell(lost)

    def _check_leading(self) -> None:
        if self._lost is not None:
            raise self._lost

    @contextlib.contextmanager
    def _fenced(self) -> Iterator[Connection]:
        """Have a transaction that ends with an error where another has taken over."""
        self._check_leading()
        with self._explained(self._db()) as db, db.transaction():
            db.execute("SELECT nasmesh.fence(%s)", (self._epoch,))
            yield db

    # --- below: opening -----------------------------------------------------------------------------------------

    def _prepare(self, db: Connection) -> int:
        """Check what is there, make what is not, and return the new epoch."""
        version = check_tables(self.place, db)
        if version > SCHEMA_VERSION:
            raise too_new(self.place, version, "upgrade nasmesh, or use another --journal")
        db.execute(f"SET lock_timeout = {_TAKE_OVER_MS}")
        with db.transaction():
            if version:
                upgrade(self.place, db, version)
            else:
                db.execute(SCHEMA)
            db.execute(FUNCTIONS)
        counts = "SELECT (SELECT count(*) FROM nasmesh.epoch), (SELECT count(*) FROM nasmesh.snapshot_at)"
        if self._row(db, counts) != (1, 1):
            raise incomplete(self.place, "its epoch or the place of its snapshot is missing")
        for _ in self.answers():  # each against its checksum: what is asked for again is asked for much later
            pass
        epoch = int(self._one(db, "UPDATE nasmesh.epoch SET number = number + 1 RETURNING number"))
        db.execute("SET lock_timeout = 0")
        return epoch

    def _db(self) -> Connection:
        if self._connection is None:
            raise Unavailable("JOURNAL_CLOSED", f"journal {self.place.shown}: it is closed")
        return self._connection

    @contextlib.contextmanager
    def _explained(self, db: Connection) -> Iterator[Connection]:
        try:
            yield db
        except psycopg.Error as error:
            found = explain(self.place, error, db)
            if isinstance(found, Stale):
                self._lose(found)
            raise found from error

    # --- below: reading -----------------------------------------------------------------------------------------

    def _row(self, db: Connection, query: str, values: tuple[object, ...] = ()) -> tuple[Any, ...]:
        found = db.execute(query, values).fetchone()
        if found is None:
            raise incomplete(self.place, "a row is missing")
        return tuple(found)

    def _one(self, db: Connection, query: str, values: tuple[object, ...] = ()) -> Any:
        return self._row(db, query, values)[0]

    def _snapshot_at(self) -> int:
        with self._explained(self._db()) as db:
            return int(self._one(db, "SELECT sequence FROM nasmesh.snapshot_at"))

    def _rows(self, query: str) -> Iterator[tuple[str, bytes]]:
        for key, body, crc in self._pages(query, b""):
            name = key.decode(errors="replace")
            if crc != row_crc(name, body):
                raise corrupt(self.place, f"snapshot row {name[:80]} does not have its checksum")
            yield name, body

    def _pages(self, query: str, after: object) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query that takes the key after which, and how many; the key is a row's first value."""
        rest, query = query, query.replace("> %s", ">= %s") if after == b"" else query  # only a spoilt key is empty
        while True:
            with self._explained(self._db()) as db:
                page = db.execute(query, (after, _PAGE), binary=True).fetchall()
            yield from page
            if len(page) < _PAGE:
                return
            query, after = rest, page[-1][0]

    def _gap(self, after: int, expected: int, found: int) -> NasmeshError:
        """Return what a gap means: the oldest events may have been dropped on purpose, never those in between."""
        if expected > after + 1 or self._snapshot_at() < found - 1:
            return corrupt(self.place, f"event {expected} is missing")
        return Compacted(
            "JOURNAL_COMPACTED",
            f"journal {self.place.shown}: events up to {found - 1} were dropped by nasmesh admin compact",
        )


_VACUUM = {table: f"VACUUM nasmesh.{table}" for table in ("event", "base", "snapshot")}
