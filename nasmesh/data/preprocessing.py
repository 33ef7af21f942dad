"""How stored samples become network input: read from the network's own metadata, so no two readers can differ."""

import json
import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.source import Rows
from nasmesh.errors import Rejected

KEY = "nasmesh.preprocessing"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """(value / full scale - mean) / std per channel; with `per_image`, by each image's own mean and standard deviation.

    Full scale is 255 for uint8 (images), 1 for float32 (series, tables; the channels of a table are its columns). Empty
    `mean` and `std` stand for 0 and 1.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    per_image: bool = False

    def scale_and_shift(self, channels: int, full_scale: float = 255.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return per-channel (scale, shift) with which value * scale + shift is the network's input."""
        mean = self.mean or (0.0,) * channels
        std = self.std or (1.0,) * channels
        scale = tuple(1 / (full_scale * s) for s in std)
        return scale, tuple(-m / s for m, s in zip(mean, std, strict=True))

    def apply(self, samples: Rows) -> NDArray[np.float32]:
        """Return float32 input for stored samples of the same shape: [N, C, H, W], [N, C, L] or [N, D]."""
        full_scale = 255.0 if samples.dtype == np.uint8 else 1.0
        if self.per_image:
            values = samples.astype(np.float32) / np.float32(full_scale)
            axes = tuple(range(1, samples.ndim))
            mean = values.mean(axis=axes, keepdims=True, dtype=np.float32)
            deviation = values.std(axis=axes, keepdims=True, dtype=np.float32)
            floor = np.float32(per_image_floor(samples.shape[1:]))
            return np.asarray((values - mean) / np.maximum(deviation, floor), dtype=np.float32)
        scale, shift = self.scale_and_shift(samples.shape[1], full_scale)
        each = (-1,) + (1,) * (samples.ndim - 2)  # one number a channel, for whatever dimensions follow
        scaled = samples.astype(np.float32)  # one copy, changed in place: a batch is more than fits a cache
        scaled *= np.asarray(scale, dtype=np.float32).reshape(each)
        scaled += np.asarray(shift, dtype=np.float32).reshape(each)
        return scaled


def per_image_floor(sample_dims: tuple[int, ...]) -> float:
    """Return the least standard deviation divided by: 1 / sqrt(values), tf.image.per_image_standardization's rule."""
    return 1 / math.sqrt(math.prod(sample_dims))


def from_metadata(entries: dict[str, str], *, channels: int) -> Preprocessing:
    """Return the rule in a network's metadata; where there is none, pixel / 255.

    Raises Rejected (PREPROCESSING_INVALID) where it is malformed or does not fit `channels`.
    """
    text = entries.get(KEY)
    if text is None:
        return Preprocessing()
    try:
        content = cast(object, json.loads(text))
        if not isinstance(content, dict):
            raise TypeError("no object")
        rule = Preprocessing(
            mean=tuple(float(value) for value in content.get("mean", ())),
            std=tuple(float(value) for value in content.get("std", ())),
            per_image=bool(content.get("per_image", False)),
        )
    except (ValueError, TypeError) as error:
        raise Rejected("PREPROCESSING_INVALID", f"{KEY}: {error}", field=KEY) from error
    values = (*rule.mean, *rule.std)
    if len(rule.mean) not in (0, channels) or len(rule.std) not in (0, channels):
        raise Rejected("PREPROCESSING_INVALID", f"{KEY} must have one mean and std per channel ({channels})", field=KEY)
    if not all(math.isfinite(value) for value in values) or any(value <= 0 for value in rule.std):
        raise Rejected("PREPROCESSING_INVALID", f"{KEY}: numbers must be finite and std above 0", field=KEY)
    return rule
