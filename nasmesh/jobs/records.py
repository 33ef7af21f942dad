"""Files that survive kill -9 and power cut: written beside, synced, renamed, and the directory synced too."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_LEFTOVER = ".part"


class RecordDirectory:
    """A directory of small files named "{id}{suffix}". Ids must come from nasmesh.ids: they become file names."""

    def __init__(self, path: Path, suffix: str) -> None:
        """Open or make the directory and clear what an interrupted write left."""
        self._path = path
        self._suffix = suffix
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(f"*{suffix}{_LEFTOVER}"):
            leftover.unlink(missing_ok=True)

    def put(self, identifier: str, content: bytes) -> None:
        """Write or replace one file durably; raises OSError where the disk refuses."""
        target = self._file(identifier)
        part = target.with_name(target.name + _LEFTOVER)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        finally:
            os.close(descriptor)
        part.replace(target)
        self._sync()

    def remove(self, identifier: str) -> None:
        """Remove one file, if it is there. Not synced: a record that comes back is recognised and removed again."""
        self._file(identifier).unlink(missing_ok=True)

    def load(self) -> Iterator[tuple[str, bytes]]:
        """Yield (id, content) of every file, in the order of their names."""
        for file in sorted(self._path.glob(f"*{self._suffix}")):
            yield file.name.removesuffix(self._suffix), file.read_bytes()

    def _file(self, identifier: str) -> Path:
        return self._path / f"{identifier}{self._suffix}"

    def _sync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
