"""Training batches from tensors that stay on the device: shuffled, augmented and normalised a whole batch at a time.

Every random number is a function of (seed, epoch) and the sample's place in the epoch, so an interrupted epoch is taken
up in the middle without any stored state.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nasmesh.clock import derive_seed
from nasmesh.data.load import Splits
from nasmesh.data.preprocessing import Preprocessing, per_image_floor
from nasmesh.v1 import training_pb2 as pb


@dataclass(frozen=True, slots=True)
class EpochDraws:
    """The chance of one epoch. `order` [n] are sample positions; the rest is per place in the order, empty if unused.

    `top` and `left` are the crop's corner in the padded image, `centre_y` and `centre_x` the cut-out square's centre.
    """

    order: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor
    brightness: Tensor
    contrast: Tensor
    centre_y: Tensor
    centre_x: Tensor


class Feed:
    """The training samples of one job on its device."""

    def __init__(self, images: Tensor, labels: Tensor, config: pb.TrainConfig, preprocessing: Preprocessing) -> None:
        """Keep uint8 images [N, C, H, W] and labels [N]; `config` must be complete."""
        self.samples = len(images)
        self.batch_size = min(config.batch_size, self.samples)
        self._augmentation = config.augmentation
        self._seed = config.seed
        self._dims = images.shape[1:]
        pad = self._augmentation.crop_padding
        self._images = torch.nn.functional.pad(images, (pad, pad, pad, pad)) if pad else images
        self._labels = labels
        self._per_image = preprocessing.per_image
        scale, shift = preprocessing.scale_and_shift(self._dims[0])
        self._scale = torch.tensor(scale, device=images.device).view(1, -1, 1, 1)
        self._shift = torch.tensor(shift, device=images.device).view(1, -1, 1, 1)

    def draw(self, epoch: int) -> EpochDraws:
        """Return the chance of one epoch: the same for the same seed, epoch and number of samples."""
        how, count = self._augmentation, self.samples
        none = torch.empty(0)
        _, height, width = self._dims

        def chance(purpose: str) -> torch.Generator:
            return torch.Generator().manual_seed(derive_seed(self._seed, purpose, epoch))

        def below(limit: int, purpose: str) -> Tensor:
            return torch.randint(limit, (count,), generator=chance(purpose))

        def symmetric(largest: float, purpose: str) -> Tensor:
            return (torch.rand(count, generator=chance(purpose)) * 2 - 1) * largest

        return EpochDraws(
            order=torch.randperm(count, generator=chance("order")),
            top=below(2 * how.crop_padding + 1, "crop-top") if how.crop_padding else none,
            left=below(2 * how.crop_padding + 1, "crop-left") if how.crop_padding else none,
            mirrored=below(2, "flip") if how.flip else none,
            brightness=symmetric(how.brightness, "brightness") if how.brightness else none,
            contrast=1 + symmetric(how.contrast, "contrast") if how.contrast else none,
            centre_y=below(height, "cutout-y") if how.cutout else none,
            centre_x=below(width, "cutout-x") if how.cutout else none,
        )

    def batch(self, draws: EpochDraws, number: int) -> tuple[Tensor, Tensor]:
        """Return batch `number` of an epoch: float32 input [B, C, H, W] and labels [B]."""
        here = slice(number * self.batch_size, (number + 1) * self.batch_size)
        rows = draws.order[here].to(self._images.device)
        pixels = self._crop_and_flip(draws, here, rows)
        return self._tone(draws, here, pixels), self._labels[rows]

    def _crop_and_flip(self, draws: EpochDraws, here: slice, rows: Tensor) -> Tensor:
        """Return uint8 pixels [B, C, H, W]; both are one gather, as a mirrored crop reads its columns backwards."""
        how = self._augmentation
        if not how.crop_padding and not how.flip:
            return self._images[rows]
        channels, height, width = self._dims
        device = rows.device
        y = torch.arange(height, device=device).expand(len(rows), height)
        x = torch.arange(width, device=device).expand(len(rows), width)
        if how.flip:
            x = torch.where(_column(draws.mirrored, here, device) > 0, width - 1 - x, x)
        if how.crop_padding:
            y = y + _column(draws.top, here, device)
            x = x + _column(draws.left, here, device)
        channel = torch.arange(channels, device=device)[None, :, None, None]
        return self._images[rows[:, None, None, None], channel, y[:, None, :, None], x[:, None, None, :]]

    def _tone(self, draws: EpochDraws, here: slice, pixels: Tensor) -> Tensor:
        """Return network input: brightness, contrast, normalisation, cutout."""
        how, device = self._augmentation, pixels.device
        if not (how.brightness or how.contrast or self._per_image):
            # One multiplication and addition, exactly as evaluation does it.
            return self._cut_out(draws, here, pixels * self._scale + self._shift)
        values = pixels.float() / 255
        if how.brightness:
            values = values + _column(draws.brightness, here, device)[:, :, None, None]
        if how.contrast:
            mean = values.mean(dim=(2, 3), keepdim=True)
            values = (values - mean) * _column(draws.contrast, here, device)[:, :, None, None] + mean
        if self._per_image:
            deviation, mean = torch.std_mean(values, dim=(1, 2, 3), keepdim=True, correction=0)
            values = (values - mean) / deviation.clamp(min=per_image_floor(tuple(self._dims)))
        else:
            values = values * (self._scale * 255) + self._shift
        return self._cut_out(draws, here, values)

    def _cut_out(self, draws: EpochDraws, here: slice, values: Tensor) -> Tensor:
        """Return values with a square set to the mean (0 after normalisation); at the border part of it is outside."""
        side = self._augmentation.cutout
        if not side:
            return values
        device = values.device
        y0 = _column(draws.centre_y, here, device) - side // 2
        x0 = _column(draws.centre_x, here, device) - side // 2
        y = torch.arange(values.shape[2], device=device)[None, :]
        x = torch.arange(values.shape[3], device=device)[None, :]
        in_y = (y >= y0) & (y < y0 + side)
        in_x = (x >= x0) & (x < x0 + side)
        return values.masked_fill((in_y[:, :, None] & in_x[:, None, :])[:, None], 0.0)


def _column(draw: Tensor, here: slice, device: torch.device) -> Tensor:
    return draw[here].to(device)[:, None]


def training_samples(splits: Splits, config: pb.TrainConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the uint8 images and labels that are trained on: the split, with validation if asked, or a part of it."""
    rows = torch.from_numpy(splits.train.copy())
    if config.include_validation:
        rows = torch.cat((rows, torch.from_numpy(splits.validation.copy())))
    if config.data_fraction < 1:
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "data-fraction"))
        kept = max(1, round(config.data_fraction * len(rows)))
        rows = rows[torch.randperm(len(rows), generator=generator)[:kept]]
    images = torch.from_numpy(splits.samples.rows(rows.numpy())).to(device)
    return images, torch.from_numpy(splits.labels[rows.numpy()]).to(device)
