"""What a built-in data set's reader returns: raw samples and labels, and the digest that names them."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # [N, C, H, W]
Labels = NDArray[np.int64]  # [N]
Targets = NDArray[np.float32]  # [N, targets]
Groups = NDArray[np.int64]  # [N]


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples of a data set; the last `test_samples` are its own test split, 0 where it defines none."""

    images: Images
    labels: Labels
    test_samples: int

    def digest(self) -> str:
        """Return the SHA-256 over shape, pixels and labels: what a result says it was measured on."""
        content = hashlib.sha256()
        content.update(",".join(str(size) for size in self.images.shape).encode())
        content.update(np.ascontiguousarray(self.images).data)
        content.update(np.ascontiguousarray(self.labels.astype("<i8")).data)
        return content.hexdigest()
