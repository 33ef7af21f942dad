"""The bytes of one shard: an .npz archive of plain arrays, checked against what its manifest promises."""

import io
import lzma
import math
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.info import IMAGE, REGRESSION
from nasmesh.data.source import Rows
from nasmesh.errors import Invalid
from nasmesh.v1 import dataset_manifest_pb2 as pb

_SLACK = 4096  # header of a member
# What reading a damaged archive raises, by zipfile, its decompressors and numpy's reader of headers.
_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    KeyError,
    ValueError,
    TypeError,
    SyntaxError,
    OSError,
    EOFError,
    OverflowError,
    RuntimeError,
)


class Shard(NamedTuple):
    """Some samples [n, ...], with labels int64 [n] or targets float32 [n, T], and groups int64 [n] or none."""

    samples: Rows
    answers: NDArray[Any]
    groups: NDArray[np.int64] | None


def sample_dtype(kind: int) -> "np.dtype[Any]":
    """Return the type of stored values."""
    return np.dtype(np.uint8) if kind == IMAGE else np.dtype("<f4")


def encode(shard: Shard, *, regression: bool) -> bytes:
    """Return the archive of a shard; the same bytes for the same samples."""
    arrays: dict[str, Any] = {"samples": shard.samples, "targets" if regression else "labels": shard.answers}
    if shard.groups is not None:
        arrays["groups"] = shard.groups
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # A member's date is fixed: ZipInfo's own default, so that equal samples are one object.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return content.getvalue()


def decode(content: bytes, manifest: pb.DatasetManifest, index: int) -> Shard:
    """Return the samples of shard `index`; raises Invalid (DATASET_CORRUPT) where it is not what the manifest says."""
    count = manifest.shards[index].samples
    dims = (count, *manifest.sample_dims)
    wanted: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {"samples": (dims, sample_dtype(manifest.kind))}
    if manifest.task == REGRESSION:
        answers = "targets"
        wanted[answers] = ((count, manifest.targets), np.dtype("<f4"))
    else:
        answers = "labels"
        wanted[answers] = ((count,), np.dtype("<i8"))
    if manifest.grouped:
        wanted["groups"] = ((count,), np.dtype("<i8"))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = {name: _member(archive, name, *what) for name, what in wanted.items()}
    except _FAULTS as error:
        raise Invalid("DATASET_CORRUPT", f"shard {index} is not what its manifest says: {str(error)[:200]}") from error
    labels = found[answers]
    if answers == "labels" and not ((labels >= 0) & (labels < manifest.classes)).all():
        raise Invalid("DATASET_CORRUPT", f"shard {index} has labels outside 0 to {manifest.classes - 1}")
    if manifest.kind != IMAGE and not np.isfinite(found["samples"]).all():
        raise Invalid("DATASET_CORRUPT", f"shard {index} has values that are not finite")
    return Shard(found["samples"], labels, found.get("groups"))


def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> NDArray[Any]:
    """Return an array of the archive; raises ValueError and KeyError before more is read than there should be."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > math.prod(shape) * dtype.itemsize + _SLACK:
        raise ValueError(f"{name} has {entry.file_size} bytes")
    with archive.open(entry) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {dtype} {list(shape)}")
    return np.ascontiguousarray(array)
