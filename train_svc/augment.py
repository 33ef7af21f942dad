"""What happens to a batch between the store and the network: augmentation and normalisation, on the device at once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nasmesh.clock import derive_seed
from nasmesh.data.preprocessing import Preprocessing, per_image_floor
from nasmesh.v1 import training_pb2 as pb
from train_svc.draws import EpochDraws, Mix, Spot
from train_svc.rand_augment import LUMA, apply_operations

Places = slice | Tensor  # in an epoch's order


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Turns stored values into network input, exactly as evaluation does."""

    scale: Tensor
    shift: Tensor
    full_scale: float
    per_image: bool

    @staticmethod
    def of(rule: Preprocessing, dims: tuple[int, ...], *, bytes_each: bool, device: torch.device) -> "Normaliser":
        """Return the rule for samples of `dims` that are uint8 (`bytes_each`) or float32."""
        full_scale = 255.0 if bytes_each else 1.0
        each = (1, -1) + (1,) * (len(dims) - 1)
        scale, shift = rule.scale_and_shift(dims[0], full_scale)
        factors, terms = (torch.tensor(values, device=device).view(each) for values in (scale, shift))
        return Normaliser(factors, terms, full_scale, rule.per_image)

    def stored(self, values: Tensor) -> Tensor:
        """Return input for values as they are stored."""
        if self.per_image:
            return self.unit(values.float() / self.full_scale)
        # One multiplication and addition, exactly as evaluation does it.
        return values * self.scale + self.shift

    def unit(self, values: Tensor) -> Tensor:
        """Return input for values that were divided by full scale."""
        if not self.per_image:
            return values * (self.scale * self.full_scale) + self.shift
        dims = tuple(range(1, values.dim()))
        deviation, mean = torch.std_mean(values, dim=dims, keepdim=True, correction=0)
        return (values - mean) / deviation.clamp(min=per_image_floor(tuple(values.shape[1:])))


class Augment:
    """Augments and normalises batches of one training; what it does to a sample depends on its place alone."""

    def __init__(self, config: pb.TrainConfig, normaliser: Normaliser) -> None:
        """`config` must be complete, and agree with the data (train_svc.agreement)."""
        self._how = config.augmentation
        self._seed = config.seed
        self._normaliser = normaliser

    def __call__(self, stored: Tensor, spot: Spot) -> Tensor:
        """Return float32 input for the stored values [n, ...] of these samples."""
        if stored.dim() == 4:
            draws, here = spot.draws, spot.places
            return self._tone(self._operate(self._crop_and_flip(stored, draws, here), draws, here), draws, here)
        values = self._normaliser.stored(stored)
        if self._how.shift:
            values = _move(values, spot.draws.moved[spot.places])
        if self._how.noise:
            values = values + self._how.noise * self._noise(values, spot)
        return values

    def _crop_and_flip(self, pixels: Tensor, draws: EpochDraws, here: Places) -> Tensor:
        """Return pixels [B, C, H, W]; both are one gather, as a mirrored crop reads its columns backwards."""
        how, pad = self._how, self._how.crop_padding
        if not pad and not how.flip:
            return pixels
        count, channels, height, width = pixels.shape
        device = pixels.device
        y = torch.arange(height, device=device).expand(count, height)
        x = torch.arange(width, device=device).expand(count, width)
        if how.flip:
            x = torch.where(draws.mirrored[here][:, None] > 0, width - 1 - x, x)
        if pad:
            y = y + draws.top[here][:, None]
            x = x + draws.left[here][:, None]
            pixels = functional.pad(pixels, (pad, pad, pad, pad))
        # One flat index an image for all channels: three times as fast as indexing with four tensors.
        at = (y[:, :, None] * (width + 2 * pad) + x[:, None, :]).view(count, 1, -1).expand(count, channels, -1)
        return pixels.view(count, channels, -1).gather(2, at).view(count, channels, height, width)

    def _operate(self, pixels: Tensor, draws: EpochDraws, here: Places) -> Tensor:
        for layer in range(self._how.rand_augment_operations):
            operations, signs = (drawn[here, layer] for drawn in (draws.operations, draws.signs))
            pixels = apply_operations(pixels, operations, signs, self._how.rand_augment_magnitude)
        return pixels

    def _tone(self, pixels: Tensor, draws: EpochDraws, here: Places) -> Tensor:
        """Return network input: brightness, contrast, saturation, normalisation, cutout."""
        how = self._how
        if not (how.brightness or how.contrast or how.saturation):
            return self._cut_out(draws, here, self._normaliser.stored(pixels))
        values = pixels.float() / 255
        if how.brightness:
            values = values + draws.brightness[here][:, None, None, None]
        if how.contrast:
            mean = values.mean(dim=(2, 3), keepdim=True)
            values = (values - mean) * draws.contrast[here][:, None, None, None] + mean
        if how.saturation:
            weights = torch.tensor(LUMA, device=values.device).view(1, -1, 1, 1)
            luminance = (values * weights).sum(1, keepdim=True)
            values = (values - luminance) * draws.saturation[here][:, None, None, None] + luminance
        return self._cut_out(draws, here, self._normaliser.unit(values))

    def _cut_out(self, draws: EpochDraws, here: Places, values: Tensor) -> Tensor:
        """Return values with a square set to the mean (0 after normalisation); at the border part of it is outside."""
        side = self._how.cutout
        if not side:
            return values
        device = values.device
        y0 = draws.centre_y[here][:, None] - side // 2
        x0 = draws.centre_x[here][:, None] - side // 2
        y = torch.arange(values.shape[2], device=device)[None, :]
        x = torch.arange(values.shape[3], device=device)[None, :]
        in_y = (y >= y0) & (y < y0 + side)
        in_x = (x >= x0) & (x < x0 + side)
        return values.masked_fill((in_y[:, :, None] & in_x[:, None, :])[:, None], 0.0)

    def _noise(self, values: Tensor, spot: Spot) -> Tensor:
        """Return standard normal numbers like `values`, the same for a sample in whatever part of its batch."""
        chance = torch.Generator().manual_seed(derive_seed(self._seed, "noise", spot.draws.epoch, spot.number))
        return torch.randn(spot.size, *values.shape[1:], generator=chance)[spot.within].to(values.device)


def _move(values: Tensor, by: Tensor) -> Tensor:
    """Return series [N, C, L] moved to the right by so many values each; what comes in is 0, the mean."""
    length = values.shape[-1]
    source = torch.arange(length, device=values.device)[None, :] - by[:, None]
    inside = (source >= 0) & (source < length)
    moved = values.gather(-1, source.clamp(0, length - 1)[:, None, :].expand_as(values))
    return moved.masked_fill(~inside[:, None, :], 0.0)


def mix(values: Tensor, others: Tensor, how: Mix) -> tuple[Tensor, float]:
    """Return two batches mixed, and the share of the first in each sample; `values` may be written to."""
    if not how.cut:
        return values * how.share + others * (1 - how.share), how.share
    sides = values.shape[2:]
    # A box whose area is (1 - share) of the image's, cut off where it leaves the image; of a series, a window.
    extent = (1 - how.share) ** (1 / len(sides))
    area, window = 1, [slice(None), slice(None)]
    for side, centre in zip(sides, how.centre, strict=False):
        middle, half = math.floor(centre * side), round(extent * side) // 2
        low, high = max(0, middle - half), min(side, middle + half)
        window.append(slice(low, high))
        area *= high - low
    values[tuple(window)] = others[tuple(window)]
    return values, 1 - area / math.prod(sides)
