"""Reads Fashion-MNIST's four IDX files (format: http://yann.lecun.com/exdb/mnist, magic 0x0801 and 0x0803)."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.samples import Samples
from nasmesh.errors import Invalid, NotFound
from nasmesh.settings import read_settings

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts them
_MOST_VALUES = 1 << 28  # a damaged header must not ask for more memory than any data set of this format has


def folders() -> tuple[Path, ...]:
    """Return where the files are looked for, in order: the data directory, ./data, the Debian package's folder."""
    return (read_settings().data / "fashion-mnist", Path("data") / "fashion-mnist", _SYSTEM)


def find() -> Path:
    """Return the folder that has all four files; raises NotFound (DATASET_ABSENT) with the command that gets them."""
    for folder in folders():
        if all((folder / name).is_file() for name in FILES):
            return folder
    raise NotFound(
        "DATASET_ABSENT",
        "datasets/fashion-mnist is not on this machine; run: make data DATASET=fashion-mnist",
        field="data.dataset",
        metadata={"looked_in": ", ".join(str(folder) for folder in folders())},
    )


def read() -> Samples:
    """Return 70,000 images, uint8 [N, 1, 28, 28], and labels; the last 10,000 are the test split."""
    folder = find()
    parts = [_read_idx(folder / name) for name in FILES]
    images = np.concatenate((parts[0], parts[2]))[:, None, :, :]
    labels = np.concatenate((parts[1], parts[3])).astype(np.int64)
    if len(images) != len(labels):
        raise Invalid("DATASET_CORRUPT", f"{folder}: {len(images)} images but {len(labels)} labels; fetch them again")
    return Samples(images=np.ascontiguousarray(images), labels=labels, test_samples=len(parts[2]))


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array in one gzipped IDX file of unsigned bytes; raises Invalid (DATASET_CORRUPT)."""
    try:
        with gzip.open(path, "rb") as stream:
            zero, kind, rank = struct.unpack(">HBB", stream.read(4))
            if zero != 0 or kind != 8 or not 1 <= rank <= 4:
                raise Invalid("DATASET_CORRUPT", f"{path.name} is no IDX file of bytes; fetch it again")
            dims = struct.unpack(f">{rank}I", stream.read(4 * rank))
            size = int(np.prod(dims, dtype=np.int64))
            if not 0 < size <= _MOST_VALUES:
                raise Invalid("DATASET_CORRUPT", f"{path.name} claims {dims} values; fetch it again")
            content = stream.read(size)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise Invalid(
            "DATASET_CORRUPT", f"{path.name} cannot be read ({error}); run: make data DATASET=fashion-mnist"
        ) from error
    if len(content) != size:
        raise Invalid("DATASET_CORRUPT", f"{path.name} is cut short; run: make data DATASET=fashion-mnist")
    return np.frombuffer(content, dtype=np.uint8).reshape(dims)
