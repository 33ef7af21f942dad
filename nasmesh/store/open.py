"""Opens the object store that a URL names."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nasmesh import limits
from nasmesh.errors import Invalid, Unavailable
from nasmesh.logs import get_logger
from nasmesh.settings import is_loopback, read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.cached import CachedStore
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.memory import MemoryStore
from nasmesh.store.traced import TracedStore
from nasmesh.telemetry import tracing

if TYPE_CHECKING:
    from nasmesh.store.s3 import S3Store

_log = get_logger("store")


def open_store(url: str, *, check: bool = False) -> ObjectStore:
    """Return the store at "dir:PATH", a plain "/PATH", "s3://BUCKET?endpoint=HOST:PORT", or "memory:" (new, empty).

    `check`: ask S3 whether it is there and lets us in; one that is only out of reach is warned of, as it may come back.
    Raises Invalid (STORE_URL_INVALID, STORE_CLIENT_MISSING, STORE_CREDENTIALS_MISSING, STORE_CREDENTIALS_INVALID,
    SECRET_EXPOSED) for what nobody could open, Unavailable (STORE_DOWN) where a directory cannot be made, and with
    `check` what S3Store.check raises but for STORE_DOWN.
    """
    store = _open(url, check=check)
    return TracedStore(store) if tracing.enabled() else store


def _open(url: str, *, check: bool) -> ObjectStore:
    if url == "memory:":
        return MemoryStore()
    if url.startswith("s3:"):
        return _open_s3(url, check=check)
    path = url.removeprefix("dir:") if url.startswith("dir:") else url if url.startswith("/") else ""
    if not path or path.startswith("//") or "\0" in path:
        raise Invalid(
            "STORE_URL_INVALID",
            f"store: {_shown(url)!r} is not a store; use dir:/PATH for a directory, s3://BUCKET?endpoint=HOST:PORT for "
            "S3, or memory: in tests",
            field="store",
        )
    return DirectoryStore(Path(path).expanduser().absolute())


def _shown(url: str) -> str:
    """Return a URL without what stands before an @ in it, which may be a secret."""
    head, at, tail = url.rpartition("@")
    return (f"{head.partition('://')[0]}://…@{tail}" if at else url)[:120]


def _open_s3(url: str, *, check: bool) -> ObjectStore:
    settings = read_settings()
    store = bucket_of(url)
    if check:
        try:
            store.check()
        except Unavailable as error:
            _log.warning("store_unreached", text=error.message)
    most = limits.STORE_CACHE_BYTES if settings.store_cache_bytes is None else settings.store_cache_bytes
    return CachedStore(store, settings.store_cache, most) if most and settings.store_cache else store


def bucket_of(url: str) -> "S3Store":
    """Return the bucket that an s3: URL names, without copies on this host's disk; raises what open_store documents."""
    if importlib.util.find_spec("minio") is None:
        raise Invalid(
            "STORE_CLIENT_MISSING", "store: S3 needs the package minio; pip install 'nasmesh[s3]'", field="store"
        )
    from nasmesh.store.s3 import S3Store
    from nasmesh.store.s3_calls import Calls
    from nasmesh.store.s3_place import Keys, parse_place

    place = parse_place(url)
    if not place.secure and not is_loopback(urlsplit(place.root).hostname or ""):
        _log.warning("store_in_plain_text", advice="secure=0: whoever is on the way reads and changes what is stored")
    return S3Store(Calls(place, Keys(read_settings().store_credentials)))
