"""Puts a whole journal into a database: in one transaction, so that there is all of it or nothing."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import psycopg
from psycopg import sql

from nasmesh.errors import Conflict
from scheduler.journal.answers import answer_crc
from scheduler.journal.base import Reader
from scheduler.journal.postgres_reading import PostgresReader
from scheduler.journal.postgres_schema import FUNCTIONS, LOCK, SCHEMA
from scheduler.journal.postgres_session import Connection, check_tables, connect, explain, locked, unlock
from scheduler.journal.postgres_url import PostgresPlace
from scheduler.journal.schema import event_crc, row_crc

Found = TypeVar("Found")


class Filled(NamedTuple):
    """What was put: the epoch that the database now has, and where the journal that was there is, if one was."""

    epoch: int
    aside: str


@contextlib.contextmanager
def led(place: PostgresPlace) -> Iterator[Connection]:
    """Hold the lock of the leader within the block, so that no scheduler starts; raises Unavailable."""
    db = connect(place)
    try:
        with _explained(place):
            found = db.execute("SELECT pg_try_advisory_lock(%s, %s)", LOCK).fetchone()
        if found is None or not found[0]:
            raise locked(place)
        yield db
    finally:
        unlock(db)
        db.close()


def fill(
    place: PostgresPlace,
    reader: Reader,
    epoch_of: Callable[[int], int],
    *,
    force: bool,
    check: Callable[[Reader], Found],
) -> tuple[Filled, Found]:
    """Put what a reader sees into a database; returns what that says, and what `check` says of it before it is kept.

    `epoch_of`: from the epoch of the journal that is there (0: none) to the new one. With `force` a journal that is
    there is kept aside, in a schema of another name. Raises Conflict (JOURNAL_EXISTS), Unavailable (JOURNAL_LOCKED,
    JOURNAL_IO), Invalid (JOURNAL_CORRUPT, JOURNAL_INCOMPLETE) and what `check` raises; then nothing was put.
    """
    with led(place) as db, _explained(place), db.transaction():
        known, aside = 0, ""
        if check_tables(place, db):
            if not force:
                raise Conflict(
                    "JOURNAL_EXISTS",
                    f"journal {place} exists; --force of nasmesh admin restore puts another in its place and keeps it"
                    " aside",
                    field="journal",
                )
            found = db.execute("SELECT max(number) FROM nasmesh.epoch").fetchone()
            known = int(found[0]) if found and found[0] is not None else 0
            aside = _put_aside(db)
        db.execute(SCHEMA)
        epoch = epoch_of(known)
        _copy(db, reader, epoch)
        db.execute(FUNCTIONS)
        with contextlib.closing(PostgresReader(place, within=db)) as written:
            written.open()
            checked = check(written)
    return Filled(epoch, aside), checked


def _copy(db: Connection, reader: Reader, epoch: int) -> None:
    _load(db, "event", ((n, body, event_crc(n, body)) for n, body in reader.events(reader.oldest() - 1)))
    at, rows = reader.snapshot()
    _load(db, "snapshot", ((key.encode(), body, row_crc(key, body)) for key, body in rows))
    base_at, base = reader.base()
    _load(db, "base", ((key.encode(), body, row_crc(key, body)) for key, body in base))
    answers = ((k.encode(), a.body_digest, a.reply, float(a.time_s), answer_crc(k, a)) for k, a in reader.answers())
    _load(db, "answer", answers)
    db.execute("UPDATE nasmesh.snapshot_at SET sequence = %s", (at,))
    db.execute("UPDATE nasmesh.base_at SET sequence = %s", (base_at,))
    db.execute("UPDATE nasmesh.epoch SET number = %s", (epoch,))


_TYPES = {
    "event": ("int8", "bytea", "int8"),
    "snapshot": ("bytea", "bytea", "int8"),
    "base": ("bytea", "bytea", "int8"),
    "answer": ("bytea", "bytea", "bytea", "float8", "int8"),
}


def _load(db: Connection, table: str, rows: Iterable[tuple[object, ...]]) -> None:
    query = sql.SQL("COPY nasmesh.{} FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table))
    with db.cursor() as cursor, cursor.copy(query) as copy:
        copy.set_types(_TYPES[table])
        for row in rows:
            copy.write_row(row)


def _put_aside(db: Connection) -> str:
    """Give the schema of a journal another name, and return that."""
    taken = {str(row[0]) for row in db.execute("SELECT nspname FROM pg_namespace")}
    name = next(f"nasmesh_before_{n}" for n in range(1, 1_000_000) if f"nasmesh_before_{n}" not in taken)
    db.execute(sql.SQL("ALTER SCHEMA nasmesh RENAME TO {}").format(sql.Identifier(name)))
    return name


@contextlib.contextmanager
def _explained(place: PostgresPlace) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise explain(place, error) from error
