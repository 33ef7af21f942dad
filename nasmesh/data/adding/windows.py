"""Windows of series, cut from rows as they come; no window crosses from one group, file or split to another."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Found = tuple[NDArray[np.float32], NDArray[Any], NDArray[np.int64], list[int]]


class Windows:
    """Cuts windows of `length` rows every `stride` rows; keeps at most one window's rows between calls."""

    def __init__(self, length: int, stride: int, regression: bool) -> None:
        """Start before the first row."""
        self._length, self._stride, self._regression = length, stride, regression
        self._run: tuple[int, int, bool] | None = None
        self._rows: list[tuple[int, NDArray[np.float64], Any, bool]] = []
        self._skip = 0
        self._next = 0

    def add(
        self,
        values: NDArray[np.float64],
        answers: NDArray[Any],
        groups: NDArray[np.int64],
        mine: NDArray[np.bool_],
        fine: NDArray[np.bool_],
        files: NDArray[np.int64],
    ) -> Found:
        """Return the windows [n, columns, length] that these rows complete, with labels and groups, and rows at fault.

        The label of a window is the commonest of its rows (the earliest of equals), its targets are their mean.
        """
        found: list[NDArray[np.float64]] = []
        chosen: list[Any] = []
        named: list[int] = []
        broken: list[int] = []
        for index in range(len(values)):
            number = self._next
            self._next += 1
            run = (int(files[index]), int(groups[index]), bool(mine[index]))
            if run != self._run:
                self._run, self._rows, self._skip = run, [], 0
            if not mine[index]:
                continue
            if self._skip:
                self._skip -= 1
                continue
            self._rows.append((number, values[index], answers[index], bool(fine[index])))
            if len(self._rows) < self._length:
                continue
            if all(row[3] for row in self._rows):
                found.append(np.stack([row[1] for row in self._rows], axis=1))
                chosen.append(self._answer([row[2] for row in self._rows]))
                named.append(int(groups[index]))
            else:
                broken.append(self._rows[0][0])
            self._rows = self._rows[self._stride :]
            self._skip = max(0, self._stride - self._length)
        shape = (0, values.shape[1], self._length)
        samples = np.stack(found).astype(np.float32) if found else np.zeros(shape, dtype=np.float32)
        labels = np.asarray(chosen, dtype=answers.dtype).reshape(len(chosen), *answers.shape[1:])
        return samples, labels, np.asarray(named, dtype=np.int64), broken

    def _answer(self, answers: list[Any]) -> Any:
        if self._regression:
            return np.mean(np.stack(answers), axis=0)
        return Counter(int(answer) for answer in answers).most_common(1)[0][0]
