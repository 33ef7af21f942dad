"""What layers do when several processes share each batch: statistics of all of it, and the chance of all of it.

A network with these computes on its part of a batch what it would compute on the whole, up to rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from nasmesh.model.engine.modules import BatchNorm, Dropout
from train_svc.hooks import Team
from train_svc.instruments_sums import Observer
from train_svc.paths import DropPath


class SharedNorm(BatchNorm):
    """Batch normalisation whose batch is that of all members."""

    def __init__(self, alone: BatchNorm, team: Team) -> None:
        """Take the place of `alone`."""
        super().__init__(alone.epsilon, alone.momentum)
        self._team = team

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor) -> Tensor:
        """Return x normalised; in training mode by the whole batch's statistics, which all members must compute."""
        if not self.training:
            return super().forward(x, weight, bias, mean, variance)
        seen = _Moments.of(x, self._team)
        with torch.no_grad():
            mean.lerp_(seen.mean.to(mean.dtype), self.momentum)
            variance.lerp_((seen.squares / (seen.count - 1)).to(variance.dtype), self.momentum)
        scale = torch.rsqrt(seen.squares / seen.count + self.epsilon)
        normalised: Tensor = _Normalise.apply(x, seen.mean, scale, seen.count, self._team)  # type: ignore[no-untyped-call]
        each = _per_channel(x)
        if weight is not None:
            normalised = normalised * weight.view(each)
        if bias is not None:
            normalised = normalised + bias.view(each)
        return normalised.to(x.dtype)


class _Moments:
    """A batch's mean and sum of squared deviations by channel, over `count` values each."""

    def __init__(self, mean: Tensor, squares: Tensor, count: int) -> None:
        self.mean, self.squares, self.count = mean, squares, count

    @staticmethod
    @torch.no_grad()
    def of(x: Tensor, team: Team) -> "_Moments":
        """Combine all members' (Chan, Golub and LeVeque 1983), which loses nothing to cancellation."""
        own = x.numel() // x.shape[1]
        if own * team.size < 2:
            raise ValueError("batch normalisation needs more than one value per channel when training")
        dims = _all_but_channels(x)
        values = x.float()
        mean = values.mean(dims)
        squares = (values - mean.view(_per_channel(x))).square().sum(dims)
        every = torch.zeros(team.size, 2, x.shape[1], device=x.device)
        every[team.rank, 0], every[team.rank, 1] = mean, squares
        team.total([every])
        mean = every[:, 0].mean(0)
        squares = every[:, 1].sum(0) + own * (every[:, 0] - mean).square().sum(0)
        return _Moments(mean, squares, own * team.size)


class _Normalise(torch.autograd.Function):
    """(x - mean) * scale, where mean and scale are those of all members' x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, count: int, team: Team) -> Tensor:
        each = _per_channel(x)
        normalised = (x.float() - mean.view(each)) * scale.view(each)
        ctx.save_for_backward(normalised, scale)
        ctx.count, ctx.team, ctx.dtype = count, team, x.dtype
        return normalised

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = grads
        normalised, scale = ctx.saved_tensors
        dims, each = _all_but_channels(grad), _per_channel(grad)
        sums = torch.stack((grad.sum(dims), (grad * normalised).sum(dims)))
        ctx.team.total([sums])
        shift, tilt = (row.view(each) / ctx.count for row in sums)
        found = (grad - shift - normalised * tilt) * scale.view(each)
        return found.to(ctx.dtype), None, None, None, None


class SharedDropout(Dropout):
    """Dropout that draws for the whole batch, the same in all members, and uses its own part."""

    def __init__(self, alone: Dropout, team: Team) -> None:
        """Take the place of `alone`."""
        super().__init__(alone.rate)
        self._team = team

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, ...] with values zeroed, as one process would that has the whole batch."""
        if not self.training or not self.rate:
            return x
        first, whole = self._team.rank * len(x), self._team.size * len(x)
        ones = torch.ones((whole, *x.shape[1:]), dtype=x.dtype, device=x.device)
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)
        return x * F.dropout(ones, self.rate, training=True)[first : first + len(x)]


def share(module: fx.GraphModule, team: Team) -> None:
    """Make the layers of a network those of a team."""
    for holder in list(module.modules()):
        for name, layer in list(holder._modules.items()):
            if type(layer) is BatchNorm:
                holder._modules[name] = SharedNorm(layer, team)
            elif type(layer) is Dropout:
                holder._modules[name] = SharedDropout(layer, team)
            elif isinstance(layer, DropPath | Observer):
                layer.team = team
    module.train(module.training)


def _all_but_channels(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


def _per_channel(x: Tensor) -> tuple[int, ...]:
    return (1, -1) + (1,) * (x.dim() - 2)
