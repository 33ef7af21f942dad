"""Where a journal and a store lie, as a person names them."""

from pathlib import Path

from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.settings import Settings


def journal_path(url: str) -> Path:
    """Return the file of "sqlite:PATH" or a plain path; raises Invalid (JOURNAL_URL_INVALID)."""
    kind, colon, path = url.partition(":")
    if colon and kind == "sqlite" and path:
        return Path(path).expanduser().absolute()
    if url in ("", "memory:") or colon:
        raise Invalid("JOURNAL_URL_INVALID", f"journal: {url[:120]!r} is no file; use sqlite:PATH", field="journal")
    return Path(url).expanduser().absolute()


def existing(store: str) -> str:
    """Return the URL of a store or of a plain path; raises NotFound (STORE_MISSING): an empty one is never made."""
    kind, colon, path = store.partition(":")
    if colon and kind != "dir":
        return store  # whoever opens it says what is wrong with it
    folder = Path(path if colon else store).expanduser().absolute()
    if not folder.is_dir():
        raise NotFound("STORE_MISSING", f"store: there is no directory {str(folder)[:200]}", field="store")
    return f"dir:{folder}"


def store_beside(given: str, settings: Settings) -> str:
    """Return the store for objects that no proposal makes: the one given, or ours; none where that is not there."""
    if given:
        return existing(given)
    try:
        return existing(settings.store)
    except NotFound:
        return ""


def in_use(journal: Path) -> Unavailable:
    """Return the refusal of what needs a journal for itself."""
    return Unavailable(
        "JOURNAL_LOCKED", f"journal {journal}: a scheduler uses it; stop that one first", field="journal"
    )
