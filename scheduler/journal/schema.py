"""The tables of the SQLite journal, and the checksums that the rows of events and of the state carry."""

import zlib

APPLICATION_ID = 0x4E41534D  # "NASM"
SCHEMA_VERSION = 3
# Checking every page of a file larger than this would delay the start by seconds. All that the state is made of is read
# at the start, each row against its checksum; `nasmesh admin check` reads the rest.
QUICK_CHECK_BYTES = 64 * 1024 * 1024

# `base` is a second snapshot, of the moment before the oldest event that is kept; without compaction there is none. A
# row without a body is the snapshot's of the same key, which never changes once it is written. Answers have no index
# beside their table: it would hold copies of request ids and times that no checksum covers.
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
CREATE TABLE answer (
    request_id TEXT PRIMARY KEY, body_digest BLOB NOT NULL, reply BLOB NOT NULL, time_s REAL NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
"""


def event_crc(sequence: int, body: bytes) -> int:
    """Return the checksum of an event; it covers its number."""
    return zlib.crc32(body, sequence & 0xFFFFFFFF)


def row_crc(key: str, body: bytes) -> int:
    """Return the checksum of a snapshot row; it covers its key."""
    return zlib.crc32(body, zlib.crc32(key.encode()))
