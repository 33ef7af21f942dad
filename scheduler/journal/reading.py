"""Reads a journal, live or copied, without touching it: no lock, no new epoch, one consistent moment throughout."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from nasmesh.errors import Compacted, Invalid, NotFound
from scheduler.journal.schema import APPLICATION_ID, SCHEMA_VERSION, UPGRADES
from scheduler.journal.sqlite import SqliteJournal


class JournalReader(SqliteJournal):
    """A journal that is only read. What schedulers write after `open` is not seen."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        super().__init__(path)
        self.path = path
        self.schema = 0

    def open(self) -> int:
        """Open the file and return the epoch of the scheduler that had it last.

        Raises NotFound (JOURNAL_MISSING), Invalid (JOURNAL_CORRUPT, JOURNAL_TOO_NEW), Unavailable (JOURNAL_IO).
        """
        if not self.path.is_file():
            raise NotFound("JOURNAL_MISSING", f"journal: there is no file {self.path}", field="journal")
        try:
            self._connection = self._connected()
            epoch = int(self._connection.execute("SELECT number FROM epoch").fetchone()[0])
        except sqlite3.Error as error:
            self.close()
            raise self._explain(error) from error
        return epoch

    def close(self) -> None:
        """Let the file go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def oldest(self) -> int:
        """Return the number of the first event that is kept; one more than the last where none is."""
        first = self._db().execute("SELECT min(sequence) FROM event").fetchone()[0]
        return int(first) if first is not None else self._snapshot_at() + 1

    def last(self) -> int:
        """Return the number of the last event."""
        found = self._db().execute("SELECT max(sequence) FROM event").fetchone()[0]
        return max(int(found or 0), self._snapshot_at())

    def is_whole(self) -> bool:
        """Say whether every event is kept."""
        return self.oldest() == 1

    def damage(self) -> list[str]:
        """Return what SQLite finds wrong with the file, every page read; nothing for a sound one."""
        try:
            told = [str(row[0]) for row in self._db().execute("PRAGMA integrity_check(20)")]
        except sqlite3.Error as error:
            return [str(error)]
        return [] if told == ["ok"] else told

    def events_checked(self) -> int:
        """Read every event that is kept against its checksum and return how many there are."""
        return sum(1 for _ in self.events(self.oldest() - 1))

    def connection(self) -> sqlite3.Connection:
        """Return the connection, within its read transaction, for a copy."""
        return self._db()

    def refuse_compacted(self, what: str) -> None:
        """Raise Compacted (JOURNAL_COMPACTED) where events are gone that `what` needs."""
        if not self.is_whole():
            raise Compacted(
                "JOURNAL_COMPACTED",
                f"{what}: the events up to {self.oldest() - 1} of {self.path} were dropped by nasmesh admin compact;"
                " use a backup from before",
                field="journal",
            )

    def _connected(self) -> sqlite3.Connection:
        db = self._open_file()
        try:
            self.schema = int(db.execute("PRAGMA user_version").fetchone()[0])
            application = int(db.execute("PRAGMA application_id").fetchone()[0])
            if self.schema > SCHEMA_VERSION:
                raise Invalid(
                    "JOURNAL_TOO_NEW",
                    f"journal {self.path}: written by a newer nasmesh (schema {self.schema}, this one knows"
                    f" {SCHEMA_VERSION}); use the newer one",
                    field="journal",
                )
            if application != APPLICATION_ID or (self.schema < SCHEMA_VERSION and self.schema not in UPGRADES):
                raise self._corrupt("it is not a journal of nasmesh")
            if self.schema == SCHEMA_VERSION:
                db.execute("BEGIN")
                return db
            return self._upgraded(db)
        except BaseException:
            db.close()
            raise

    def _open_file(self) -> sqlite3.Connection:
        """Open read-only; without the right to write beside it, only a file that nobody has open can be read."""
        name = f"file:{quote(str(self.path))}?mode=ro"
        db = sqlite3.connect(name, uri=True, isolation_level=None)
        try:
            db.execute("PRAGMA busy_timeout = 5000")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            db.close()
            if self.path.with_name(self.path.name + "-wal").exists():
                raise
            db = sqlite3.connect(f"{name}&immutable=1", uri=True, isolation_level=None)
        return db

    def _upgraded(self, db: sqlite3.Connection) -> sqlite3.Connection:
        """Return an upgraded copy in memory of a journal of an older schema."""
        copy = sqlite3.connect(":memory:", isolation_level=None)
        with closing(db):
            db.backup(copy)
        for older in range(self.schema, SCHEMA_VERSION):
            copy.executescript(UPGRADES[older])
        copy.execute("BEGIN")
        return copy
