"""Reads pickles of plain containers and arrays without running anything that they name.

The CIFAR archives for Python are pickles. What a pickle names is looked up in the table below and nowhere else, and
what stands there only writes down its arguments: no array is made by the unpickler, no module is imported, no class of
anybody is called.
"""

import pickle  # noqa: TID251 (the one reader of pickles; see the module's first paragraph)
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.damaged import damaged
from nasmesh.errors import Invalid

_MOST_BYTES = 1 << 30


class _Type:
    """Stands for numpy.dtype: keeps the code, and the byte order that it is told."""

    def __init__(self, code: object = b"", *_: object) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else b""
        text = order.decode("ascii", "replace") if isinstance(order, bytes) else str(order)
        if text == ">":
            self.code = ">" + self.code


class _Class:
    """Stands for numpy.ndarray where a pickle hands it to `_reconstruct`."""


class _Array:
    """Stands for an array: keeps its state until `numbers` checks it."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def numbers(self) -> NDArray[Any]:
        """Return the array; raises ValueError for anything but plain numbers."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("an array without its state")
        _, shape, kind, fortran, content = self.state
        if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError("an array without a shape")
        if not isinstance(kind, _Type) or not isinstance(content, bytes):
            raise ValueError("an array of objects")
        values = np.frombuffer(content, dtype=np.dtype(kind.code))
        if values.dtype.hasobject:
            raise ValueError("an array of objects")
        return values.reshape(shape, order="F" if fortran else "C")


def _latin1(text: object = "", encoding: object = "") -> bytes:
    """Stand for _codecs.encode, with which later Pythons write bytes into old pickles."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("a text in an unknown encoding")
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Class,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _latin1,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise Invalid(
                "DATASET_PICKLED",
                f"path: the file names {f'{module}.{name}'[:120]!r}, which is no part of an array; it is not read",
                field="path",
            )
        return found


def read_arrays(file: IO[bytes], size: int, name: str) -> dict[str, Any]:
    """Return the dictionary in a pickle with its arrays and lists; keys are texts.

    Raises Invalid (DATASET_PICKLED) for one that names anything but arrays, (DATASET_FILES_CORRUPT) for one that cannot
    be read.
    """
    if size > _MOST_BYTES:
        raise damaged(name, f"has {size:,} bytes; no such archive has")
    try:
        found = _Reader(file, encoding="bytes").load()
        if not isinstance(found, dict):
            raise ValueError("no dictionary")
        return {_text(key): _plain(value) for key, value in found.items()}
    except Invalid:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise damaged(name, error) from error


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _plain(value: object) -> Any:
    """Return arrays for what stands for them, texts for bytes in lists, and numbers as they are."""
    if isinstance(value, _Array):
        return value.numbers()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return _text(value)
    if value is None or isinstance(value, (int, float, str)):
        return value
    raise ValueError(f"a {type(value).__name__}")
