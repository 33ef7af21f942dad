"""Brings the tables of a SQLite journal of an older schema up to today's, each step in one transaction."""

import sqlite3
from typing import Any

from scheduler.journal.answers import answer_crc
from scheduler.journal.base import Answer
from scheduler.journal.schema import SCHEMA_VERSION, event_crc, row_crc

# From a schema to the next. 1: `open` is set while a scheduler has the file: then the write-ahead log beside it must be
# there at the next start. 2: answers got checksums, and so do the events and rows from before there were any.
UPGRADES = {
    1: """
ALTER TABLE epoch ADD COLUMN open INTEGER NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN crc INTEGER;
ALTER TABLE snapshot ADD COLUMN crc INTEGER;
CREATE TABLE base (key TEXT PRIMARY KEY, body BLOB NOT NULL, crc INTEGER);
CREATE TABLE base_at (sequence INTEGER NOT NULL);
INSERT INTO base_at VALUES (0);
UPDATE answer SET time_s = 0;
""",
    2: """
UPDATE event SET crc = event_crc(sequence, CAST(body AS BLOB)) WHERE crc IS NULL;
UPDATE snapshot SET crc = row_crc(CAST(key AS BLOB), CAST(body AS BLOB)) WHERE crc IS NULL;
ALTER TABLE answer RENAME TO answer_2;
CREATE TABLE answer (
    request_id TEXT PRIMARY KEY, body_digest BLOB NOT NULL, reply BLOB NOT NULL, time_s REAL NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO answer SELECT request_id, body_digest, reply, time_s, answer_crc(
    CAST(request_id AS BLOB), CAST(body_digest AS BLOB), CAST(reply AS BLOB), CAST(time_s AS REAL)
) FROM answer_2;
DROP TABLE answer_2;
""",
}


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Bring a journal of schema `version` up to today's; the connection is in no transaction. Raises sqlite3.Error."""
    if version == SCHEMA_VERSION:
        return
    db.create_function("event_crc", 2, event_crc)
    db.create_function("row_crc", 2, _row_crc)
    db.create_function("answer_crc", 4, _answer_crc)
    for older in range(version, SCHEMA_VERSION):
        db.executescript(f"BEGIN IMMEDIATE; {UPGRADES[older]} PRAGMA user_version = {older + 1}; COMMIT;")


def _row_crc(key: bytes, body: bytes) -> int:
    return row_crc(key.decode(errors="replace"), body)


def _answer_crc(request_id: bytes, *answer: Any) -> int:
    return answer_crc(request_id.decode(), Answer(*answer))
