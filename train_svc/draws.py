"""The chance of a training: all of it is a function of seed, epoch and place, so nothing of it needs to be stored."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasmesh.clock import derive_seed, seeded_random
from nasmesh.v1 import training_pb2 as pb
from train_svc.rand_augment import OPERATIONS


@dataclass(frozen=True, slots=True)
class EpochDraws:
    """The chance of one epoch. `order` [n] are sample positions; the rest is per place in the order, empty if unused.

    `top` and `left` are the crop's corner in the padded image, `centre_y` and `centre_x` the cut-out square's centre,
    `moved` by how many values a series is shifted. `operations` [n, k] are RandAugment's, on the processor, and `signs`
    [n, k] are -1 or 1. `mixes` has one entry a batch.
    """

    epoch: int
    order: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    centre_y: Tensor
    centre_x: Tensor
    moved: Tensor
    operations: Tensor
    signs: Tensor
    mixes: "Sequence[Mix]"

    def on(self, device: torch.device) -> "EpochDraws":
        """Return the same with everything on a device that is needed there."""
        if device.type == "cpu":
            return self
        stay = ("operations", "signs")
        tensors = {
            name: value.to(device)
            for name in (field.name for field in dataclasses.fields(self))
            if isinstance(value := getattr(self, name), Tensor) and name not in stay
        }
        return dataclasses.replace(self, **tensors)  # type: ignore[arg-type]  # all of them tensors


@dataclass(frozen=True, slots=True)
class Mix:
    """How a batch is mixed with itself in another order: `share` of it stays.

    `cut`: by a box (CutMix) around `centre` (each 0..1), else by a weighted sum (mixup).
    """

    share: float
    cut: bool
    centre: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Spot:
    """Some samples of one batch: those `within` it, of the `size` samples that batch `number` of an epoch has."""

    draws: EpochDraws
    number: int
    size: int
    within: slice | Tensor

    @property
    def batch(self) -> slice:
        """The places of the whole batch in the epoch's order."""
        return slice(self.number * self.size, (self.number + 1) * self.size)

    @property
    def places(self) -> slice | Tensor:
        """The places of these samples in the epoch's order."""
        first = self.number * self.size
        if isinstance(self.within, Tensor):
            return self.within + first
        return slice(first + self.within.start, first + self.within.stop)


def draw_epoch(config: pb.TrainConfig, epoch: int, *, samples: int, dims: Sequence[int], batches: int) -> EpochDraws:
    """Return the chance of one epoch: the same for the same configuration, epoch and number of samples."""
    how, seed = config.augmentation, config.seed
    none = torch.empty(0)
    height, width = (dims[1], dims[2]) if len(dims) == 3 else (1, 1)

    def chance(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(seed, purpose, epoch))

    def below(limit: int, purpose: str, *shape: int) -> Tensor:
        return torch.randint(limit, shape or (samples,), generator=chance(purpose))

    def symmetric(largest: float, purpose: str) -> Tensor:
        return (torch.rand(samples, generator=chance(purpose)) * 2 - 1) * largest

    pad, layers = how.crop_padding, how.rand_augment_operations
    reach = math.floor(how.shift * dims[-1])
    return EpochDraws(
        epoch=epoch,
        order=draw_order(config, epoch, samples),
        top=below(2 * pad + 1, "crop-top") if pad else none,
        left=below(2 * pad + 1, "crop-left") if pad else none,
        mirrored=below(2, "flip") if how.flip else none,
        brightness=symmetric(how.brightness, "brightness") if how.brightness else none,
        contrast=1 + symmetric(how.contrast, "contrast") if how.contrast else none,
        saturation=1 + symmetric(how.saturation, "saturation") if how.saturation else none,
        centre_y=below(height, "cutout-y") if how.cutout else none,
        centre_x=below(width, "cutout-x") if how.cutout else none,
        moved=below(2 * reach + 1, "shift") - reach if how.shift else none,
        operations=below(len(OPERATIONS), "rand-augment", samples, layers) if layers else none,
        signs=below(2, "rand-augment-sign", samples, layers) * 2 - 1 if layers else none,
        mixes=_mixes(how, derive_seed(seed, "mix", epoch), batches) if how.mixup or how.cutmix else (),
    )


def draw_order(config: pb.TrainConfig, epoch: int, samples: int) -> Tensor:
    """Return the order of one epoch's samples."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch)))


def _mixes(how: pb.AugmentationConfig, seed: int, batches: int) -> list[Mix]:
    chance = seeded_random(seed)
    found = []
    for _ in range(batches):
        cut = bool(how.cutmix) and (not how.mixup or chance.random() < 0.5)
        concentration = how.cutmix if cut else how.mixup
        share = chance.betavariate(concentration, concentration)
        found.append(Mix(share, cut, (chance.random(), chance.random())))
    return found
