"""Where rows of samples come from: memory, or pieces of an added data set read as they are wanted."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# uint8 [N, C, H, W] for images; float32 [N, C, L] for series and [N, D] for tables.
Rows = NDArray[Any]
Indices = NDArray[np.int64]


class Source(Protocol):
    """The samples of a data set, numbered from 0. Safe to read from several threads."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of one sample, without the batch."""
        ...

    @property
    def dtype(self) -> "np.dtype[Any]":
        """uint8 for images, float32 for series and tables."""
        ...

    @property
    def array(self) -> Rows | None:
        """All samples [N, ...], read-only, where they are in memory; None where they are read in pieces."""
        ...

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def rows(self, indices: Indices) -> Rows:
        """Return the samples of `indices`, in their order, as a new array [len(indices), ...].

        Raises NotFound (OBJECT_MISSING), Invalid (OBJECT_CORRUPT, DATASET_CORRUPT), Unavailable (STORE_DOWN).
        """
        ...


class ArraySource:
    """Samples that are all in memory."""

    def __init__(self, samples: Rows) -> None:
        """Keep an array [N, ...], which nobody may write to any more."""
        samples.flags.writeable = False
        self._samples = samples

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of one sample."""
        return self._samples.shape[1:]

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Type of the values."""
        return self._samples.dtype

    @property
    def array(self) -> Rows:
        """All samples."""
        return self._samples

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def rows(self, indices: Indices) -> Rows:
        """Return a copy of these rows."""
        return self._samples[indices]
