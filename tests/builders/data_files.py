"""Small data sets in files, as people have them, and what reading them gives."""

import csv
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nasmesh.data.adding.add import add
from nasmesh.data.adding.options import Options
from nasmesh.data.load import Splits, load
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dataset_manifest_pb2, dataset_pb2, object_pb2


def stored(path: Path, store: MemoryStore, **options: Any) -> dataset_pb2.DatasetSpec:
    """Add what is at a path, and return the specification that names it."""

    def put(content: bytes) -> object_pb2.ObjectRef:
        return store.put(ObjectKind.DATASET, content, extension="bin")

    _, ref = add(path, Options(**options), put)
    return dataset_pb2.DatasetSpec(dataset="datasets/mine", manifest=ref)


def added(path: Path, **options: Any) -> tuple[dataset_manifest_pb2.DatasetManifest, Splits]:
    """Add what is at a path and load it again: its manifest and the data."""
    store = MemoryStore()
    spec = stored(path, store, **options)
    return dataset_manifest_pb2.DatasetManifest.FromString(store.get(spec.manifest)), load(spec, store)


def write_image(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    """Write [h, w] or [h, w, 3] bytes as an image file, in another mode if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def write_folder(
    path: Path, classes: Sequence[str], each: int, *, side: int = 6, seed: int = 0
) -> dict[str, np.ndarray]:
    """Write random grey images by class; return the pixels by path below the folder."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in classes:
        for index in range(each):
            pixels = rng.integers(0, 256, (side, side), dtype=np.uint8)
            write_image(path / name / f"{index:03}.png", pixels)
            found[f"{name}/{index:03}.png"] = pixels
    return found


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Write a table."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_tar(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    """Write a gzipped archive with one folder."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
    return path
