"""RandAugment (Cubuk et al. 2020) for whole batches on the device: each image has its own operations.

The operations and what a magnitude of 0 to 30 means are torchvision's, which follow the paper. Images are uint8
[N, C, H, W] before and after. Geometry takes the nearest pixel and fills with black.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 30.0
LUMA = (0.299, 0.587, 0.114)
_TRANSLATION = 150 / 331  # of an image's side, at the largest magnitude


def apply_operations(images: Tensor, operations: Tensor, signs: Tensor, magnitude: float) -> Tensor:
    """Return images after one layer: image i through operation `operations[i]`, in the direction `signs[i]`.

    `operations` and `signs` [N] are on the processor, so that nothing waits for the device to know the groups.
    """
    strength = magnitude / LARGEST
    result = images.clone()
    for number, (_, apply) in enumerate(OPERATIONS):
        rows = (operations == number).nonzero().flatten()
        if len(rows) and apply is not None:
            here = rows.to(images.device)
            result[here] = apply(images[here], signs[rows].to(images.device, torch.float32) * strength)
    return result


def _tones(images: Tensor, factor: Tensor, other: Tensor) -> Tensor:
    """Return other + factor * (images - other), rounded as uint8; `factor` [N] is by image."""
    values = other + factor[:, None, None, None] * (images.float() - other)
    return _to_bytes(values)


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def grey(images: Tensor) -> Tensor:
    """Return the luminance [N, 1, H, W] of images with three channels (ITU-R 601); of others, their mean channel."""
    values = images.float()
    if images.shape[1] != len(LUMA):
        return values.mean(1, keepdim=True)
    weights = torch.tensor(LUMA, device=images.device).view(1, -1, 1, 1)
    return (values * weights).sum(1, keepdim=True)


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return _tones(images, 1 + 0.9 * strength, torch.zeros((), device=images.device))


def _colour(images: Tensor, strength: Tensor) -> Tensor:
    return _tones(images, 1 + 0.9 * strength, grey(images)) if images.shape[1] == len(LUMA) else images


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    return _tones(images, 1 + 0.9 * strength, grey(images).mean((2, 3), keepdim=True))


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    if min(images.shape[2:]) < 3:
        return images
    kernel = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]], device=images.device) / 13
    channels = images.shape[1]
    soft = images.float()
    inner = functional.conv2d(soft, kernel.expand(channels, 1, 3, 3), groups=channels)
    soft = soft.clone()
    soft[:, :, 1:-1, 1:-1] = inner.round()
    return _tones(images, 1 + 0.9 * strength, soft)


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    bits = 8 - torch.round(strength.abs() * LARGEST / (LARGEST / 4)).to(torch.int32)
    mask = (255 - (2 ** (8 - bits) - 1)).to(torch.uint8)
    return images & mask[:, None, None, None]


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    threshold = 255 * (1 - strength.abs())
    return torch.where(images >= threshold[:, None, None, None], 255 - images, images)


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    low = images.amin((2, 3), keepdim=True).float()
    high = images.amax((2, 3), keepdim=True).float()
    spread = high - low
    stretched = _floor_bytes((images.float() - low) * (255 / spread.clamp(min=1)))
    return torch.where(spread > 0, stretched, images)


def _floor_bytes(values: Tensor) -> Tensor:
    return (values + 1e-3).floor().clamp(0, 255).to(torch.uint8)


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    """Return images with an even histogram in each channel: PIL's integer rule."""
    count, channels = images.shape[:2]
    flat = images.reshape(count * channels, -1).long()
    planes = torch.arange(len(flat), device=images.device)[:, None] * 256
    histogram = torch.bincount((flat + planes).flatten(), minlength=len(flat) * 256).view(-1, 256)
    last = torch.where(histogram > 0, torch.arange(256, device=images.device), -1).amax(1, keepdim=True)
    step = (histogram.sum(1, keepdim=True) - histogram.gather(1, last)) // 255
    before = histogram.cumsum(1) - histogram
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    even = table.gather(1, flat).to(torch.uint8)
    return torch.where(step > 0, even, flat.to(torch.uint8)).view_as(images)


def _warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Return images sampled at matrix [N, 2, 3] times pixel positions relative to the centre."""
    height, width = images.shape[2:]
    # grid_sample counts in halves of the image: x from -1 to 1 over the width.
    halves = torch.tensor([width / 2, height / 2], device=images.device)
    scaled = matrix.clone()
    scaled[:, :, :2] = matrix[:, :, :2] * halves[None, None, :] / halves[None, :, None]
    scaled[:, :, 2] = matrix[:, :, 2] / halves
    grid = functional.affine_grid(scaled, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved.to(torch.uint8)


def _matrix(strength: Tensor, entries: tuple[object, ...]) -> Tensor:
    """Return [N, 2, 3] from six entries, each a number or a tensor [N]."""
    columns = [
        entry if isinstance(entry, Tensor) else torch.full_like(strength, float(entry))  # type: ignore[arg-type]
        for entry in entries
    ]
    return torch.stack(columns, 1).view(-1, 2, 3)


def _shear_x(images: Tensor, strength: Tensor) -> Tensor:
    return _warp(images, _matrix(strength, (1, 0.3 * strength, 0, 0, 1, 0)))


def _shear_y(images: Tensor, strength: Tensor) -> Tensor:
    return _warp(images, _matrix(strength, (1, 0, 0, 0.3 * strength, 1, 0)))


def _translate_x(images: Tensor, strength: Tensor) -> Tensor:
    pixels = torch.trunc(strength * _TRANSLATION * images.shape[3])
    return _warp(images, _matrix(strength, (1, 0, pixels, 0, 1, 0)))


def _translate_y(images: Tensor, strength: Tensor) -> Tensor:
    pixels = torch.trunc(strength * _TRANSLATION * images.shape[2])
    return _warp(images, _matrix(strength, (1, 0, 0, 0, 1, pixels)))


def _rotate(images: Tensor, strength: Tensor) -> Tensor:
    angle = strength * math.radians(30)
    cos, sin = angle.cos(), angle.sin()
    return _warp(images, _matrix(strength, (cos, -sin, 0, sin, cos, 0)))


OPERATIONS: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor] | None], ...] = (
    ("identity", None),
    ("shear_x", _shear_x),
    ("shear_y", _shear_y),
    ("translate_x", _translate_x),
    ("translate_y", _translate_y),
    ("rotate", _rotate),
    ("brightness", _brightness),
    ("color", _colour),
    ("contrast", _contrast),
    ("sharpness", _sharpness),
    ("posterize", _posterize),
    ("solarize", _solarize),
    ("autocontrast", _autocontrast),
    ("equalize", _equalize),
)
"""Name and function of each, by number; the function takes images and the signed strength [N], -1 to 1."""
