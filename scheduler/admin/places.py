"""Where a store lies, as a person names them."""

from pathlib import Path

from nasmesh.errors import NotFound, Unavailable
from nasmesh.settings import Settings
from scheduler.journal.places import Place


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


def in_use(journal: Place) -> Unavailable:
    """Return the refusal of what needs a journal for itself."""
    return Unavailable(
        "JOURNAL_LOCKED", f"journal {journal}: a scheduler uses it; stop that one first", field="journal"
    )
