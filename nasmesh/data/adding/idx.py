"""A folder of IDX files: NAME-images-idx3-ubyte(.gz) with NAME-labels-idx1-ubyte(.gz), as MNIST and its kin have."""

from pathlib import Path

from nasmesh.data.adding.arrays import Part
from nasmesh.data.adding.streams import open_idx
from nasmesh.errors import Invalid

TAKES = frozenset({"kind", "task", "classes"})
_TEST = ("t10k", "test")


def looks_like(path: Path) -> bool:
    """Say whether a folder has such files."""
    return path.is_dir() and any("-images-idx" in entry.name or "-images.idx" in entry.name for entry in path.iterdir())


def parts(path: Path) -> list[Part]:
    """Return the pairs of samples and labels; raises Invalid (DATASET_FILES_CORRUPT) for one without the other."""
    found = []
    for images in sorted(entry for entry in path.iterdir() if "-images" in entry.name and "idx" in entry.name):
        stem = images.name.partition("-images")[0]
        labels = [entry for entry in sorted(path.iterdir()) if entry.name.startswith(f"{stem}-labels")]
        if not labels:
            raise Invalid(
                "DATASET_FILES_CORRUPT", f"path: beside {images.name} there is no {stem}-labels…", field="path"
            )
        found.append(Part(open_idx(images), open_idx(labels[0]), is_test=stem in _TEST))
    return found
