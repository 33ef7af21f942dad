"""Windowed and global pooling: ONNX node → fx nodes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from nasmesh.model.engine.build import Builder, Operator
from nasmesh.model.engine.padding import Window, bounds, ceil_end, ceil_mode_fits, flat, read_window, refuse_wide_stride

_CONV: tuple[Callable[..., Tensor], ...] = (torch.conv1d, torch.conv2d, torch.conv3d)
_MAXIMUM: tuple[Callable[..., Tensor], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_MEAN: tuple[Callable[..., Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def padded_max_pool(x: Tensor, window: Window, *, ceil_mode: bool) -> Tensor:
    """Take window maxima with padding that differs between begin and end, or exceeds half the window."""
    rank = len(window.kernel)
    begin, end = bounds(x.shape[2:], window)
    if not ceil_mode and ceil_mode_fits(x.shape[2:], window, begin, end):
        return _MAXIMUM[rank - 1](x, window.kernel, window.stride, begin, window.dilation, True)
    if ceil_mode:
        end = ceil_end(x.shape[2:], window)
    x = F.pad(x, flat(begin, end), value=float("-inf"))
    return _MAXIMUM[rank - 1](x, window.kernel, window.stride, 0, window.dilation)


def _fits_kernel(window: Window) -> bool:
    return window.symmetric and all(2 * pad <= size for pad, size in zip(window.begin, window.kernel, strict=True))


def _max_pool(operator: Operator) -> fx.Node:
    window = read_window(operator, None)
    refuse_wide_stride(operator, window)
    operator.only_first_output()
    operator.ignore("storage_order")  # the order of output 1, which is refused
    ceil_mode = bool(operator.integer("ceil_mode", 0))
    x = operator.tensor(0)
    if not _fits_kernel(window):
        return operator.call(padded_max_pool, x, window, ceil_mode=ceil_mode)
    function = _MAXIMUM[len(window.kernel) - 1]
    return operator.call(function, x, window.kernel, window.stride, window.begin, window.dilation, ceil_mode)


def padded_mean_pool(x: Tensor, window: Window, *, ceil_mode: bool, count_padding: bool) -> Tensor:
    """Take window means for any padding and dilation: sums of windows divided by the counts of what they hold."""
    rank = len(window.kernel)
    sizes = x.shape[2:]
    begin, end = bounds(sizes, window)
    plain = all(step == 1 for step in window.dilation)
    if plain and not ceil_mode and not count_padding and ceil_mode_fits(sizes, window, begin, end):
        return _MEAN[rank - 1](x, window.kernel, window.stride, begin, True, False)
    kernel = x.new_ones((1, 1, *window.kernel))
    # The channels become samples of one channel, so that one small kernel sums each of them.
    flattened, ones = x.reshape(-1, 1, *sizes), x.new_ones((1, 1, *sizes))
    last = ceil_end(sizes, window) if ceil_mode else end
    if count_padding:
        ones = F.pad(ones, flat(begin, end), value=1.0)
        ones = F.pad(ones, flat((0,) * rank, [more - e for more, e in zip(last, end, strict=True)]))
    else:
        ones = F.pad(ones, flat(begin, last))
    sums = _CONV[rank - 1](F.pad(flattened, flat(begin, last)), kernel, None, window.stride, 0, window.dilation)
    counts = _CONV[rank - 1](ones, kernel, None, window.stride, 0, window.dilation)
    return (sums / counts).reshape(*x.shape[:2], *sums.shape[2:])


def _average_pool(operator: Operator) -> fx.Node:
    window = read_window(operator, None)
    refuse_wide_stride(operator, window)
    ceil_mode = bool(operator.integer("ceil_mode", 0))
    count_padding = bool(operator.integer("count_include_pad", 0))
    x = operator.tensor(0)
    if not _fits_kernel(window) or any(step != 1 for step in window.dilation):
        return operator.call(padded_mean_pool, x, window, ceil_mode=ceil_mode, count_padding=count_padding)
    function = _MEAN[len(window.kernel) - 1]
    return operator.call(function, x, window.kernel, window.stride, window.begin, ceil_mode, count_padding)


def global_mean(x: Tensor) -> Tensor:
    """Return the mean over all positions, keeping their axes with size 1."""
    return x.mean(dim=list(range(2, x.dim())), keepdim=True)


def global_max(x: Tensor) -> Tensor:
    """Return the maximum over all positions, keeping their axes with size 1."""
    return torch.amax(x, dim=list(range(2, x.dim())), keepdim=True)


BUILDERS: dict[str, Builder] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda operator: operator.call(global_mean, operator.tensor(0)),
    "GlobalMaxPool": lambda operator: operator.call(global_max, operator.tensor(0)),
}
