"""Reads a journal in PostgreSQL, live or not, without touching it: no lock, no new epoch, one moment throughout."""

import contextlib
from collections.abc import Iterator

import psycopg

from nasmesh.errors import Invalid, NotFound
from scheduler.journal.base import Answer
from scheduler.journal.postgres import PostgresJournal
from scheduler.journal.postgres_schema import SCHEMA_VERSION
from scheduler.journal.postgres_session import Connection, check_tables, connect, explain, request_id_of, too_new
from scheduler.journal.postgres_url import PostgresPlace


class PostgresReader(PostgresJournal):
    """A journal that is only read. What schedulers write after `open` is not seen."""

    def __init__(self, place: PostgresPlace, within: Connection | None = None) -> None:
        """Name the database; `within`: a connection whose transaction is read instead, and which stays open."""
        super().__init__(place)
        self.schema = 0
        self._within = within

    def open(self) -> int:
        """Begin to read and return the epoch of the scheduler that had it last.

        Raises NotFound (JOURNAL_MISSING), Invalid (JOURNAL_CORRUPT, JOURNAL_INCOMPLETE, JOURNAL_TOO_NEW) and what
        connect raises.
        """
        self._connection = self._within or connect(self.place)
        try:
            with self._explained(self._connection) as db:
                if self._within is None:
                    db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                self.schema = check_tables(self.place, db)
                if not self.schema:
                    raise NotFound("JOURNAL_MISSING", f"journal {self.place}: there is none in there", field="journal")
                if self.schema > SCHEMA_VERSION:
                    raise too_new(self.place, self.schema, "use the newer one")
                return int(self._one(db, "SELECT number FROM nasmesh.epoch"))
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _explained(self, db: Connection) -> Iterator[Connection]:
        try:
            yield db
        except psycopg.Error as error:  # who only reads has no leadership to lose
            raise explain(self.place, error) from error

    def close(self) -> None:
        """Let the database go."""
        if self._within is not None:
            self._connection = None
        super().close()

    def check_still(self) -> None:
        """Return: what is read is one moment, whoever starts meanwhile."""

    def lacks_log(self) -> bool:
        """Return False: a database keeps its log itself."""
        return False

    def size_bytes(self) -> int:
        """Return what the journal's tables take."""
        return self._number(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'nasmesh' AND c.relkind = 'r'"
        )

    def oldest(self) -> int:
        """Return the number of the first event that is kept; one more than the last where none is."""
        return self._number("SELECT coalesce(min(sequence), 0) FROM nasmesh.event") or self._snapshot_at() + 1

    def last(self) -> int:
        """Return the number of the last event."""
        return max(self._number("SELECT coalesce(max(sequence), 0) FROM nasmesh.event"), self._snapshot_at())

    def is_whole(self) -> bool:
        """Say whether every event is kept."""
        return self.oldest() == 1

    def origin(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return where replay can begin, as JournalReader.origin does."""
        if self.is_whole():
            return 0, iter(())
        at = self._number("SELECT sequence FROM nasmesh.base_at")
        if at != self.oldest() - 1 or self._number(_LOST):
            return self.snapshot()
        return at, self._rows(_ORIGIN)

    def base(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return what compaction kept, as it is stored: a row without a body stands for the snapshot's."""
        return self._number("SELECT sequence FROM nasmesh.base_at"), self._rows(_BASE)

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Yield all answers in the order of request ids; raises Invalid (JOURNAL_CORRUPT) at a spoilt one."""
        if self.schema > 1:
            yield from super().answers()
            return
        for key, *row in self._pages(_UNCHECKED_ANSWERS, b""):
            yield request_id_of(self.place, key), Answer(*row)

    def damage(self) -> list[str]:
        """Return what is wrong with what no scheduler reads; nothing for a sound journal."""
        try:
            for _ in self.base()[1]:
                pass
            self.events_checked()
            for _ in self.answers():
                pass
        except Invalid as error:
            return [error.message]
        return []

    def events_checked(self) -> int:
        """Read every event that is kept against its checksum and return how many there are."""
        return sum(1 for _ in self.events(self.oldest() - 1))

    def _number(self, query: str) -> int:
        with self._explained(self._db()) as db:
            return int(self._one(db, query))


_BASE = "SELECT key, body, crc FROM nasmesh.base WHERE key > %s ORDER BY key LIMIT %s"
# Of schema 1, which had no checksums of them.
_UNCHECKED_ANSWERS = (
    "SELECT request_id, body_digest, reply, time_s FROM nasmesh.answer WHERE request_id > %s ORDER BY 1 LIMIT %s"
)
_LOST = """
SELECT count(*) FROM nasmesh.base b WHERE length(b.body) = 0
AND NOT EXISTS (SELECT 1 FROM nasmesh.snapshot s WHERE s.key = b.key)
"""
_ORIGIN = """
SELECT b.key, CASE WHEN length(b.body) > 0 THEN b.body ELSE s.body END,
    CASE WHEN length(b.body) > 0 THEN b.crc ELSE s.crc END
FROM nasmesh.base b LEFT JOIN nasmesh.snapshot s ON s.key = b.key WHERE b.key > %s ORDER BY b.key LIMIT %s
"""
