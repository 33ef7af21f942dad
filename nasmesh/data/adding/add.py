"""From a path to a manifest: finds out what is there, reads it, stores shards and manifest."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nasmesh.data import cifar
from nasmesh.data.adding import arrays, columns, folder, idx, options, tables
from nasmesh.data.adding.arrays import Arrays, Part
from nasmesh.data.adding.options import Options
from nasmesh.data.adding.reader import BadFiles, Batch, Found, Reader
from nasmesh.data.adding.streams import ArrayStream, open_npy, open_npz
from nasmesh.data.adding.writer import Put, write
from nasmesh.data.info import IMAGE, SERIES
from nasmesh.errors import Invalid
from nasmesh.v1 import dataset_manifest_pb2 as pb
from nasmesh.v1 import object_pb2

_SAMPLE_NAMES = ("x", "samples", "images", "data", "features", "inputs", "arr_0")
_ANSWER_NAMES = ("y", "labels", "label", "targets", "target", "arr_1")
_GROUP_NAMES = ("groups", "group", "subjects", "subject")
_CIFAR_TAKES = frozenset({"kind", "task", "label"})
_CIFAR_BATCH = 5000


def add(path: Path, choices: Options, put: Put) -> tuple[pb.DatasetManifest, object_pb2.ObjectRef]:
    """Return the manifest of what is at `path` and its object, once `put` has stored shards and manifest.

    Raises Invalid (DATASET_…) naming what is wrong with the data and how to mend it, and what `put` raises.
    """
    reader = open_reader(path, choices)
    manifest = write(reader, put, description=choices.description or describe(reader.found, path))
    return manifest, put(manifest.SerializeToString(deterministic=True))


def open_reader(path: Path, choices: Options) -> Reader:
    """Return the reader for what is at `path`; raises Invalid (DATASET_PATH_UNKNOWN, DATASET_FORMAT_UNKNOWN, …)."""
    found = options.check_path(path)
    if cifar.form_of(found) is not None:
        options.check(choices, _CIFAR_TAKES, "CIFAR archives")
        return Cifar(found, choices)
    if idx.looks_like(found):
        options.check(choices, idx.TAKES, "IDX files")
        return Arrays(idx.parts(found), choices, "idx")
    if found.suffix.lower() in (".npz", ".npy") or _has_arrays(found):
        options.check(choices, arrays.TAKES, "arrays")
        return Arrays(_array_parts(found, choices), choices, "npz" if found.suffix.lower() == ".npz" else "npy")
    if columns.find_tables(found):
        options.check(choices, tables.TAKES, "tables")
        return tables.Tables(found, choices)
    if found.is_dir():
        options.check(choices, folder.TAKES, "folders of images")
        return folder.ImageFolder(found, choices)
    raise Invalid(
        "DATASET_FORMAT_UNKNOWN",
        f"path: {found.name} is none of: a folder of images by class, CSV or Parquet, .npz or .npy, IDX files, a CIFAR"
        " archive",
        field="path",
    )


def describe(found: Found, path: Path) -> str:
    """Return one line for people."""
    dims = "x".join(str(size) for size in found.dims)
    noun = {IMAGE: "images", SERIES: "series"}.get(found.kind, "rows")
    learned = (
        f"{found.targets} target{'s' if found.targets > 1 else ''}" if found.targets else f"{found.classes} classes"
    )
    return f"{noun} of {dims}, {learned}, from {path.name}"


class Cifar:
    """Reads a CIFAR archive; `--label coarse` takes the twenty coarse classes of CIFAR-100."""

    def __init__(self, path: Path, choices: Options) -> None:
        """Read it; raises Invalid (DATASET_FILES_CORRUPT, DATASET_PICKLED, DATASET_OPTION_INVALID)."""
        self.bad = BadFiles(choices.skip_bad)
        self._archive = read = cifar.read(path)
        names, labels = read.class_names, read.labels
        if choices.task == "regression" or choices.kind not in ("", "image"):
            raise Invalid("DATASET_OPTION_INVALID", "kind: CIFAR archives are images with classes", field="kind")
        if choices.label not in ("", "fine"):
            if choices.label != "coarse" or read.coarse is None:
                raise Invalid(
                    "DATASET_OPTION_INVALID",
                    "label: CIFAR-100 has fine and coarse labels, CIFAR-10 one kind",
                    field="label",
                )
            names, labels = read.coarse_names, read.coarse
        self._labels = labels
        form = cifar.form_of(path)
        classes = 20 if labels is read.coarse else form.classes if form else 0
        self.found = Found("cifar", IMAGE, read.images.shape[1:], names if len(names) == classes else (), classes)

    def batches(self) -> Iterator[Batch]:
        """Yield the images, the test split last."""
        train = len(self._labels) - self._archive.test_samples
        for first, end, is_test in ((0, train, False), (train, len(self._labels), True)):
            for start in range(first, end, _CIFAR_BATCH):
                here = slice(start, min(start + _CIFAR_BATCH, end))
                yield Batch(np.ascontiguousarray(self._archive.images[here]), self._labels[here], None, is_test)


def _has_arrays(path: Path) -> bool:
    return path.is_dir() and any(entry.suffix.lower() == ".npy" for entry in path.iterdir())


def _array_parts(path: Path, choices: Options) -> list[Part]:
    """Return samples with answers, and the test split where there is one, from the names of the arrays."""
    if path.suffix.lower() == ".npz":
        found = open_npz(path)
    elif path.is_dir():
        found = {entry.stem: open_npy(entry) for entry in sorted(path.iterdir()) if entry.suffix.lower() == ".npy"}
    else:
        raise Invalid(
            "DATASET_FORMAT_UNKNOWN",
            f"path: {path.name} is one array; put samples (x.npy) and labels (y.npy) into a folder, or use .npz",
            field="path",
        )
    by_name = {name.lower(): stream for name, stream in found.items()}
    for test in ("test", "val"):
        names = [f"{kind}_{test}" for kind in ("x", "y")]
        if "x_train" in by_name and all(name in by_name for name in names) and not choices.samples:
            return (
                [
                    Part(by_name["x_train"], by_name["y_train"], by_name.get("groups_train")),
                    Part(by_name[names[0]], by_name[names[1]], by_name.get(f"groups_{test}"), is_test=True),
                ]
                if "y_train" in by_name
                else _unknown(found, "y_train")
            )
    samples = _pick(found, by_name, choices.samples, (*_SAMPLE_NAMES, "x_train"), "samples")
    answer = choices.label or (choices.target[0] if choices.target else "")
    answers = _pick(found, by_name, answer, (*_ANSWER_NAMES, "y_train"), "label")
    groups = None
    if choices.group or any(name in by_name for name in _GROUP_NAMES):
        groups = _pick(found, by_name, choices.group, _GROUP_NAMES, "group")
    return [Part(samples, answers, groups)]


def _pick(
    found: dict[str, ArrayStream], by_name: dict[str, ArrayStream], wanted: str, usual: tuple[str, ...], field: str
) -> ArrayStream:
    if wanted:
        if wanted not in found:
            _unknown(found, wanted, field)
        return found[wanted]
    for name in usual:
        if name in by_name:
            return by_name[name]
    raise Invalid(
        "DATASET_COLUMN_UNKNOWN",
        f"{field}: which array? Say --{field} NAME; there are: {', '.join(sorted(found))}",
        field=field,
    )


def _unknown(found: dict[str, ArrayStream], name: str, field: str = "path") -> list[Part]:
    raise Invalid(
        "DATASET_COLUMN_UNKNOWN", f"path: there is no array {name}; there are: {', '.join(sorted(found))}", field=field
    )
