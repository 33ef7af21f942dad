"""A store read through copies on this host's disk, which share a bound of bytes: those unread longest go first.

A copy is as good as what names it: each read verifies the digest, and a damaged copy is fetched anew. Copies are not
synced; what a power cut tears is found by its digest.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nasmesh.clock import new_id
from nasmesh.errors import Invalid
from nasmesh.logs import get_logger
from nasmesh.store.base import ObjectStore, Stored
from nasmesh.store.keys import ObjectKind, check_content, check_ref
from nasmesh.v1 import object_pb2 as pb

_TOTAL, _LOCK = ".bytes", ".lock"
_FULL = 0.9
"""How full it is left when room has to be made, so that not every copy has to make some."""
_log = get_logger("cache")


class CachedStore:
    """Wraps a store whose objects never change. Several processes may share the directory."""

    def __init__(self, store: ObjectStore, directory: Path, most_bytes: int) -> None:
        """Keep copies of at most so many bytes; where the directory cannot be used, the store is read every time."""
        self._store = store
        self._directory = directory
        self._most = most_bytes

    @property
    def kind_name(self) -> str:
        """The store's."""
        return self._store.kind_name

    def put(self, kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> pb.ObjectRef:
        """Keep the bytes in the store; see ObjectStore.put."""
        return self._store.put(kind, content, extension=extension)

    def get(self, ref: pb.ObjectRef) -> bytes:
        """Return the verified bytes, from this host where it has them; see ObjectStore.get."""
        check_ref(ref, field="object")
        content = self._copy(ref)
        if content is None:
            content = self._store.get(ref)
            if len(content) <= self._most:
                self._keep(ref, content)
        return content

    def exists(self, ref: pb.ObjectRef) -> bool:
        """Say whether the store has the object; see ObjectStore.exists."""
        return self._store.exists(ref)

    def objects(self) -> Iterator[Stored]:
        """Yield every object of the store; see ObjectStore.objects."""
        return self._store.objects()

    def delete(self, key: str, *, min_age_s: float) -> bool:
        """Delete an object of the store, and the copy here; see ObjectStore.delete."""
        gone = self._store.delete(key, min_age_s=min_age_s)
        if gone:
            with suppress(OSError):
                self._drop(self._directory / key)
        return gone

    def location(self, ref: pb.ObjectRef) -> str:
        """Return where the store has it, for people."""
        return self._store.location(ref)

    def link(self, ref: pb.ObjectRef, *, seconds: int) -> str:
        """Return the store's address of an object; see ObjectStore.link."""
        return self._store.link(ref, seconds=seconds)

    def _copy(self, ref: pb.ObjectRef) -> bytes | None:
        """Return a copy that is here and whole; drops one that is damaged."""
        path = self._directory / ref.key
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                content = file.read(ref.size_bytes + 1)
            os.utime(path)
            return check_content(ref, content)
        except OSError:
            return None
        except Invalid:
            _log.warning("copy_damaged", key=ref.key)
            with suppress(OSError):
                self._drop(path)
            return None

    def _keep(self, ref: pb.ObjectRef, content: bytes) -> None:
        """Keep a copy, having made room; where that fails the caller has its bytes all the same."""
        path = self._directory / ref.key
        aside = self._directory / f".{new_id()}"
        try:
            with self._locked():
                held = self._held()
                if held + len(content) > self._most:
                    held = self._make_room(len(content))
                path.parent.mkdir(parents=True, exist_ok=True)
                before = path.stat().st_size if path.exists() else 0
                aside.write_bytes(content)
                os.replace(aside, path)
                self._note(held + len(content) - before)
        except OSError as error:
            _log.warning(
                "copy_not_kept", error=errno.errorcode.get(error.errno or 0, "EIO"), folder=str(self._directory)
            )
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    def _drop(self, path: Path) -> None:
        with self._locked():
            held, size = self._held(), path.stat().st_size
            path.unlink()
            self._note(max(0, held - size))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one thread of one process at a time change what is kept."""
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _held(self) -> int:
        """Return how many bytes are kept: as noted, counted where nobody has noted it."""
        try:
            return int((self._directory / _TOTAL).read_text())
        except (OSError, ValueError):
            return sum(size for _, size, _ in self._copies())

    def _note(self, held: int) -> None:
        (self._directory / _TOTAL).write_text(str(held))

    def _copies(self) -> list[tuple[int, int, Path]]:
        """Return all copies, the longest unread first, and what writers that died have left."""
        found = []
        for folder, _, names in os.walk(self._directory):
            for name in names:
                if name not in (_TOTAL, _LOCK):
                    path = Path(folder, name)
                    with suppress(FileNotFoundError):
                        seen = path.stat()
                        found.append((0 if name.startswith(".") else seen.st_mtime_ns, seen.st_size, path))
        return sorted(found)

    def _make_room(self, needed: int) -> int:
        """Delete copies until there is room, and return how many bytes are left."""
        copies = self._copies()
        held = sum(size for _, size, _ in copies)
        most = min(self._most - needed, int(self._most * _FULL))
        for _, size, path in copies:
            if held <= most:
                break
            path.unlink(missing_ok=True)
            held -= size
        return held
