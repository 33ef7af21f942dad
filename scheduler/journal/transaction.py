"""One transaction on the journal's file."""

import sqlite3
from contextlib import closing


class Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any error, so that nothing is half applied."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Use a connection that is in no transaction."""
        self._db = db

    def __enter__(self) -> sqlite3.Connection:
        """Begin, with the right to write."""
        self._db.execute("BEGIN IMMEDIATE")
        return self._db

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Commit, or undo."""
        if kind is None:
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self._rollback()
                raise
        else:
            self._rollback()

    def _rollback(self) -> None:
        if self._db.in_transaction:
            with closing(self._db.cursor()) as cursor:
                cursor.execute("ROLLBACK")
