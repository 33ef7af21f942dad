"""The tables of the SQLite journal, how older ones become today's, and the checksum that every row carries."""

import zlib

APPLICATION_ID = 0x4E41534D  # "NASM"
SCHEMA_VERSION = 2
# Checking every page of a file larger than this would delay the start by seconds. All that the state is made of is read
# at the start, each row against its checksum; `nasmesh admin check` reads the rest.
QUICK_CHECK_BYTES = 64 * 1024 * 1024

# `base` is a second snapshot, of the moment before the oldest event that is kept; without compaction there is none. A
# row without a body is the snapshot's of the same key, which never changes once it is written.
SCHEMA = """
CREATE TABLE epoch (number INTEGER NOT NULL, open INTEGER NOT NULL DEFAULT 0);
INSERT INTO epoch VALUES (0, 0);
CREATE TABLE event (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL, crc INTEGER);
CREATE TABLE snapshot (key TEXT PRIMARY KEY, body BLOB NOT NULL, crc INTEGER);
CREATE TABLE snapshot_at (sequence INTEGER NOT NULL);
INSERT INTO snapshot_at VALUES (0);
CREATE TABLE base (key TEXT PRIMARY KEY, body BLOB NOT NULL, crc INTEGER);
CREATE TABLE base_at (sequence INTEGER NOT NULL);
INSERT INTO base_at VALUES (0);
CREATE TABLE answer (request_id TEXT PRIMARY KEY, body_digest BLOB NOT NULL, reply BLOB NOT NULL, time_s REAL NOT NULL);
CREATE INDEX answer_by_time ON answer (time_s);
"""
# What brings a journal of an older schema up to the next. Rows from before checksums have none and are not checked;
# `open` is set while a scheduler has the file: then the write-ahead log beside it must be there at the next start.
UPGRADES = {
    1: """
ALTER TABLE epoch ADD COLUMN open INTEGER NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN crc INTEGER;
ALTER TABLE snapshot ADD COLUMN crc INTEGER;
CREATE TABLE base (key TEXT PRIMARY KEY, body BLOB NOT NULL, crc INTEGER);
CREATE TABLE base_at (sequence INTEGER NOT NULL);
INSERT INTO base_at VALUES (0);
UPDATE answer SET time_s = 0;
"""
}


def event_crc(sequence: int, body: bytes) -> int:
    """Return the checksum of an event; it covers its number."""
    return zlib.crc32(body, sequence & 0xFFFFFFFF)


def row_crc(key: str, body: bytes) -> int:
    """Return the checksum of a snapshot row; it covers its key."""
    return zlib.crc32(body, zlib.crc32(key.encode()))
