"""A disk in memory under the agents' real spool: kill -9 keeps what was written, a power cut what was synced.

Files and directories follow the weakest rules a file system may have: a file's bytes are safe after its fsync, a
directory's entries after the directory's, and what is neither may survive, be cut short, or be gone.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from nasmesh.jobs import records
from tests.sim.dying import Boundary, KilledError, nobody_dies

_FIRST_DESCRIPTOR = 1 << 20


@dataclass(slots=True)
class Inode:
    """One file: its bytes as programs see them, and as the platter has them."""

    content: bytes = b""
    synced: bytes = b""


@dataclass(slots=True)
class Folder:
    """Entries as programs see them, as the platter has them, and the changes in between, oldest first."""

    entries: dict[str, Inode] = field(default_factory=dict)
    synced: dict[str, Inode] = field(default_factory=dict)
    changes: list[tuple[str, Inode | None]] = field(default_factory=list)

    def set(self, name: str, inode: Inode | None) -> None:
        self.changes.append((name, inode))
        _put(self.entries, name, inode)


def _put(entries: dict[str, Inode], name: str, inode: Inode | None) -> None:
    if inode is None:
        entries.pop(name, None)
    else:
        entries[name] = inode


class Disk:
    """One machine's disk. `boundary` is asked before every step; after a kill nothing more happens until `restart`."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.boundary: Boundary = nobody_dies
        self.full = False
        self.dead = False
        self.folders: dict[str, Folder] = {}

    def root(self) -> "SimPath":
        return SimPath(self, "work")

    def restart(self, rng: Random | None) -> None:
        """Let the next process use the disk; with `rng` there was a power cut in between."""
        self.dead = False
        if rng is not None:
            for folder in self.folders.values():
                _cut(folder, rng)

    def step(self, place: str) -> None:
        if self.dead:
            raise KilledError(self.owner, place)
        try:
            self.boundary(self.owner, place)
        except KilledError:
            self.dead = True
            raise

    def folder(self, path: str) -> Folder:
        return self.folders[path]


def _cut(folder: Folder, rng: Random) -> None:
    """Leave what a power cut may leave: synced entries with some of the later changes, and bytes cut short."""
    for name, inode in folder.changes[: rng.randint(0, len(folder.changes))]:
        _put(folder.synced, name, inode)
    for inode in folder.synced.values():
        if inode.content != inode.synced:
            kept = inode.content[: rng.randint(0, len(inode.content))]
            inode.synced = inode.content = rng.choice([inode.synced, kept, inode.content])
    folder.entries = dict(folder.synced)
    folder.changes = []


@dataclass(frozen=True, slots=True)
class SimPath:
    """As much of pathlib.Path as the spool uses."""

    disk: Disk
    text: str

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> "SimPath":
        return SimPath(self.disk, self.text.rpartition("/")[0])

    def __truediv__(self, name: str) -> "SimPath":
        return SimPath(self.disk, f"{self.text}/{name}")

    def __lt__(self, other: "SimPath") -> bool:
        return self.text < other.text

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        assert parents
        assert exist_ok
        self.disk.folders.setdefault(self.text, Folder())

    def glob(self, pattern: str) -> Iterator["SimPath"]:
        assert pattern[0] == "*"
        suffix = pattern[1:]
        for name in list(self.disk.folder(self.text).entries):
            if name.endswith(suffix):
                yield self / name

    def with_name(self, name: str) -> "SimPath":
        return self.parent / name

    def exists(self) -> bool:
        return self.name in self.disk.folder(self.parent.text).entries

    def unlink(self, missing_ok: bool = False) -> None:
        self.disk.step("unlink")
        folder = self.disk.folder(self.parent.text)
        if self.name in folder.entries:
            folder.set(self.name, None)
        elif not missing_ok:
            raise FileNotFoundError(errno.ENOENT, self.text)

    def replace(self, target: "SimPath") -> None:
        self.disk.step("rename")
        folder = self.disk.folder(self.parent.text)
        inode = folder.entries[self.name]
        folder.set(target.name, inode)
        folder.set(self.name, None)

    def read_bytes(self) -> bytes:
        return self.disk.folder(self.parent.text).entries[self.name].content


class _Os:
    """What nasmesh.jobs.records calls of `os`: simulated files go to their disk, everything else to the real one."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Disk, Folder | Inode]] = {}
        self._next = _FIRST_DESCRIPTOR

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def open(self, path: object, flags: int, mode: int = 0o777, **more: object) -> int:
        if not isinstance(path, SimPath):
            return os.open(path, flags, mode, **more)  # type: ignore[arg-type, call-overload, no-any-return]
        disk = path.disk
        self._next += 1
        if flags & os.O_DIRECTORY:
            self._open[self._next] = (disk, disk.folder(path.text))
            return self._next
        disk.step("create")
        folder = disk.folder(path.parent.text)
        inode = folder.entries.get(path.name)
        if inode is None:
            inode = Inode()
            folder.set(path.name, inode)
        elif flags & os.O_TRUNC:
            inode.content = b""
        self._open[self._next] = (disk, inode)
        return self._next

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        if descriptor < _FIRST_DESCRIPTOR:
            return os.write(descriptor, content)
        disk, inode = self._open[descriptor]
        assert isinstance(inode, Inode)
        disk.step("write")
        if disk.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        # In two halves, as the kernel may: a kill can land in between.
        part = len(content) if inode.content else max(1, len(content) // 2)
        inode.content += bytes(content[:part])
        return part

    def fsync(self, descriptor: int) -> None:
        if descriptor < _FIRST_DESCRIPTOR:
            os.fsync(descriptor)
            return
        disk, target = self._open[descriptor]
        disk.step("fsync")
        if isinstance(target, Inode):
            target.synced = target.content
        else:
            target.synced = dict(target.entries)
            target.changes.clear()

    def close(self, descriptor: int) -> None:
        if self._open.pop(descriptor, None) is None:
            os.close(descriptor)


if not isinstance(records.os, _Os):
    records.os = _Os()  # type: ignore[assignment, misc]
