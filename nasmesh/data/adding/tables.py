"""Tables: rows are samples, or steps of series that windows are cut from, or name image files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.adding.columns import Columns, Numbering, find_tables, number_or_text, numbered
from nasmesh.data.adding.images import Entry, ImageFiles
from nasmesh.data.adding.options import Options
from nasmesh.data.adding.reader import BadFiles, Batch, Found, check_are_classes, number_labels
from nasmesh.data.adding.windows import RowsIn, Windows, check_apart, refuse_none
from nasmesh.data.info import IMAGE, SERIES, TABLE
from nasmesh.errors import Invalid

TAKES = frozenset(
    {
        "task",
        "kind",
        "size",
        "mode",
        "label",
        "target",
        "image",
        "group",
        "split",
        "drop",
        "window",
        "stride",
        "classes",
    }
)
_LABELS = ("label", "class", "target", "y", "category")
_IMAGES = ("image", "path", "file", "filename", "file_name", "filepath", "image_path")
_NAME_CHARS = 256
_SPLITS = ("split",)
_TEST = frozenset({"test", "testing"})


class Known(NamedTuple):
    """What is known of every row before features are read. `answers` [n] or [n, T]; `usable` says which rows count."""

    answers: NDArray[Any]
    groups: NDArray[np.int64]
    is_test: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    images: list[str | None]
    starts: list[int]


class Tables:
    """Reads CSV and Parquet files: one, or all of a folder."""

    def __init__(self, path: Path, options: Options) -> None:
        """Look at the columns and read those that are no features; raises Invalid (DATASET_…) naming the column."""
        self._options = options
        self._path = path
        self._cut_any = False
        self._columns = Columns(find_tables(path))
        for name in (options.label, *options.target, options.image, options.group, options.split, *options.drop):
            self._check_column(name)
        self._wanted = self._choose_answers()
        self._image = self._choose_image()
        others = {*self._wanted, self._image, options.group, *options.drop}
        self._split = options.split or self._columns.text_called(_SPLITS, others)
        self.bad = BadFiles(options.skip_bad, unit="files" if self._image else "rows")
        self._regression, names, self._known = self._read_known()
        grouped = bool(options.group) or (bool(options.window) and len(self._columns.paths) > 1)
        check_apart(options.window, options.stride, grouped=grouped)
        learned: dict[str, Any] = {"class_names": tuple(names), "classes": len(names)}
        if self._regression:
            learned = {"targets": len(self._wanted), "target_names": _cut(self._wanted)}
        self._images: ImageFiles | None = None
        if self._image:
            self._refuse("window", options.window)
            self._images = ImageFiles(self._entries(), options, self.bad, grouped=grouped)
            self.found = Found("image-table", IMAGE, self._images.dims, grouped=grouped, **learned)
            return
        self._refuse("size", options.size)
        self._refuse("mode", options.mode)
        self._features = self._choose_features()
        width = len(self._features)
        source, kind, dims = (
            ("series-table", SERIES, (width, options.window)) if options.window else ("table", TABLE, (width,))
        )
        self.found = Found(source, kind, tuple(dims), grouped=grouped, channel_names=_cut(self._features), **learned)

    def batches(self) -> Iterator[Batch]:
        """Yield the samples; rows that cannot be used are noted."""
        if self._images is not None:
            yield from self._images.batches(np.dtype(np.float32 if self._regression else np.int64))
            return
        self._note_rows()
        if not self._options.window:
            self._check_numbering()
        for is_test in (False, True):
            if (self._known.is_test == is_test).any():
                yield from self._windows(is_test) if self._options.window else self._rows(is_test)
        if self._options.window and not self._cut_any and not self.bad.count:
            refuse_none(self._options.window)

    # --- samples ---------------------------------------------------------------------------------------------

    def _rows(self, is_test: bool) -> Iterator[Batch]:
        known = self._known
        for first, file, values in self._values():
            here = slice(first, first + len(values))
            mine = known.usable[here] & (known.is_test[here] == is_test)
            finite = np.isfinite(values).all(axis=1)
            for index in np.flatnonzero(mine & ~finite).tolist():
                columns = [self._features[at] for at in np.flatnonzero(~np.isfinite(values[index]))]
                self.bad.add(self._row_name(file, first + index), f"{', '.join(columns[:3])} is no finite number")
            keep = mine & finite
            yield Batch(
                values[keep],
                known.answers[here][keep],
                known.groups[here][keep] if self.found.grouped else None,
                is_test,
            )

    def _check_numbering(self) -> None:
        numbering = Numbering(self._features)
        for first, file, values in self._values():
            if not numbering.goes_on(values, first, first - self._known.starts[file]):
                return
        numbering.refuse()

    def _windows(self, is_test: bool) -> Iterator[Batch]:
        windows = Windows(self._options.window, self._options.stride or self._options.window, self._regression)
        known = self._known
        for first, file, values in self._values():
            here = slice(first, first + len(values))
            mine = known.is_test[here] == is_test
            fine = known.usable[here] & np.isfinite(values).all(axis=1)
            cut = windows.add(
                RowsIn(values, known.answers[here], known.groups[here], np.full(len(values), file), mine, fine)
            )
            for row in cut.broken:
                self.bad.add(self._row_name(file, row), "a window that begins there has values or labels missing")
            if len(cut.samples):
                self._cut_any = True
                yield Batch(cut.samples, cut.answers, cut.groups if self.found.grouped else None, is_test)

    def _values(self) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Yield (number of the first row, file, features [n, columns]); what float32 cannot hold is infinite."""
        for piece in self._columns.pieces((), self._features):
            first = self._known.starts[piece.file] + piece.first
            with np.errstate(over="ignore"):
                values = np.stack([piece.columns[name] for name in self._features], axis=1).astype(np.float32)
            yield first, piece.file, values

    def _entries(self) -> list[Entry]:
        known, base = self._known, self._path if self._path.is_dir() else self._path.parent
        entries = []
        for row, name in enumerate(known.images):
            if name is None or not known.usable[row]:
                self.bad.add(name or self._row_name(0, row), "has no file, or no label")
                continue
            answer = known.answers[row] if self._regression else int(known.answers[row])
            entries.append(Entry(base / name, name, answer, int(known.groups[row]), bool(known.is_test[row])))
        return entries

    def _note_rows(self) -> None:
        for row in np.flatnonzero(~self._known.usable).tolist():
            if not self._options.window:
                self.bad.add(self._row_name(0, row), "has no label, or one that cannot be used")

    def _row_name(self, file: int, row: int) -> str:
        starts = self._known.starts
        file = max(file, int(np.searchsorted(starts, row, side="right")) - 1)
        # The first row of data is the second line of a file with a heading.
        return f"{self._columns.paths[file].name}, row {row - starts[file] + 1}"

    # --- columns ---------------------------------------------------------------------------------------------

    def _check_column(self, name: str) -> None:
        if name and name not in self._columns.names:
            raise Invalid(
                "DATASET_COLUMN_UNKNOWN",
                f"path: there is no column {name[:80]!r}; there are: {', '.join(self._columns.names[:20])}",
                field="label" if name == self._options.label else "path",
            )

    def _refuse(self, name: str, given: object) -> None:
        if given:
            what = "images" if name == "window" else "tables without images"
            raise Invalid("DATASET_OPTION_UNUSED", f"{name}: {what} have no use for it; leave it out", field=name)

    def _choose_answers(self) -> tuple[str, ...]:
        if self._options.target:
            return self._options.target
        if self._options.label:
            return (self._options.label,)
        by_name = {name.lower(): name for name in reversed(self._columns.names)}
        for name in _LABELS:
            if name in by_name:
                return (by_name[name],)
        raise Invalid(
            "DATASET_COLUMN_UNKNOWN",
            "label: which column is to be learned? Say --label COLUMN for classes or --target COLUMN for numbers; there"
            f" are: {', '.join(self._columns.names[:20])}",
            field="label",
        )

    def _choose_image(self) -> str:
        if self._options.image or self._options.kind not in ("", "image") or self._options.window:
            return self._options.image
        found = self._columns.text_called(_IMAGES, {*self._wanted, *self._options.drop})
        if not found and self._options.kind == "image":
            raise Invalid(
                "DATASET_COLUMN_UNKNOWN", "image: which column names the image files? Say --image COLUMN", field="image"
            )
        return found

    def _choose_features(self) -> list[str]:
        options = self._options
        others = {*self._wanted, options.group, self._split, *options.drop}
        features = [name for name in self._columns.names if name not in others]
        texts = [name for name in features if not self._columns.is_number(name)]
        if texts:
            raise Invalid(
                "DATASET_COLUMN_TEXT",
                f"path: {len(texts)} columns hold no numbers ({', '.join(texts[:5])}); turn them into numbers, or leave"
                f" them out: {' '.join(f'--drop {name}' for name in texts[:3])}",
                field="drop",
            )
        if not features:
            raise Invalid("DATASET_COLUMN_UNKNOWN", "path: no column is left to learn from", field="path")
        return features

    def _read_known(self) -> tuple[bool, list[str], Known]:
        """Return whether targets are predicted, the class names, and what is known of the rows."""
        options = self._options
        numeric = all(self._columns.is_number(name) for name in self._wanted)
        as_numbers = numeric and options.task != "classification"
        texts = [name for name in (self._image, options.group, self._split) if name]
        texts += [] if as_numbers else [name for name in self._wanted if name not in texts]
        seen: dict[str, list[Any]] = {name: [] for name in texts}
        parts: list[NDArray[np.float64]] = []
        starts, rows = [0] * len(self._columns.paths), 0
        files: list[NDArray[np.int64]] = []
        for piece in self._columns.pieces(texts, self._wanted if as_numbers else ()):
            if not piece.first:
                starts[piece.file] = rows
            for name in texts:
                seen[name] += piece.columns[name]
            if as_numbers:
                parts.append(np.stack([piece.columns[name] for name in self._wanted], axis=1))
            files.append(np.full(piece.rows, piece.file, dtype=np.int64))
            rows += piece.rows
        if not rows:
            raise Invalid("DATASET_EMPTY", "path: there is no row in it", field="path")
        numbers = np.concatenate(parts) if parts else None
        regression, names, answers, usable = self._answers(numbers, seen)
        groups = numbered(seen[options.group]) if options.group else np.concatenate(files)
        split = seen.get(self._split, [])
        is_test = np.asarray([str(value).lower() in _TEST for value in split], dtype=bool)
        known = Known(
            answers, groups, is_test if split else np.zeros(rows, bool), usable, seen.get(self._image, []), starts
        )
        return regression, names, known

    def _answers(
        self, numbers: NDArray[np.float64] | None, seen: dict[str, list[Any]]
    ) -> tuple[bool, list[str], NDArray[Any], NDArray[np.bool_]]:
        options = self._options
        where = f"column {', '.join(self._wanted)}"
        if numbers is not None:
            with np.errstate(over="ignore"):
                targets = numbers.astype(np.float32)
            finite = np.asarray(np.isfinite(targets).all(axis=1), dtype=bool)
            fractions = bool((numbers[finite] != np.rint(numbers[finite])).any())
            if options.task == "regression" or options.target or (fractions and not options.task):
                return True, [], targets, finite
            values: Sequence[Any] = [float(value) if np.isfinite(value) else None for value in numbers[:, 0]]
        elif options.task == "regression" or options.target:
            raise Invalid("DATASET_LABELS_INVALID", f"{where}: holds no numbers to predict", field="target")
        else:
            values = [number_or_text(value) for value in seen[self._wanted[0]]]
            if not all(isinstance(value, float) for value in values if value is not None):
                values = seen[self._wanted[0]]
        present = [value for value in values if value is not None]
        if options.skip_bad and present and isinstance(present[0], float):
            most = options.classes or float("inf")
            present = [value for value in present if 0 <= value < most]
        if not (options.task or options.label or options.classes):
            check_are_classes(list(set(present)), len(present), where)
        names, labels = number_labels(list(dict.fromkeys(present)), options.classes, where)
        found = np.asarray([labels.get(value, -1) for value in values], dtype=np.int64)
        return False, names, found, found >= 0


def _cut(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name[:_NAME_CHARS] for name in names)
