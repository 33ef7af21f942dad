"""Reads a journal, live or copied, without touching it: no lock, no new epoch, one consistent moment throughout."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from nasmesh.errors import Invalid, NotFound, Unavailable
from scheduler.journal.schema import APPLICATION_ID, SCHEMA_VERSION
from scheduler.journal.sqlite import SqliteJournal
from scheduler.journal.upgrading import UPGRADES, upgrade


class JournalReader(SqliteJournal):
    """A journal that is only read. What schedulers write after `open` is not seen."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        super().__init__(path)
        self.path = path
        self.schema = 0
        self._is_still = False

    def open(self) -> int:
        """Open the file and return the epoch of the scheduler that had it last.

        Raises NotFound (JOURNAL_MISSING), Invalid (JOURNAL_CORRUPT, JOURNAL_TOO_NEW), Unavailable (JOURNAL_IO).
        """
        if not self.path.is_file():
            raise NotFound("JOURNAL_MISSING", f"journal: there is no file {self.path}", field="journal")
        try:
            self._connection = self._connected()
            epoch = self._one("SELECT number FROM epoch")
        except sqlite3.Error as error:
            self.close()
            raise self._explain(error) from error
        return epoch

    def close(self) -> None:
        """Let the file go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def check_still(self) -> None:
        """Raise Unavailable (JOURNAL_TAKEN) where a scheduler started on a file that was read as one at rest."""
        if self._is_still and self._has_log():
            raise Unavailable("JOURNAL_TAKEN", f"journal {self.path}: a scheduler has just started on it; try again")

    def lacks_log(self) -> bool:
        """Say whether a scheduler had the file open and the -wal file, with its last events, is not beside it."""
        return self._is_still and self._number("SELECT open FROM epoch") == 1

    def oldest(self) -> int:
        """Return the number of the first event that is kept; one more than the last where none is."""
        first = self._number("SELECT min(sequence) FROM event")
        return first if first is not None else self.snapshot()[0] + 1

    def last(self) -> int:
        """Return the number of the last event."""
        return max(self._number("SELECT max(sequence) FROM event") or 0, self.snapshot()[0])

    def is_whole(self) -> bool:
        """Say whether every event is kept."""
        return self.oldest() == 1

    def origin(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return where replay can begin: the sequence number (0: nothing) and the rows of the state at that moment.

        The beginning, or what compaction kept: the moment before the oldest search that was open, else its own. Where a
        search was deleted since, whose rows that moment needs, the snapshot.
        """
        if self.is_whole():
            return 0, iter(())
        at = self._number("SELECT sequence FROM base_at")
        lost = self._number(
            "SELECT count(*) FROM base WHERE length(body) = 0 AND key NOT IN (SELECT key FROM snapshot)"
        )
        if at != self.oldest() - 1 or lost:
            return self.snapshot()
        return at, self._rows(
            "SELECT key, body, crc FROM base WHERE length(body) > 0 UNION ALL SELECT key, body, crc FROM snapshot"
            " WHERE key IN (SELECT key FROM base WHERE length(body) = 0) ORDER BY key"
        )

    def base(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return what compaction kept, as it is stored: a row without a body stands for the snapshot's."""
        at = self._number("SELECT sequence FROM base_at") or 0
        return at, self._rows("SELECT key, body, crc FROM base ORDER BY key")

    def size_bytes(self) -> int:
        """Return the size of the file; what a log beside it holds is not counted."""
        return self.path.stat().st_size

    def damage(self) -> list[str]:
        """Return what is wrong with the file, every page and every answer read; nothing for a sound one."""
        try:
            told = [str(row[0]) for row in self._db().execute("PRAGMA integrity_check(20)")]
        except sqlite3.Error as error:
            return [str(error)]
        if told != ["ok"]:
            return told
        try:
            for _ in self.answers():
                pass
        except Invalid as error:
            return [error.message]
        return []

    def events_checked(self) -> int:
        """Read every event that is kept against its checksum and return how many there are."""
        return sum(1 for _ in self.events(self.oldest() - 1))

    def connection(self) -> sqlite3.Connection:
        """Return the connection, within its read transaction, for a copy."""
        return self._db()

    def _number(self, query: str) -> int | None:
        try:
            found = self._db().execute(query).fetchone()[0]
        except sqlite3.Error as error:
            raise self._explain(error) from error
        return None if found is None else int(found)

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
        """Open read-only. A file without a log beside it is open nowhere, and reading it must not make a log."""
        self._is_still = not self._has_log()
        name = f"file:{quote(str(self.path))}?mode=ro{'&immutable=1' if self._is_still else ''}"
        db = sqlite3.connect(name, uri=True, isolation_level=None)
        db.execute("PRAGMA busy_timeout = 5000")
        return db

    def _has_log(self) -> bool:
        return self.path.with_name(self.path.name + "-wal").exists()

    def _upgraded(self, db: sqlite3.Connection) -> sqlite3.Connection:
        """Return an upgraded copy of a journal of an older schema, in memory as far as that is small."""
        copy = sqlite3.connect("", isolation_level=None)
        with closing(db):
            db.backup(copy)
        upgrade(copy, self.schema)
        copy.execute("BEGIN")
        return copy
