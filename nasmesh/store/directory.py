"""An object store in a directory, which several processes (or hosts, on a network file system) may share.

Objects appear whole or not at all: written aside, fsynced, renamed, directory fsynced. Every path is walked from one
directory opened at the start, one segment at a time without following links, so nothing outside it can be reached.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nasmesh import limits
from nasmesh.clock import Clock, SystemClock, new_id
from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.store.base import Stored, check_size, no_links
from nasmesh.store.keys import ObjectKind, check_content, check_key, check_ref, is_key, object_ref
from nasmesh.v1 import object_pb2 as pb

_INCOMING = ".incoming"
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe that somebody planted must not hang; regular files ignore it.
_OPEN_OBJECT = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK_IN_THE_WAY = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EMLINK})


class DirectoryStore:
    """Keeps objects as files below one directory."""

    kind_name = "directory"

    def __init__(self, root: Path, *, clock: Clock | None = None) -> None:
        """Open the directory, making it if need be, and clear what crashed writers left in it.

        Raises Unavailable (STORE_DOWN) where that cannot be done.
        """
        self._path = root
        with self._faults("open"):
            root.mkdir(parents=True, exist_ok=True)
            # The root itself may be a link: the operator chose it. Nothing below it may be.
            self._root = os.open(root, _OPEN_DIRECTORY & ~os.O_NOFOLLOW)
            with self._directory((_INCOMING,), create=True) as incoming:
                _clear_leftovers(incoming, (clock or SystemClock()).wall() - limits.LEFTOVER_S)

    def __del__(self) -> None:
        """Close the directory."""
        descriptor = self.__dict__.pop("_root", None)
        if descriptor is not None:
            os.close(descriptor)

    def put(self, kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> pb.ObjectRef:
        """Keep the bytes; see ObjectStore.put. A damaged object of the same key is replaced."""
        check_size(kind, len(content))
        ref = object_ref(kind, content, extension=extension)
        *folders, name = ref.key.split("/")
        with (
            self._faults("write"),
            self._directory((_INCOMING,), create=True) as incoming,
            self._directory(tuple(folders), create=True) as folder,
        ):
            if not _holds(folder, name, ref):
                _write_new(incoming, folder, name, content)
        return ref

    def get(self, ref: pb.ObjectRef) -> bytes:
        """Return the verified bytes; see ObjectStore.get."""
        check_ref(ref, field="object")
        *folders, name = ref.key.split("/")
        with self._faults("read"):
            try:
                with self._directory(tuple(folders)) as folder:
                    content = _read(folder, name, ref)
            except FileNotFoundError:
                raise NotFound(
                    "OBJECT_MISSING", f"object {ref.key} is not in the store at {self._path}", field="object"
                ) from None
            except OSError as error:
                if error.errno not in _LINK_IN_THE_WAY:
                    raise
                raise _corrupt(ref, "a link stands in its place") from None
        return check_content(ref, content)

    def exists(self, ref: pb.ObjectRef) -> bool:
        """Say whether the object is there; see ObjectStore.exists."""
        check_ref(ref, field="object")
        *folders, name = ref.key.split("/")
        with self._faults("read"):
            try:
                with self._directory(tuple(folders)) as folder:
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno in _LINK_IN_THE_WAY:
                    return False
                raise
        return stat.S_ISREG(found.st_mode) and found.st_size == ref.size_bytes

    def location(self, ref: pb.ObjectRef) -> str:
        """Return the path, for people."""
        check_ref(ref, field="object")
        return str(self._path / ref.key)

    def link(self, ref: pb.ObjectRef, *, seconds: int) -> str:  # noqa: ARG002 - as every store
        """Refuse; see ObjectStore.link."""
        raise no_links(self.kind_name)

    def objects(self) -> Iterator[Stored]:
        """Yield every object; see ObjectStore.objects. Files that are no objects are left out."""
        with self._faults("list"):
            now = self._now()
            for kind in ObjectKind:
                for head in self._names((kind.value, "sha256")):
                    folders = (kind.value, "sha256", head)
                    for name, found in self._files(folders):
                        key = "/".join((*folders, name))
                        if stat.S_ISREG(found.st_mode) and is_key(key):
                            yield Stored(key, found.st_size, now - found.st_mtime)

    def delete(self, key: str, *, min_age_s: float) -> bool:
        """Delete an object; see ObjectStore.delete.

        It is moved aside first and its age read then: whoever puts the same bytes at this moment either makes it young,
        and it is moved back, or finds it gone, and writes it.
        """
        check_key(key, field="key")
        *folders, name = key.split("/")
        with self._faults("delete"), self._directory((_INCOMING,), create=True) as incoming:
            now = self._now()
            try:
                with self._directory(tuple(folders)) as folder:
                    return _delete_old(folder, name, incoming, now - min_age_s)
            except FileNotFoundError:
                return False

    def _now(self) -> float:
        """Return the time by the clock that dates the files, which may be another host's."""
        with self._directory((_INCOMING,), create=True) as incoming:
            name = new_id()
            descriptor = os.open(name, _OPEN_NEW, 0o644, dir_fd=incoming)
            try:
                return os.fstat(descriptor).st_mtime
            finally:
                os.close(descriptor)
                _remove(incoming, name)

    def _names(self, folders: tuple[str, ...]) -> list[str]:
        """Return what is in a folder; nothing where it is not there, or no folder."""
        try:
            with self._directory(folders) as folder:
                return sorted(os.listdir(folder))
        except OSError as error:
            if error.errno != errno.ENOENT and error.errno not in _LINK_IN_THE_WAY:
                raise
            return []

    def _files(self, folders: tuple[str, ...]) -> list[tuple[str, os.stat_result]]:
        """Return what is in a folder with what is known of it, less what vanishes meanwhile."""
        found = []
        for name in self._names(folders):
            with suppress(FileNotFoundError), self._directory(folders) as folder:
                found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
        return found

    @contextmanager
    def _directory(self, folders: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
        """Open a folder below the root, segment by segment, for the length of the block."""
        current = os.dup(self._root)
        try:
            for segment in folders:
                if create:
                    _make_folder(current, segment)
                below = os.open(segment, _OPEN_DIRECTORY, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)

    @contextmanager
    def _faults(self, action: str) -> Iterator[None]:
        """Turn the operating system's errors into Unavailable (STORE_DOWN) that say what to do."""
        try:
            yield
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = (
                "the disk is full, make room"
                if full
                else f"{os.strerror(error.errno or errno.EIO)}, check the directory"
            )
            raise Unavailable(
                "STORE_DOWN", f"cannot {action} objects in {self._path}: {advice}", metadata={"errno": name}
            ) from error


def _make_folder(parent: int, name: str) -> None:
    """Make a folder if it is not there, durably."""
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        return
    os.fsync(parent)


def _holds(folder: int, name: str, ref: pb.ObjectRef) -> bool:
    """Say whether the folder already has this object, undamaged; it is young then, and safe from being swept."""
    try:
        os.utime(name, dir_fd=folder, follow_symlinks=False)
        check_content(ref, _read(folder, name, ref))
    except (OSError, Invalid):
        return False
    # Whoever wrote it may have crashed between rename and fsync; after this line it is as durable as our own.
    os.fsync(folder)
    return True


def _write_new(incoming: int, folder: int, name: str, content: bytes) -> None:
    """Write the bytes aside and move them into place; leaves nothing behind when it fails."""
    temporary = new_id()
    try:
        descriptor = os.open(temporary, _OPEN_NEW, 0o644, dir_fd=incoming)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=incoming, dst_dir_fd=folder)
    except BaseException:
        _remove(incoming, temporary)
        raise
    os.fsync(folder)


def _read(folder: int, name: str, ref: pb.ObjectRef) -> bytes:
    """Read an object whose size is as promised; raises OSError, Invalid (OBJECT_CORRUPT)."""
    descriptor = os.open(name, _OPEN_OBJECT, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _corrupt(ref, "it is not a regular file")
        # Compared before reading, so that a huge file under a small name costs nothing.
        if found.st_size != ref.size_bytes:
            raise _corrupt(ref, f"it has {found.st_size} bytes, not {ref.size_bytes}")
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(descriptor)


def _corrupt(ref: pb.ObjectRef, why: str) -> Invalid:
    return Invalid("OBJECT_CORRUPT", f"object {ref.key}: {why}", field="object")


def _delete_old(folder: int, name: str, incoming: int, before: float) -> bool:
    """Delete a file last put before a time; raises FileNotFoundError."""
    if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > before:
        return False
    aside = new_id()
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=incoming)
    if os.stat(aside, dir_fd=incoming, follow_symlinks=False).st_mtime > before:
        os.rename(aside, name, src_dir_fd=incoming, dst_dir_fd=folder)
        return False
    os.unlink(aside, dir_fd=incoming)
    os.fsync(folder)
    return True


def _clear_leftovers(incoming: int, before_wall: float) -> None:
    """Remove temporary files untouched since a wall time. A writer wronged by a clock jump fails and retries."""
    for name in os.listdir(incoming):
        try:
            if os.stat(name, dir_fd=incoming, follow_symlinks=False).st_mtime < before_wall:
                os.unlink(name, dir_fd=incoming)
        except FileNotFoundError:
            continue


def _remove(folder: int, name: str) -> None:
    """Remove a file that may not be there."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
