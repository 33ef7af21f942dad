"""Arrays in files, read in pieces: .npy, members of .npz, IDX. Nothing is ever unpickled."""

import gzip
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.damaged import damaged
from nasmesh.errors import Invalid

_PIECE_BYTES = 8 << 20
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_READ_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class ArrayStream:
    """An array in a file: its name for people, its form, and how to open it at its first value."""

    name: str
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    open: Callable[[], IO[bytes]]

    def __len__(self) -> int:
        """Return how many rows it has."""
        return self.shape[0] if self.shape else 0

    def pieces(self, rows: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows in order, `rows` at a time [some megabytes]; raises Invalid (DATASET_FILES_CORRUPT)."""
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        step = rows or max(1, _PIECE_BYTES // row_bytes)
        try:
            with self.open() as file:
                for first in range(0, len(self), step):
                    count = min(step, len(self) - first)
                    content = _exactly(file, count * row_bytes)
                    yield np.frombuffer(content, dtype=self.dtype).reshape(count, *self.shape[1:])
        except _READ_FAULTS as error:
            raise damaged(self.name, error) from error

    def whole(self) -> NDArray[Any]:
        """Return all of it."""
        parts = list(self.pieces())
        return np.concatenate(parts) if parts else np.zeros(self.shape, dtype=self.dtype)


def open_npy(path: Path) -> ArrayStream:
    """Return the array of a .npy file; raises Invalid (DATASET_PICKLED, DATASET_FILES_CORRUPT)."""
    return _npy(path.name, lambda: path.open("rb"))


def open_npz(path: Path) -> dict[str, ArrayStream]:
    """Return the arrays of an .npz archive by name; raises Invalid (DATASET_PICKLED, DATASET_FILES_CORRUPT)."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
    except _READ_FAULTS as error:
        raise damaged(path.name, error) from error

    def opener(member: str) -> Callable[[], IO[bytes]]:
        return lambda: zipfile.ZipFile(path).open(member)

    return {member[:-4]: _npy(f"{path.name}:{member[:-4]}", opener(member)) for member in members}


def open_idx(path: Path) -> ArrayStream:
    """Return the array of an IDX file, gzipped or not; raises Invalid (DATASET_FILES_CORRUPT)."""

    def opened() -> IO[bytes]:
        file = _opened(path)
        rank = struct.unpack(">HBB", _exactly(file, 4))[2]
        _exactly(file, 4 * rank)
        return file

    try:
        with _opened(path) as file:
            zero, kind, rank = struct.unpack(">HBB", _exactly(file, 4))
            if zero != 0 or kind not in _IDX_TYPES or not 1 <= rank <= 8:
                raise ValueError("is no IDX file")
            shape = struct.unpack(f">{rank}I", _exactly(file, 4 * rank))
    except _READ_FAULTS as error:
        raise damaged(path.name, error) from error
    return ArrayStream(path.name, shape, np.dtype(_IDX_TYPES[kind]), opened)


def _opened(path: Path) -> IO[bytes]:
    file = path.open("rb")
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file


def _npy(name: str, opener: Callable[[], IO[bytes]]) -> ArrayStream:
    try:
        with opener() as file:
            shape, fortran, dtype = _header(file)
    except _READ_FAULTS as error:
        raise damaged(name, error) from error
    if dtype.hasobject:
        raise Invalid(
            "DATASET_PICKLED",
            f"path: {name} holds Python objects, which are never unpickled; save it as numbers"
            " (np.save(…, array.astype(float)))",
            field="path",
        )
    if fortran and len(shape) > 1:
        raise Invalid(
            "DATASET_LAYOUT_AMBIGUOUS",
            f"path: {name} is stored in Fortran order, columns first; save it with np.ascontiguousarray",
            field="path",
        )

    def opened() -> IO[bytes]:
        file = opener()
        _header(file)
        return file

    return ArrayStream(name, shape, dtype, opened)


def _header(file: IO[bytes]) -> "tuple[tuple[int, ...], bool, np.dtype[Any]]":
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"has version {version} of the format")


def _exactly(file: IO[bytes], size: int) -> bytes:
    parts, left = [], size
    while left:
        part = file.read(left)
        if not part:
            raise EOFError("is cut short")
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
