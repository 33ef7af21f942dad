"""Reads the digits that scikit-learn's wheel carries, without importing scikit-learn (which takes over a second)."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from nasmesh.data.samples import Samples
from nasmesh.errors import NotFound

_GREY_LEVELS = 16  # stored values are 0..16


def find() -> Path:
    """Return the file's path; raises NotFound (DATASET_ABSENT) where scikit-learn is not installed."""
    spec = importlib.util.find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise NotFound(
        "DATASET_ABSENT",
        "datasets/digits is part of scikit-learn, which is not installed here; run: pip install 'nasmesh[train]'",
        field="data.dataset",
    )


def read() -> Samples:
    """Return 1,797 images, uint8 [N, 1, 8, 8] scaled to 0..255, with labels."""
    text = gzip.decompress(find().read_bytes()).decode("ascii")
    rows = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.int64)
    grey = (rows[:, :-1] * 255 + _GREY_LEVELS // 2) // _GREY_LEVELS
    images = grey.astype(np.uint8).reshape(-1, 1, 8, 8)
    return Samples(images=images, labels=rows[:, -1].copy(), test_samples=0)
