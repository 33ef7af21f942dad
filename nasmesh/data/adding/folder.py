"""A folder of images by class: PATH/CLASS/…, or PATH/train/CLASS/… with PATH/test/CLASS/…"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nasmesh.data.adding.images import LITTER, SUFFIXES, Entry, ImageFiles
from nasmesh.data.adding.options import Options
from nasmesh.data.adding.reader import BadFiles, Batch, Found
from nasmesh.data.info import IMAGE
from nasmesh.errors import Invalid

TAKES = frozenset({"size", "mode", "kind", "task"})
_TRAIN, _TEST = ("train", "training"), ("test", "testing")
_VALIDATION = ("val", "valid", "validation")


class ImageFolder:
    """Reads such a folder. A folder `val` joins what is trained on, or is the test split where there is no other."""

    def __init__(self, path: Path, options: Options) -> None:
        """Find classes and files and look at their headers; raises Invalid as ImageFiles, and for no classes."""
        if options.kind not in ("", "image") or options.task == "regression":
            raise Invalid(
                "DATASET_OPTION_INVALID",
                "kind: a folder of images by class is classified; for targets give a table with a column of images",
                field="kind" if options.kind not in ("", "image") else "task",
            )
        self._path = path
        self.bad = BadFiles(options.skip_bad)
        train, test = self._parts()
        folders = [(folder, False) for folder in train] + [(folder, True) for folder in test]
        names = sorted({name for folder, _ in folders for name in _folders(folder)}, key=_in_order)
        if not names:
            raise Invalid(
                "DATASET_FORMAT_UNKNOWN", f"path: {path} has no folders with images, one for each class", field="path"
            )
        entries: list[Entry] = []
        for folder, is_test in folders:
            self._note_strays(folder)
            for label, name in enumerate(names):
                entries += self._files(folder / name, label, is_test)
        self._check_classes(names, entries)
        self._images = ImageFiles(entries, options, self.bad)
        self.found = Found("image-folder", IMAGE, self._images.dims, tuple(names), len(names))

    def batches(self) -> Iterator[Batch]:
        """Yield the images."""
        yield from self._images.batches(np.dtype(np.int64))

    def _parts(self) -> tuple[list[Path], list[Path]]:
        """Return the folders to train on and to test on."""
        by_name = {name.lower(): self._path / name for name in _folders(self._path)}
        train = [by_name[name] for name in _TRAIN if name in by_name]
        if not train:
            return [self._path], []
        test = [by_name[name] for name in _TEST if name in by_name]
        validation = [by_name[name] for name in _VALIDATION if name in by_name]
        known = {*_TRAIN, *_TEST, *_VALIDATION}
        others = sorted(set(by_name) - known)
        if others:
            raise Invalid(
                "DATASET_FORMAT_UNKNOWN",
                f"path: beside {train[0].name} there is {others[0]!r}, which is none of train, val and test;"
                " move it away, or give the folder of classes itself",
                field="path",
            )
        return (train + validation, test) if test else (train, validation)

    def _note_strays(self, folder: Path) -> None:
        for entry in sorted(os.scandir(folder), key=lambda found: found.name):
            if not entry.is_dir() and not _is_litter(entry.name):
                self.bad.add(self._relative(Path(entry.path)), "is in no class's folder")

    def _files(self, folder: Path, label: int, is_test: bool) -> Iterator[Entry]:
        for where, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not _is_litter(name))
            for name in sorted(files):
                path = Path(where) / name
                if _is_litter(name):
                    continue
                if path.suffix.lower() in SUFFIXES:
                    yield Entry(path, self._relative(path), label, 0, is_test)
                else:
                    self.bad.add(self._relative(path), "is no image by its name")

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._path))

    def _check_classes(self, names: list[str], entries: list[Entry]) -> None:
        found = {entry.answer for entry in entries}
        empty = [name for label, name in enumerate(names) if label not in found]
        if empty:
            more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            raise Invalid(
                "DATASET_CLASS_EMPTY",
                f"path: {len(empty)} classes ({', '.join(empty[:5])}{more}) have no image; add some, or take the folder"
                " away",
                field="path",
            )


def _folders(path: Path) -> list[str]:
    return [entry.name for entry in os.scandir(path) if entry.is_dir() and not _is_litter(entry.name)]


def _is_litter(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name.lower() in LITTER


def _in_order(name: str) -> tuple[bool, int, str]:
    """Sort numbers as numbers, before everything else."""
    is_number = name.isascii() and name.isdigit()
    return not is_number, int(name) if is_number else 0, name
