"""Opens the object store that a URL names."""

from pathlib import Path

from nasmesh.errors import Invalid
from nasmesh.store.base import ObjectStore
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.memory import MemoryStore
from nasmesh.store.traced import TracedStore
from nasmesh.telemetry import tracing


def open_store(url: str) -> ObjectStore:
    """Return the store at "dir:PATH", a plain "/PATH", or "memory:" (a new, empty one).

    Raises Invalid (STORE_URL_INVALID) for anything else, Unavailable (STORE_DOWN) where the directory cannot be made.
    """
    store = _open(url)
    return TracedStore(store) if tracing.enabled() else store


def _open(url: str) -> ObjectStore:
    if url == "memory:":
        return MemoryStore()
    path = url.removeprefix("dir:") if url.startswith("dir:") else url if url.startswith("/") else ""
    if not path or path.startswith("//") or "\0" in path:
        raise Invalid(
            "STORE_URL_INVALID",
            f"store: {url[:120]!r} is not a store; use dir:/PATH for a directory, or memory: in tests",
            field="store",
        )
    return DirectoryStore(Path(path).expanduser().absolute())
