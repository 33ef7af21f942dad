"""All that a journal holds, whatever keeps it: as one digest, and written to a file of SQLite."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from scheduler.journal.answers import answer_crc
from scheduler.journal.base import Reader
from scheduler.journal.inserting import insert
from scheduler.journal.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, event_crc, row_crc

# Rows in hand at once.
CHUNK = 1000

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Digest:
    """What a journal holds, counted, and the SHA-256 of all of it: every row that is kept, but for the epoch."""

    events: int
    rows: int
    answers: int
    sha256: str


def digest(reader: Reader) -> Digest:
    """Read a journal whole; raises what its reader raises."""
    told = hashlib.sha256()
    events = rows = answers = 0

    def add(*parts: bytes) -> None:
        for part in parts:
            told.update(len(part).to_bytes(8, "big") + part)

    for sequence, body in reader.events(reader.oldest() - 1):
        add(b"event", str(sequence).encode(), body)
        events += 1
    for table, (at, found) in ((b"snapshot", reader.snapshot()), (b"base", reader.base())):
        add(table, str(at).encode())
        for key, body in found:
            add(key.encode(), body)
            rows += 1
    for request_id, answer in reader.answers():
        add(b"answer", request_id.encode(), answer.body_digest, answer.reply, float(answer.time_s).hex().encode())
        answers += 1
    return Digest(events, rows, answers, told.hexdigest())


def write_file(reader: Reader, epoch: int, part: Path) -> None:
    """Write what a reader sees to a new file of SQLite, at rest; raises sqlite3.Error."""
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for events in chunks(reader.events(reader.oldest() - 1)):
            insert(db, "INSERT INTO event", [(n, body, event_crc(n, body)) for n, body in events])
        at, found = reader.snapshot()
        _write_rows(db, "snapshot", found)
        base_at, base = reader.base()
        _write_rows(db, "base", base)
        for answers in chunks(reader.answers()):
            rows = [(key, a.body_digest, a.reply, a.time_s, answer_crc(key, a)) for key, a in answers]
            insert(db, "INSERT INTO answer", rows)
        db.execute("UPDATE snapshot_at SET sequence = ?", (at,))
        db.execute("UPDATE base_at SET sequence = ?", (base_at,))
        db.execute("UPDATE epoch SET number = ?, open = 0", (epoch,))
        db.execute("COMMIT")


def chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yield rows many at a time."""
    while found := list(islice(rows, CHUNK)):
        yield found


def _write_rows(db: sqlite3.Connection, table: str, found: Iterator[tuple[str, bytes]]) -> None:
    for rows in chunks(found):
        insert(db, f"INSERT INTO {table}", [(key, body, row_crc(key, body)) for key, body in rows])
