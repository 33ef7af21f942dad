"""Where a journal is, as its URL says, and what reads or writes it there."""

from pathlib import Path
from typing import Protocol, TypeAlias

from nasmesh.errors import Invalid
from scheduler.journal.base import Journal, Reader
from scheduler.journal.memory import MemoryJournal
from scheduler.journal.postgres_url import PostgresPlace, is_postgres, parse
from scheduler.journal.reading import JournalReader
from scheduler.journal.sqlite import SqliteJournal

Place: TypeAlias = Path | PostgresPlace


class StoredJournal(Journal, Protocol):
    """A journal that outlives its process."""

    def compact(self, through: int, base: dict[str, bytes]) -> None:
        """Drop the events up to a sequence number, which the snapshot must cover; see SqliteJournal.compact."""
        ...


def place_of(url: str) -> Place:
    """Return the place that "sqlite:PATH", a plain path or "postgresql://…" names; raises Invalid (JOURNAL_URL_…)."""
    if is_postgres(url):
        return parse(url)
    kind, colon, path = url.partition(":")
    if colon and kind == "sqlite" and path:
        return Path(path).expanduser().absolute()
    if url in ("", "memory:") or colon:
        raise Invalid(
            "JOURNAL_URL_INVALID",
            f"journal: {_shown(url)} is kept nowhere; use sqlite:PATH or postgresql://…",
            field="journal",
        )
    return Path(url).expanduser().absolute()


def reader_of(place: Place) -> Reader:
    """Return what reads a journal, not opened yet."""
    if isinstance(place, Path):
        return JournalReader(place)
    from scheduler.journal.postgres_reading import PostgresReader  # here: the driver is for those who have a database

    return PostgresReader(place)


def journal_of(place: Place) -> StoredJournal:
    """Return the journal itself, not opened yet."""
    if isinstance(place, Path):
        return SqliteJournal(place)
    from scheduler.journal.postgres import PostgresJournal

    return PostgresJournal(place)


def _shown(url: str) -> str:
    """Return what may be told of a URL that is none of ours: there may be a password in it."""
    return repr(url[:120] if "@" not in url else f"{url.partition(':')[0][:20]}:…")


def journal_at(url: str) -> Journal:
    """Return the journal at a place (place_of) or at "memory:"; raises Invalid (JOURNAL_URL_…)."""
    return MemoryJournal() if url == "memory:" else journal_of(place_of(url))
