"""Windows of series, cut from rows as they come; no window crosses from one group, file or split to another."""

from collections import Counter
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nasmesh.errors import Invalid


def check_apart(window: int, stride: int, *, grouped: bool) -> None:
    """Raise Invalid (DATASET_WINDOWS_SHARED) where windows share rows and nothing keeps such windows in one split."""
    if 0 < stride < window and not grouped:
        raise Invalid(
            "DATASET_WINDOWS_SHARED",
            f"stride: windows of {window} rows every {stride} share rows, and those of one recording would be in"
            " several splits, so scores would be too good; say who a row is from (--group COLUMN), give each recording"
            " a file of its own, or leave --stride out",
            field="stride",
        )


def refuse_none(window: int) -> NoReturn:
    """Raise Invalid (DATASET_EMPTY) where no window fits."""
    raise Invalid(
        "DATASET_EMPTY",
        f"window: nowhere do {window} rows of one group, file and split follow each other; sort the rows by group, or"
        " make windows shorter",
        field="window",
    )


class RowsIn(NamedTuple):
    """Some rows: features [n, columns], answers [n] or [n, T], groups, files, which are wanted, which can be used."""

    values: NDArray[np.float32]
    answers: NDArray[Any]
    groups: NDArray[np.int64]
    files: NDArray[np.int64]
    mine: NDArray[np.bool_]
    fine: NDArray[np.bool_]


class Cut(NamedTuple):
    """Windows [n, columns, length] with answers and groups, and the numbers of rows at which a window is at fault."""

    samples: NDArray[np.float32]
    answers: NDArray[Any]
    groups: NDArray[np.int64]
    broken: list[int]


class _Rest(NamedTuple):
    """Rows of a run of which no window was cut yet."""

    values: NDArray[np.float32]
    answers: NDArray[Any]
    fine: NDArray[np.bool_]
    numbers: NDArray[np.int64]

    def after(self, first: int) -> "_Rest":
        """Return what is left from a row on, as arrays of its own."""
        return _Rest(
            self.values[first:].copy(),
            self.answers[first:].copy(),
            self.fine[first:].copy(),
            self.numbers[first:].copy(),
        )

    def then(self, other: "_Rest") -> "_Rest":
        """Return these rows followed by others."""
        return _Rest(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.answers, other.answers]),
            np.concatenate([self.fine, other.fine]),
            np.concatenate([self.numbers, other.numbers]),
        )


class Windows:
    """Cuts windows of `length` rows every `stride` rows; keeps less than a window's rows between calls."""

    def __init__(self, length: int, stride: int, regression: bool) -> None:
        """Start before the first row."""
        self._length, self._stride, self._regression = length, stride, regression
        self._run: tuple[int, int, bool] | None = None
        self._rest: _Rest | None = None
        self._skip = 0
        self._next = 0

    def add(self, rows: RowsIn) -> Cut:
        """Return the windows that these rows complete.

        The label of a window is the commonest of its rows (the earliest of equals), its targets are their mean.
        """
        found: list[Cut] = []
        count = len(rows.values)
        keys = np.stack([rows.files, rows.groups, rows.mine.astype(np.int64)], axis=1)
        borders = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
        for first, end in zip([0, *borders.tolist()], [*borders.tolist(), count], strict=True):
            if first == end:
                continue
            run = (int(rows.files[first]), int(rows.groups[first]), bool(rows.mine[first]))
            if run != self._run:
                self._run, self._rest, self._skip = run, None, 0
            if run[2]:
                here = slice(first, end)
                numbers = np.arange(self._next + first, self._next + end)
                found.append(self._cut(_Rest(rows.values[here], rows.answers[here], rows.fine[here], numbers), run[1]))
        self._next += count
        return self._joined(found, rows)

    def _cut(self, new: _Rest, group: int) -> Cut:
        """Return the windows of a run's rest with the rows that follow it."""
        rows = new if self._rest is None else self._rest.then(new)
        skipped = min(self._skip, len(rows.values))
        self._skip -= skipped
        rows = rows.after(skipped)
        length, stride = self._length, self._stride
        count = max(0, (len(rows.values) - length) // stride + 1)
        after = count * stride
        self._skip += max(0, after - len(rows.values))
        self._rest = rows.after(after)
        if not count:
            return Cut(np.zeros((0, rows.values.shape[1], length), np.float32), rows.answers[:0], rows.numbers[:0], [])
        windows = sliding_window_view(rows.values, length, axis=0)[::stride]
        fine = sliding_window_view(rows.fine, length)[::stride].all(axis=1)
        answers = sliding_window_view(rows.answers, length, axis=0)[::stride]
        chosen = answers.mean(axis=-1) if self._regression else _commonest(answers)
        return Cut(
            windows[fine].astype(np.float32),
            chosen[fine].astype(rows.answers.dtype),
            np.full(int(fine.sum()), group, dtype=np.int64),
            rows.numbers[:after:stride][:count][~fine].tolist(),
        )

    def _joined(self, found: list[Cut], rows: RowsIn) -> Cut:
        if not found:
            none = np.zeros((0, rows.values.shape[1], self._length), dtype=np.float32)
            return Cut(none, rows.answers[:0], rows.groups[:0], [])
        return Cut(
            np.concatenate([cut.samples for cut in found]),
            np.concatenate([cut.answers for cut in found]),
            np.concatenate([cut.groups for cut in found]),
            [row for cut in found for row in cut.broken],
        )


def _commonest(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the commonest label of each row [n, length]; most rows have one only."""
    chosen = labels[:, 0].copy()
    for index in np.flatnonzero(labels.min(axis=1) != labels.max(axis=1)).tolist():
        chosen[index] = Counter(labels[index].tolist()).most_common(1)[0][0]
    return chosen
