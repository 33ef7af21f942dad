"""Brings the tables in PostgreSQL of an older schema up to today's, within one transaction."""

from scheduler.journal.answers import answer_crc
from scheduler.journal.base import Answer
from scheduler.journal.postgres_arrays import bigint_array, bytea_array
from scheduler.journal.postgres_schema import SCHEMA_VERSION
from scheduler.journal.postgres_session import Connection, request_id_of
from scheduler.journal.postgres_url import PostgresPlace

# Answers in hand at once.
_ROWS = 2000


def upgrade(place: PostgresPlace, db: Connection, version: int) -> None:
    """Bring a journal of schema `version` up to today's; the connection is in a transaction, and holds the lock.

    Raises Invalid (JOURNAL_CORRUPT), psycopg.Error.
    """
    if version == SCHEMA_VERSION:
        return
    # A batch of the leader before may be in flight. It is waited for, and none begins after it: its function is gone.
    db.execute("LOCK TABLE nasmesh.epoch IN EXCLUSIVE MODE")
    db.execute(_OLD_APPEND)
    db.execute("ALTER TABLE nasmesh.answer ADD COLUMN crc bigint")
    _sum_up(place, db)
    db.execute("ALTER TABLE nasmesh.answer ALTER COLUMN crc SET NOT NULL")
    db.execute("UPDATE nasmesh.journal SET version = %s", (SCHEMA_VERSION,))


def _sum_up(place: PostgresPlace, db: Connection) -> None:
    """Give every answer its checksum, which PostgreSQL itself can compute from version 18 on only."""
    with db.cursor("answers") as cursor:
        cursor.execute("SELECT request_id, body_digest, reply, time_s FROM nasmesh.answer", binary=True)
        while rows := cursor.fetchmany(_ROWS):
            sums = [answer_crc(request_id_of(place, key), Answer(*row)) for key, *row in rows]
            db.execute(_SET, (bytea_array([row[0] for row in rows]), bigint_array(sums)), binary=True)


_SET = """
UPDATE nasmesh.answer a SET crc = found.crc FROM unnest(%s, %s) AS found (request_id, crc)
WHERE a.request_id = found.request_id
"""
_OLD_APPEND = """
DROP FUNCTION IF EXISTS nasmesh.append(
    bigint, bigint, bytea[], bigint[], bytea[], bytea[], bigint[], bytea[], bigint,
    bytea[], bytea[], bytea[], double precision[]
)
"""
