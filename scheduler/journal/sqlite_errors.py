"""What errors of a journal's file mean, and what to do about them."""

import sqlite3
from pathlib import Path

from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.logs import get_logger

_log = get_logger("scheduler.journal.sqlite")
# What Python itself says of a value that is no text, or that no checksum can be made of while a journal is upgraded.
_UNREADABLE = ("Could not decode", "user-defined function")


def explain(path: Path, error: sqlite3.Error) -> NasmeshError:
    """Return what an error of SQLite means."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    is_unreadable = str(error).startswith(_UNREADABLE)  # its words would show the value
    _log.error("journal_error", path=str(path), error="unreadable value" if is_unreadable else str(error), code=code)
    if is_unreadable:
        return corrupt(path, "a value in it cannot be read")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return corrupt(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(
            "JOURNAL_FULL", f"journal {path}: no space left; free some space, work then goes on by itself"
        )
    return Unavailable("JOURNAL_IO", f"journal {path}: {error}; check disk and permissions")


def corrupt(path: Path, what: str) -> Invalid:
    """Return the refusal of a journal whose content is wrong."""
    return Invalid(
        "JOURNAL_CORRUPT",
        f"journal {path} is damaged ({what}); restore it from a backup together with its -wal file, or move"
        " it away to start with an empty one (objects in the store stay)",
        field="journal",
    )


def incomplete(path: Path) -> Invalid:
    """Return the refusal of a journal without the log of a scheduler that was killed on it."""
    return Invalid(
        "JOURNAL_INCOMPLETE",
        f"journal {path}: a scheduler was killed on it, and the file {path.name}-wal with what was"
        " acknowledged last is not beside it; put it back. If it is lost, or another program has opened the journal"
        " since and folded it in, go on with:"
        f" nasmesh admin restore {path} --journal sqlite:{path} --force",
        field="journal",
    )
