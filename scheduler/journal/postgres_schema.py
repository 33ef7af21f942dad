"""The tables of the journal in PostgreSQL, and the two functions that write them: one round trip a batch."""

SCHEMA_VERSION = 2
# Both numbers of the advisory lock that the leader holds; the first is "NASM" as in the file of SQLite.
LOCK = (0x4E41534D, 1)

# Keys are bytes: text here knows no NUL, and sorts by the database's language.
# `base` is as in scheduler.journal.schema: a row without a body is the snapshot's of the same key.
SCHEMA = """
CREATE SCHEMA nasmesh;
CREATE TABLE nasmesh.journal (version integer NOT NULL);
INSERT INTO nasmesh.journal VALUES (2);
CREATE TABLE nasmesh.epoch (number bigint NOT NULL);
INSERT INTO nasmesh.epoch VALUES (0);
CREATE TABLE nasmesh.event (sequence bigint PRIMARY KEY, body bytea NOT NULL, crc bigint NOT NULL);
CREATE TABLE nasmesh.snapshot (key bytea PRIMARY KEY, body bytea NOT NULL, crc bigint NOT NULL);
CREATE TABLE nasmesh.snapshot_at (sequence bigint NOT NULL);
INSERT INTO nasmesh.snapshot_at VALUES (0);
CREATE TABLE nasmesh.base (key bytea PRIMARY KEY, body bytea NOT NULL, crc bigint NOT NULL);
CREATE TABLE nasmesh.base_at (sequence bigint NOT NULL);
INSERT INTO nasmesh.base_at VALUES (0);
CREATE TABLE nasmesh.answer (
    request_id bytea PRIMARY KEY, body_digest bytea NOT NULL, reply bytea NOT NULL, time_s double precision NOT NULL,
    crc bigint NOT NULL
);
CREATE INDEX answer_by_time ON nasmesh.answer (time_s);
"""
TABLES = frozenset(("journal", "epoch", "event", "snapshot", "snapshot_at", "base", "base_at", "answer"))

# The fence and the batch in one statement, which PostgreSQL does whole or not at all. The fence locks the epoch's row
# until the end: who takes over waits for a batch in flight, and no batch begins after that. Called by no other program
# and made anew by every leader, so that they are always those of its own version.
FUNCTIONS = """
CREATE OR REPLACE FUNCTION nasmesh.fence(expected bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE found bigint;
BEGIN
    SELECT number INTO found FROM nasmesh.epoch FOR SHARE;
    IF found IS DISTINCT FROM expected THEN
        RAISE EXCEPTION 'epoch %', coalesce(found, -1) USING ERRCODE = 'NM001';
    END IF;
END $$;
CREATE OR REPLACE FUNCTION nasmesh.append(
    expected bigint, first bigint, bodies bytea[], crcs bigint[],
    keys bytea[], rows bytea[], row_crcs bigint[], gone bytea[], at bigint,
    requests bytea[], digests bytea[], replies bytea[], times double precision[], answer_crcs bigint[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nasmesh.fence(expected);
    IF cardinality(bodies) > 0 THEN
        INSERT INTO nasmesh.event
            SELECT first + n - 1, body, crc FROM unnest(bodies, crcs) WITH ORDINALITY AS e (body, crc, n);
    END IF;
    IF cardinality(requests) > 0 THEN
        INSERT INTO nasmesh.answer SELECT * FROM unnest(requests, digests, replies, times, answer_crcs);
    END IF;
    IF cardinality(keys) > 0 THEN
        INSERT INTO nasmesh.snapshot SELECT * FROM unnest(keys, rows, row_crcs)
            ON CONFLICT (key) DO UPDATE SET body = excluded.body, crc = excluded.crc;
    END IF;
    IF cardinality(gone) > 0 THEN
        DELETE FROM nasmesh.snapshot WHERE key = ANY (gone);
    END IF;
    IF at > 0 THEN
        UPDATE nasmesh.snapshot_at SET sequence = at;
    END IF;
END $$;
"""
STALE = "NM001"
APPEND = (
    "SELECT nasmesh.append(%s::bigint, %s::bigint, %s, %s, %s, %s, %s, %s, %s::bigint, %s, %s, %s, %s::float8[], %s)"
)
# Some rows after a key.
EVENTS = "SELECT sequence, body, crc FROM nasmesh.event WHERE sequence > %s ORDER BY sequence LIMIT %s"
SNAPSHOT = "SELECT key, body, crc FROM nasmesh.snapshot WHERE key > %s ORDER BY key LIMIT %s"
ANSWERS = (
    "SELECT request_id, body_digest, reply, time_s, crc FROM nasmesh.answer WHERE request_id > %s ORDER BY 1 LIMIT %s"
)
