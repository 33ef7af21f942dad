"""How stored samples become network input: read from the network's own metadata, so no two readers can differ."""

import json
import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from nasmesh.data.samples import Images
from nasmesh.errors import Rejected

KEY = "nasmesh.preprocessing"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """(pixel / 255 - mean) / std per channel; with `per_image`, by each image's own mean and standard deviation.

    Empty `mean` and `std` stand for 0 and 1.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    per_image: bool = False

    def scale_and_shift(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return per-channel (scale, shift) with which pixel * scale + shift is the network's input."""
        mean = self.mean or (0.0,) * channels
        std = self.std or (1.0,) * channels
        scale = tuple(1 / (255 * s) for s in std)
        return scale, tuple(-m / s for m, s in zip(mean, std, strict=True))

    def apply(self, images: Images) -> NDArray[np.float32]:
        """Return float32 input [N, C, H, W] for uint8 images of the same shape."""
        if self.per_image:
            values = images.astype(np.float32) / np.float32(255)
            mean = values.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
            deviation = values.std(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
            floor = np.float32(per_image_floor(images.shape[1:]))
            return np.asarray((values - mean) / np.maximum(deviation, floor), dtype=np.float32)
        scale, shift = self.scale_and_shift(images.shape[1])
        scaled = images.astype(np.float32) * np.asarray(scale, dtype=np.float32)[:, None, None]
        return np.asarray(scaled + np.asarray(shift, dtype=np.float32)[:, None, None], dtype=np.float32)


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
