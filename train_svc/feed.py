"""Training batches: shuffled, augmented, normalised and mixed a whole batch at a time on the device.

Every random number is a function of (seed, epoch) and the sample's place in the epoch, so an interrupted epoch is taken
up in the middle without any stored state, and a part of a batch is the same whoever computes the others.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from nasmesh.clock import derive_seed
from nasmesh.data.load import Splits
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.data.source import Indices
from nasmesh.errors import Invalid
from nasmesh.v1 import training_pb2 as pb
from train_svc.augment import Augment, Normaliser, mix
from train_svc.draws import EpochDraws, Spot, draw_epoch, draw_order
from train_svc.samples import Plan, Samples


@dataclass(frozen=True, slots=True)
class Batch:
    """Network input `x` [B, ...] with what is to be learned: labels [B] or targets [B, T].

    Where samples are mixed, `share` of each loss is that of `y`, the rest that of `other`; else `other` is None.
    """

    x: Tensor
    y: Tensor
    other: Tensor | None = None
    share: float = 1.0


class Feed:
    """The training samples of one job, and what is to be learned of them."""

    def __init__(self, samples: Samples, wanted: Tensor, config: pb.TrainConfig, preprocessing: Preprocessing) -> None:
        """`wanted` are labels [N] or targets [N, T] on the device; `config` must be complete.

        Raises Invalid (TRAIN_CONFIG_INVALID) where there are fewer samples than parts of a batch.
        """
        self.parts = parts = config.accumulate_batches * config.distribution.processes
        # A data set smaller than a batch makes a smaller batch, which must still divide into its parts.
        self.batch_size = min(config.batch_size, samples.count) // parts * parts
        if self.batch_size == 0:
            message = f"config.accumulate_batches: {samples.count} samples do not divide into {parts} parts"
            raise Invalid("TRAIN_CONFIG_INVALID", message, field="config.accumulate_batches")
        self.samples = samples.count
        self.batches_per_epoch = max(1, samples.count // self.batch_size)
        self.normaliser = Normaliser.of(
            preprocessing, samples.dims, bytes_each=samples.bytes_each, device=wanted.device
        )
        self._config = config
        self._source = samples
        self._wanted = wanted
        self._augment = Augment(config, self.normaliser)
        order = functools.lru_cache(maxsize=2)(lambda epoch: draw_order(config, epoch, samples.count))
        samples.follow(
            Plan(
                places=lambda epoch, number: order(epoch)[number * self.batch_size : (number + 1) * self.batch_size],
                batches_per_epoch=self.batches_per_epoch,
            )
        )

    def draw(self, epoch: int) -> EpochDraws:
        """Return the chance of one epoch: the same for the same seed, epoch and number of samples."""
        drawn = draw_epoch(
            self._config, epoch, samples=self.samples, dims=self._source.dims, batches=self.batches_per_epoch
        )
        return drawn.on(self._wanted.device)

    def batch(self, draws: EpochDraws, number: int, *, part: int = 0, parts: int = 1) -> Batch:
        """Return batch `number` of an epoch, or one of its `parts`, which must divide the batch.

        Raises what reading raises where samples are streamed.
        """
        size = self.batch_size // parts
        spot = Spot(draws, number, self.batch_size, slice(part * size, (part + 1) * size))
        x, y = self._inputs(spot), self._learned(spot)
        if not draws.mixes:
            return Batch(x, y)
        partners = self._partners(draws, number)[spot.within]
        partner = Spot(draws, number, self.batch_size, partners)
        others = x[partners.to(x.device)] if parts == 1 else self._inputs(partner)
        mixed, share = mix(x, others, draws.mixes[number])
        return Batch(mixed, y, self._learned(partner), share)

    def close(self) -> None:
        """Stop reading ahead."""
        self._source.close()

    def _inputs(self, spot: Spot) -> Tensor:
        at = (spot.draws.epoch, spot.number)
        return self._augment(self._source.take(at, spot.draws.order[spot.batch], spot.within), spot)

    def _learned(self, spot: Spot) -> Tensor:
        return self._wanted[spot.draws.order[spot.places]]

    def _partners(self, draws: EpochDraws, number: int) -> Tensor:
        chance = torch.Generator().manual_seed(derive_seed(self._config.seed, "partners", draws.epoch, number))
        return torch.randperm(self.batch_size, generator=chance)


def training_rows(splits: Splits, config: pb.TrainConfig) -> Indices:
    """Return which samples are trained on: the split, with validation if asked, or a part of it."""
    rows = torch.from_numpy(splits.train.copy())
    if config.include_validation:
        rows = torch.cat((rows, torch.from_numpy(splits.validation.copy())))
    if config.data_fraction < 1:
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "data-fraction"))
        kept = max(1, round(config.data_fraction * len(rows)))
        rows = rows[torch.randperm(len(rows), generator=generator)[:kept]]
    found: Indices = rows.numpy()
    return found


def learned(splits: Splits, rows: Indices, device: torch.device) -> Tensor:
    """Return what is to be learned of these samples: labels int64 [n], or targets float32 [n, T]."""
    source = splits.targets if len(splits.targets) else splits.labels
    return torch.from_numpy(source[rows]).to(device)
