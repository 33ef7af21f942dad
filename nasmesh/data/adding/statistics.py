"""Mean and standard deviation of each channel, from batches, without holding the samples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE_VALUES = 1 << 18


class Moments:
    """Running moments per channel (axis 1), merged batch by batch (Chan, Golub and LeVeque 1979)."""

    def __init__(self, channels: int, full_scale: float = 1.0) -> None:
        """Start at nothing; values are divided by `full_scale`."""
        self._count = 0
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)
        self._scale = full_scale

    def add(self, values: NDArray[Any]) -> None:
        """Add values [n, channels, ...]."""
        # In small pieces: sums are made in numbers eight times as wide as bytes.
        rows = max(1, _PIECE_VALUES * len(values) // max(1, values.size))
        for first in range(0, len(values), rows):
            self._add(values[first : first + rows])

    def _add(self, values: NDArray[Any]) -> None:
        axes = (0, *range(2, values.ndim))
        exact = values.astype(np.float64) / self._scale
        count = exact.size // exact.shape[1]
        mean = exact.mean(axis=axes)
        exact -= mean.reshape((1, -1) + (1,) * (values.ndim - 2))
        squares = np.square(exact, out=exact).sum(axis=axes)
        total = self._count + count
        difference = mean - self._mean
        self._mean = self._mean + difference * (count / total)
        self._squares = self._squares + squares + difference**2 * (self._count * count / total)
        self._count = total

    @property
    def mean(self) -> list[float]:
        """Mean of each channel."""
        return [float(value) for value in self._mean]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel; 1 for one that never changes, so that it can be divided by."""
        deviation = np.sqrt(self._squares / max(1, self._count))
        floor = 1e-7 * np.maximum(1.0, np.abs(self._mean))
        return [float(value) for value in np.where(deviation > floor, deviation, 1.0)]
