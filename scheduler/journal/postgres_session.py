"""Connections to the journal's database, and what its errors mean. Nothing of ours is written here."""

import contextlib
from typing import Any, TypeAlias

import psycopg
from psycopg import errors as pg

from nasmesh.errors import Denied, Invalid, NasmeshError, Stale, Unavailable
from nasmesh.logs import get_logger
from scheduler.journal import postgres_arrays
from scheduler.journal.postgres_schema import SCHEMA_VERSION, STALE, TABLES
from scheduler.journal.postgres_url import PostgresPlace

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
# What the server says of itself that tells whether an acknowledged batch survives a power cut there.
_UNSAFE = {"fsync": "off", "full_page_writes": "off"}

_log = get_logger("journal")


def connect(place: PostgresPlace) -> Connection:
    """Return a connection on which each statement is a transaction of its own, durable when it returns.

    Raises Unavailable (JOURNAL_IO), Denied (JOURNAL_DENIED), Invalid (JOURNAL_URL_INVALID).
    """
    try:
        db = psycopg.connect(**place.parameters, autocommit=True)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise _no_connection(place, error) from error
    postgres_arrays.register(db)
    try:
        # A database may be set to tell of commits that are not on its disk yet.
        db.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE"
            " current_setting('synchronous_commit') IN ('off', 'local')"
        )
        if _setting(db, "server_encoding") != "UTF8":
            raise Invalid(
                "JOURNAL_ENCODING",
                f"{_named(place)}: its encoding is not UTF8; create it with"
                f" CREATE DATABASE \"{place.database}\" ENCODING 'UTF8' TEMPLATE template0",
                field="journal",
            )
    except psycopg.Error as error:
        db.close()
        raise explain(place, error) from error
    except NasmeshError:
        db.close()
        raise
    return db


def unlock(db: Connection) -> None:
    """Have the lock of a connection free when this returns: once it is closed, the server does that in its own time."""
    with contextlib.suppress(psycopg.Error):
        db.execute("SELECT pg_advisory_unlock_all()")


def warn(place: PostgresPlace, db: Connection) -> None:
    """Say in the log what makes a journal less safe than it could be."""
    if place.unverified:
        _log.warning("journal_unverified", journal=place.shown, advice="sslmode=verify-full tells who answers there")
    for name, wrong in _UNSAFE.items():
        if _setting(db, name) == wrong:
            _log.warning("journal_unsafe", journal=place.shown, setting=name, value=wrong)


def check_tables(place: PostgresPlace, db: Connection) -> int:
    """Return the version of the tables, 0 where there are none and may be some.

    Raises Invalid (JOURNAL_CORRUPT: a database of something else, or a version that never was; JOURNAL_INCOMPLETE: some
    tables are missing).
    """
    found = {str(row[0]) for row in db.execute(_TABLES_OF_OURS)}
    if not found:
        other = db.execute(_TABLES_OF_OTHERS).fetchone()
        if other is not None:
            raise Invalid(
                "JOURNAL_CORRUPT",
                f"{_named(place)}: it is a database of something else (it has a table {str(other[0])[:80]}); give the"
                " journal one of its own: CREATE DATABASE nasmesh",
                field="journal",
            )
        return 0
    missing = sorted(TABLES - found)
    version = None if "journal" in missing else db.execute("SELECT version FROM nasmesh.journal").fetchone()
    if version is None or (missing and version[0] <= SCHEMA_VERSION):
        raise incomplete(place, f"table {missing[0]} is missing" if missing else "it does not say its version")
    if version[0] < 1:
        raise corrupt(place, f"it has schema {version[0]}, which never was")
    return int(version[0])


def incomplete(place: PostgresPlace, what: str) -> Invalid:
    """Return the refusal of a journal of which a part is there."""
    return Invalid(
        "JOURNAL_INCOMPLETE",
        f"{_named(place)} is not whole ({what}): a copy that nasmesh did not make broke off; drop it with"
        " DROP SCHEMA nasmesh CASCADE, then migrate or restore again",
        field="journal",
    )


def corrupt(place: PostgresPlace, what: str) -> Invalid:
    """Return the refusal of a journal whose content is wrong."""
    return Invalid(
        "JOURNAL_CORRUPT",
        f"{_named(place)} is damaged ({what}); restore it from a backup with nasmesh admin restore (objects"
        " in the store stay)",
        field="journal",
    )


def too_new(place: PostgresPlace, version: int, way_out: str) -> Invalid:
    """Return the refusal of a journal that a later version of ours has written."""
    return Invalid(
        "JOURNAL_TOO_NEW",
        f"{_named(place)}: written by a newer nasmesh (schema {version}, this one knows {SCHEMA_VERSION}); {way_out}",
        field="journal",
    )


def request_id_of(place: PostgresPlace, key: bytes) -> str:
    """Return the request id of an answer's row; raises Invalid (JOURNAL_CORRUPT) where it is no text."""
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise corrupt(place, f"request id {key[:80]!r} of an answer is no text") from error


def stale(place: PostgresPlace, why: str) -> Stale:
    """Return why a scheduler is no longer the leader. It stops: another may be."""
    return Stale(
        "LEADERSHIP_LOST", f"{_named(place)}: {why}; this scheduler stops, and the next one reads what is there"
    )


def explain(place: PostgresPlace, error: psycopg.Error, db: Connection | None = None) -> NasmeshError:
    """Return what an error of a statement means; `db`: of a leader, which stops when it is gone.

    What it sent last may have been done.
    """
    state = error.sqlstate or ""
    if state == STALE:
        found = (error.diag.message_primary or "").removeprefix("epoch ")
        return Stale("EPOCH_STALE", f"{_named(place)}: epoch {found} has taken over")
    if db is not None and db.closed:
        _log.error("journal_connection_lost", journal=place.shown, error=_first_line(error))
        return stale(place, "the connection was lost, and with it whether the last batch was written")
    _log.error("journal_error", journal=place.shown, error=_first_line(error), code=state)
    if isinstance(error, pg.DiskFull):
        return Unavailable(
            "JOURNAL_FULL", f"{_named(place)}: no space left there; free some space, work then goes on by itself"
        )
    if isinstance(error, pg.InsufficientPrivilege):
        return Denied(
            "JOURNAL_DENIED",
            f"{_named(place)}: its user may not do this ({_first_line(error)}); make it the owner:"
            f' ALTER DATABASE "{place.database}" OWNER TO … ',
            field="journal",
        )
    if isinstance(error, pg.LockNotAvailable):
        return locked(place)
    if isinstance(error, pg.DataCorrupted | pg.IndexCorrupted):
        return corrupt(place, _first_line(error))
    return Unavailable("JOURNAL_IO", f"{_named(place)}: {_first_line(error)}; see the log of PostgreSQL")


def locked(place: PostgresPlace) -> Unavailable:
    """Return the refusal of who wants to lead while another does."""
    return Unavailable(
        "JOURNAL_LOCKED",
        f"{_named(place)}: another scheduler uses it; stop that one, or start this one with --standby",
        field="journal",
    )


def _no_connection(place: PostgresPlace, error: psycopg.Error) -> NasmeshError:
    text = _first_line(error)
    missing = getattr(error.pgconn, "needs_password", False)
    if missing or "password authentication failed" in text or "no password supplied" in text:
        what = "no password for it was found" if missing or "supplied" in text else "its password is refused"
        return Denied(
            "JOURNAL_DENIED",
            f"{_named(place)}: {what}; the file that passfile=FILE names (mode 0600) needs a line"
            " HOST:PORT:DATABASE:USER:PASSWORD that matches",
            field="journal",
        )
    if "pg_hba.conf" in text or ("role " in text and "does not exist" in text):
        return Denied("JOURNAL_DENIED", f"{_named(place)}: this user is not let in: {text}", field="journal")
    if "database " in text and "does not exist" in text:
        return Invalid(
            "JOURNAL_DATABASE_MISSING",
            f'{_named(place)}: there is no such database; CREATE DATABASE "{place.database}" there first',
            field="journal",
        )
    if "certificate" in text or "SSL" in text or "root.crt" in text:
        return Denied(
            "JOURNAL_UNTRUSTED",
            f"{_named(place)}: {text}; name the authority of its certificate with sslrootcert=FILE, or choose another"
            " sslmode by hand",
            field="journal",
        )
    return Unavailable(
        "JOURNAL_IO", f"{_named(place)}: nobody answers there: {text}; check host, port and firewall", field="journal"
    )


def _named(place: PostgresPlace) -> str:
    return f"journal {place.shown}"


def _first_line(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _setting(db: Connection, name: str) -> str:
    found = db.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return str(found[0]) if found else ""


_TABLES_OF_OURS = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'nasmesh' AND c.relkind IN ('r', 'p')
"""
# What extensions brought is nobody's data, and journals that a restore has kept aside are ours.
_TABLES_OF_OTHERS = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('nasmesh', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
AND n.nspname NOT LIKE 'nasmesh\\_before\\_%'
AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1 LIMIT 1
"""
