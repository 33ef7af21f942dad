"""Added data sets on this machine's disk: fetched from the object store once, checked, and read from there.

One folder a manifest below the home directory: samples.bin (all samples, one after the other), labels.npy or
targets.npy, groups.npy, and stamp.json, which says what the rest looked like when it was whole.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasmesh import limits
from nasmesh.clock import new_id
from nasmesh.data.eviction import STAMP, make_room, opened
from nasmesh.data.info import REGRESSION
from nasmesh.data.samples import Groups
from nasmesh.data.shards import decode, sample_dtype
from nasmesh.data.source import ArraySource, Indices, Rows, Source
from nasmesh.errors import Invalid, Unavailable
from nasmesh.settings import home
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import dataset_manifest_pb2 as pb

_SAMPLES, _STAMP = "samples.bin", STAMP
_PIECE_BYTES = 4 * limits.MIB


class Cached(NamedTuple):
    """An added data set that can be read here. `answers`: labels int64 [N], or targets float32 [N, T] as they came."""

    samples: Source
    answers: NDArray[Any]
    groups: Groups | None


def open_cached(
    manifest: pb.DatasetManifest, key: str, store: ObjectStore, *, memory_bytes: int = limits.DATASET_MEMORY_BYTES
) -> Cached:
    """Return the data set of a manifest with object digest `key`, fetched where it is not here yet.

    Up to `memory_bytes` of samples are read into memory and checked against the digest every time; more stays on disk,
    is checked whole when it is fetched, and fetched anew where the files have changed since. Raises Invalid
    (DATASET_CORRUPT, OBJECT_CORRUPT), NotFound (OBJECT_MISSING), Unavailable (STORE_DOWN, CACHE_DOWN).
    """
    folder = folder_of(key)
    with _locked(folder):
        if not _is_whole(folder):
            _fetch(folder, manifest, store)
        opened(folder)
        if _size(manifest) > memory_bytes:
            return _streamed(folder, manifest)
        found = _in_memory(folder, manifest)
        if found is None:  # it was changed on disk: what it is named after decides, and that is in the store
            _fetch(folder, manifest, store)
            found = _in_memory(folder, manifest)
        if found is None:
            raise Invalid("DATASET_CORRUPT", f"{folder}: what was written is not what is read; check the disk")
        return found


def folder_of(key: str) -> Path:
    """Return where a data set is kept."""
    return home() / "datasets" / key


class FileSource:
    """Samples in one file, of which rows are read as they are wanted: memory holds what was asked for, nothing else."""

    array = None

    def __init__(self, path: Path, dims: tuple[int, ...], dtype: "np.dtype[Any]", count: int) -> None:
        """Open the file; it is read by position, by several threads at once if need be."""
        self._dims, self._dtype, self._count = dims, dtype, count
        self._row_bytes = math.prod(dims) * dtype.itemsize
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        """Close the file."""
        descriptor = self.__dict__.pop("_file", None)
        if descriptor is not None:
            os.close(descriptor)

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of one sample."""
        return self._dims

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Type of the values."""
        return self._dtype

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def rows(self, indices: Indices) -> Rows:
        """Return these samples; neighbours are read at once. Raises Invalid (DATASET_CORRUPT) where the file ends."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < self._count:
            raise IndexError(f"rows are 0 to {self._count - 1}")
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        read = np.empty((len(wanted), *self._dims), dtype=self._dtype)
        view = read.reshape(-1).view(np.uint8).data
        for first, end in _runs(ascending):
            begin = int(ascending[first]) * self._row_bytes
            self._read(view[first * self._row_bytes : end * self._row_bytes], begin)
        if (order[1:] > order[:-1]).all():
            return read
        placed = np.empty_like(read)
        placed[order] = read
        return placed

    def _read(self, into: memoryview, begin: int) -> None:
        done = 0
        while done < len(into):
            count = os.preadv(self._file, [into[done:]], begin + done)
            if not count:
                raise Invalid("DATASET_CORRUPT", f"{self._path} was cut short; delete its folder, it is fetched anew")
            done += count


def _runs(ascending: Indices) -> Iterator[tuple[int, int]]:
    """Yield [first, end) of every stretch of consecutive rows."""
    borders = np.flatnonzero(np.diff(ascending) != 1) + 1
    starts = np.concatenate(([0], borders)) if len(ascending) else borders
    ends = np.concatenate((borders, [len(ascending)]))
    yield from zip(starts.tolist(), ends.tolist(), strict=False)


def _size(manifest: pb.DatasetManifest) -> int:
    return manifest.samples * math.prod(manifest.sample_dims) * sample_dtype(manifest.kind).itemsize


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one thread of one process at a time fetch or check a data set."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _down(folder, error) from error
    try:
        with _THREADS:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
    finally:
        os.close(descriptor)


_THREADS = threading.Lock()


def _down(folder: Path, error: OSError) -> Unavailable:
    return Unavailable("CACHE_DOWN", f"data cannot be kept in {folder.parent}: {error.strerror}; make room, or mend it")


def _is_whole(folder: Path) -> bool:
    """Say whether the files are those that were written: by size and time of change, without reading them."""
    try:
        stamp = json.loads((folder / _STAMP).read_text())
        return bool(stamp) and all(_looks(folder / name) == tuple(look) for name, look in stamp.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _looks(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _fetch(folder: Path, manifest: pb.DatasetManifest, store: ObjectStore) -> None:
    """Put a data set together aside and move it into place."""
    aside = folder.with_name(f"{folder.name}.{new_id()}")
    try:
        make_room(folder, _size(manifest), most=limits.DATASET_CACHE_BYTES)
        aside.mkdir()
        _write(aside, manifest, store)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except OSError as error:
        raise _down(folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(aside: Path, manifest: pb.DatasetManifest, store: ObjectStore) -> None:
    content = hashlib.sha256()
    answers: list[NDArray[Any]] = []
    groups: list[Groups] = []
    with (aside / _SAMPLES).open("wb") as file:
        for index, entry in enumerate(manifest.shards):
            shard = decode(store.get(entry.object), manifest, index)
            file.write(shard.samples.data)
            content.update(shard.samples.data)
            answers.append(shard.answers)
            if shard.groups is not None:
                groups.append(shard.groups)
        file.flush()
        os.fsync(file.fileno())
    arrays = {_answers_name(manifest): np.concatenate(answers)}
    if manifest.grouped:
        arrays["groups.npy"] = np.concatenate(groups)
    for name, array in arrays.items():
        np.save(aside / name, array, allow_pickle=False)
    _check_digest(_ended(content, manifest, arrays), manifest, "the objects in the store")
    stamp = {name: _looks(aside / name) for name in (_SAMPLES, *arrays)}
    (aside / _STAMP).write_text(json.dumps(stamp))


def _answers_name(manifest: pb.DatasetManifest) -> str:
    return "targets.npy" if manifest.task == REGRESSION else "labels.npy"


def _ended(content: Any, manifest: pb.DatasetManifest, arrays: dict[str, NDArray[Any]]) -> str:
    """Return the digest of a data set of whose samples `content` is the SHA-256 so far."""
    for array in arrays.values():
        content.update(np.ascontiguousarray(array).data)
    content.update(",".join(str(size) for size in (manifest.samples, *manifest.sample_dims)).encode())
    return str(content.hexdigest())


def _check_digest(found: str, manifest: pb.DatasetManifest, where: str) -> None:
    if found != manifest.content_digest:
        raise Invalid("DATASET_CORRUPT", f"{where} are not the data set that the manifest names; add it again")


def _streamed(folder: Path, manifest: pb.DatasetManifest) -> Cached:
    try:
        source = FileSource(
            folder / _SAMPLES, tuple(manifest.sample_dims), sample_dtype(manifest.kind), manifest.samples
        )
        arrays = _read_arrays(folder, manifest)
    except OSError as error:
        raise _down(folder, error) from error
    return Cached(source, arrays[_answers_name(manifest)], arrays.get("groups.npy"))


def _read_arrays(folder: Path, manifest: pb.DatasetManifest) -> dict[str, NDArray[Any]]:
    names = [_answers_name(manifest), *(["groups.npy"] if manifest.grouped else [])]
    return {name: np.load(folder / name, allow_pickle=False) for name in names}


def _in_memory(folder: Path, manifest: pb.DatasetManifest) -> Cached | None:
    """Return the data set, read whole and checked; None where it is not what its digest says."""
    shape = (manifest.samples, *manifest.sample_dims)
    try:
        samples = np.fromfile(folder / _SAMPLES, dtype=sample_dtype(manifest.kind)).reshape(shape)
        arrays = _read_arrays(folder, manifest)
    except OSError as error:
        raise _down(folder, error) from error
    except ValueError:
        return None
    if _ended(hashlib.sha256(samples.data), manifest, arrays) != manifest.content_digest:
        return None
    return Cached(ArraySource(samples), arrays[_answers_name(manifest)], arrays.get("groups.npy"))
