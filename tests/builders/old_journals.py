"""Journals of older schemas, put where a scheduler of today finds them."""

from pathlib import Path

import psycopg

from scheduler.journal.postgres_url import PostgresPlace, parse

ASSETS = Path(__file__).parents[1] / "assets"


def restored_database(url: str, dump: Path) -> PostgresPlace:
    """Put what pg_dump has written into an empty database."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(dump.read_bytes())
    return parse(url)
