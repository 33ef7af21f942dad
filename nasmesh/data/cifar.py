"""Reads CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their archives or folders, both forms: Python and binary.

Formats: https://www.cs.toronto.edu/~kriz/cifar.html. A row is 3,072 bytes, red, green, blue, 32 rows of 32 each.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.damaged import damaged
from nasmesh.data.samples import Images, Labels, Samples
from nasmesh.data.unpickled import read_arrays
from nasmesh.errors import Invalid, NotFound
from nasmesh.settings import read_settings

_PIXELS = 3072
_DIMS = (3, 32, 32)
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Form:
    """One of the four archives: its folder, its files (train first), and how many labels a binary row begins with."""

    classes: int
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    python: bool
    row_labels: int = 1


CIFAR10 = (
    Form(
        10,
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        True,
    ),
    Form(
        10,
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        "batches.meta.txt",
        False,
    ),
)
CIFAR100 = (
    Form(100, "cifar-100-python", ("train",), "test", "meta", True),
    Form(100, "cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", False, 2),
)
# MD5 of the files as published (https://www.cs.toronto.edu/~kriz/cifar.html; the Python form, by file, as torchvision
# checks them): which data a result was measured on must not depend on who copied it.
_KNOWN = {
    ("cifar-10-batches-py", "data_batch_1"): "c99cafc152244af753f735de768cd75f",
    ("cifar-10-batches-py", "data_batch_2"): "d4bba439e000b95fd0a9bffe97cbabec",
    ("cifar-10-batches-py", "data_batch_3"): "54ebc095f3ab1f0389bbae665268c751",
    ("cifar-10-batches-py", "data_batch_4"): "634d18415352ddfa80567beed471001a",
    ("cifar-10-batches-py", "data_batch_5"): "482c414d41f54cd18b22e5b47cb7c3cb",
    ("cifar-10-batches-py", "test_batch"): "40351d587109b95175f43aff81a1287e",
    ("cifar-100-python", "train"): "16019d7e3df5f24257cddd939b257f8d",
    ("cifar-100-python", "test"): "f0ef6b0ae62326f3e7ffdfab6717acfc",
}
_ARCHIVES = {
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
}


@dataclass(frozen=True, slots=True)
class Archive:
    """A whole data set: images uint8 [N, 3, 32, 32], fine labels, coarse ones where there are some, and their names."""

    images: Images
    labels: Labels
    coarse: Labels | None
    test_samples: int
    class_names: tuple[str, ...]
    coarse_names: tuple[str, ...]


def find(name: str) -> Path:
    """Return where "cifar10" or "cifar100" is on this machine; raises NotFound (DATASET_ABSENT)."""
    forms = CIFAR10 if name == "cifar10" else CIFAR100
    for folder in (read_settings().data / name, read_settings().data, Path("data") / name, Path("data")):
        for form in forms:
            for candidate in (folder / _ARCHIVES[form.folder], folder / form.folder):
                if candidate.exists():
                    return candidate
    archive = _ARCHIVES[forms[0].folder]
    raise NotFound(
        "DATASET_ABSENT",
        f"datasets/{name} is not on this machine; put {archive} from https://www.cs.toronto.edu/~kriz/cifar.html into"
        f" {read_settings().data / name}",
        field="data.dataset",
    )


def read_built_in(name: str) -> Samples:
    """Return "cifar10" or "cifar100" with its own test split; raises NotFound, Invalid (DATASET_CORRUPT…)."""
    found = read(find(name), published=True)
    return Samples(found.images, found.labels, found.test_samples)


def form_of(path: Path) -> Form | None:
    """Return which form a path has, an archive or a folder (or one above it); None for none."""
    for form in (*CIFAR10, *CIFAR100):
        if path.is_file() and path.name == _ARCHIVES[form.folder]:
            return form
        if path.is_dir() and (_is_complete(path, form) or _is_complete(path / form.folder, form)):
            return form
    return None


def read(path: Path, *, published: bool = False) -> Archive:
    """Return the data set at a path; `published`: it must be the files as published, where their digests are known.

    Raises Invalid (DATASET_FORMAT_UNKNOWN, DATASET_FILES_CORRUPT, DATASET_LABELS_INVALID, DATASET_PICKLED).
    """
    form = form_of(path)
    if form is None:
        raise Invalid("DATASET_FORMAT_UNKNOWN", f"path: {path} is no CIFAR archive", field="path")
    if path.is_dir():
        folder = path if _is_complete(path, form) else path / form.folder
        return _assemble(form, lambda name: (folder / name).read_bytes(), published)
    try:
        with tarfile.open(path) as archive:
            return _assemble(form, lambda name: _member(archive, f"{form.folder}/{name}"), published)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise damaged(path.name, error) from error


def _is_complete(folder: Path, form: Form) -> bool:
    return all((folder / name).is_file() for name in (*form.train, form.test))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return a file of an archive; nothing is ever extracted to disk."""
    try:
        found = archive.getmember(name)
        file = archive.extractfile(found) if found.isfile() and found.size <= _MOST_BYTES else None
    except KeyError:
        file = None
    if file is None:
        raise damaged(name, "is not in the archive")
    return file.read()


def _assemble(form: Form, read_file: Callable[[str], bytes], published: bool) -> Archive:
    def checked(name: str) -> bytes:
        content, known = read_file(name), _KNOWN.get((form.folder, name))
        if published and known and hashlib.md5(content, usedforsecurity=False).hexdigest() != known:
            raise Invalid("DATASET_CORRUPT", f"{name} is not the published file; get the archive again")
        return content

    parts = [_part(form, name, checked(name)) for name in (*form.train, form.test)]
    fine_names, coarse_names = _names(form, read_file)
    coarse = [part[2] for part in parts if part[2] is not None]
    return Archive(
        images=np.concatenate([part[0] for part in parts]).reshape(-1, *_DIMS),
        labels=np.concatenate([part[1] for part in parts]),
        coarse=np.concatenate(coarse) if coarse else None,
        test_samples=len(parts[-1][0]),
        class_names=fine_names,
        coarse_names=coarse_names,
    )


def _part(form: Form, name: str, content: bytes) -> tuple[Images, Labels, Labels | None]:
    """Return pixels [n, 3072], labels and coarse labels of one file."""
    if not form.python:
        return _binary_part(form, name, content)
    found = read_arrays(io.BytesIO(content), len(content), name)
    pixels = found.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise damaged(name, "has no rows of 3,072 bytes")
    labels = _labels(found, "labels" if form.classes == 10 else "fine_labels", len(pixels), form.classes, name)
    coarse = None
    if form.classes == 100:
        coarse = _labels(found, "coarse_labels", len(pixels), 20, name)
    return pixels, labels, coarse


def _binary_part(form: Form, name: str, content: bytes) -> tuple[Images, Labels, Labels | None]:
    width = _PIXELS + form.row_labels
    if not content or len(content) % width:
        raise damaged(name, f"has {len(content)} bytes, no multiple of {width}")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, width)
    labels = _in_range(rows[:, form.row_labels - 1].astype(np.int64), form.classes, name)
    coarse = _in_range(rows[:, 0].astype(np.int64), 20, name) if form.row_labels == 2 else None
    return rows[:, form.row_labels :], labels, coarse


def _labels(found: Mapping[str, Any], key: str, count: int, classes: int, name: str) -> Labels:
    values = found.get(key)
    if not isinstance(values, list) or len(values) != count or not all(isinstance(value, int) for value in values):
        raise damaged(name, f"has no {key} for its {count} rows")
    return _in_range(np.asarray(values, dtype=np.int64), classes, name)


def _in_range(labels: NDArray[np.int64], classes: int, name: str) -> Labels:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise Invalid(
            "DATASET_LABELS_INVALID",
            f"path: {name}: {len(wrong)} labels are outside 0 to {classes - 1}, the first is {wrong[0]}",
            field="path",
        )
    return labels


def _names(form: Form, read_file: Callable[[str], bytes]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of classes and of coarse classes; none where the file that has them is missing."""
    try:
        if not form.python:
            fine = _lines(read_file(form.names))
            return fine, _lines(read_file("coarse_label_names.txt")) if form.classes == 100 else ()
        content = read_file(form.names)
        found = read_arrays(io.BytesIO(content), len(content), form.names)
    except (OSError, Invalid):
        return (), ()
    if form.classes == 10:
        return tuple(found.get("label_names", ())), ()
    return tuple(found.get("fine_label_names", ())), tuple(found.get("coarse_label_names", ()))


def _lines(content: bytes) -> tuple[str, ...]:
    return tuple(line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip())
