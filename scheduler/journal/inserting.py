"""Inserts many rows with few statements.

Python's sqlite3 lets the interpreter's lock go for every statement and asks for it again after it: a thread that writes
beside a busy event loop would wait for the lock after each row.
"""

import sqlite3
from collections.abc import Sequence
from functools import cache

# Rows in one statement; the largest has fewer values than SQLite takes (32,766, before 3.32: 999).
_SIZES = (64, 8, 1)


def insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert rows of equally many values; `into`: the statement up to its values, "INSERT INTO table"."""
    done = 0
    for size in _SIZES:
        while len(rows) - done >= size:
            part = rows[done : done + size]
            db.execute(_statement(into, size, len(part[0])), [value for row in part for value in row])
            done += size


@cache
def _statement(into: str, rows: int, values: int) -> str:
    row = f"({', '.join('?' * values)})"
    return f"{into} VALUES {', '.join([row] * rows)}"
