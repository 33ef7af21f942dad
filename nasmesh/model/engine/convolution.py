"""Convolutions and matrix products: ONNX node → fx nodes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from nasmesh.model.engine.build import Builder, Operator
from nasmesh.model.engine.padding import Window, bounds, flat, read_window, refuse_wide_stride, split_total

_CONV: tuple[Callable[..., Tensor], ...] = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def padded_conv(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    """Convolve with padding that differs between begin and end, or that depends on the input's size."""
    begin, end = bounds(x.shape[2:], window)
    if begin != end:
        x, begin = F.pad(x, flat(begin, end)), (0,) * len(begin)
    return _CONV[len(begin) - 1](x, weight, bias, window.stride, begin, window.dilation, groups)


def reaching_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...], groups: int) -> Tensor:
    """Convolve at stride 1 with padding that keeps the size, by the part of the kernel that can reach the input.

    A 7x7 kernel on 2x2 positions meets data with its inner 3x3 only; the rest multiplies padding. oneDNN computes it
    all the same. The unused weights get the zero gradient that is theirs.
    """
    reach = tuple(min(half, size - 1) for half, size in zip(padding, x.shape[2:], strict=True))
    if reach != padding:
        for axis, (half, used) in enumerate(zip(padding, reach, strict=True), start=2):
            weight = weight.narrow(axis, half - used, 2 * used + 1)
    return _CONV[len(padding) - 1](x, weight, bias, 1, reach, 1, groups)


def _keeps_size(window: Window) -> bool:
    """Say whether a symmetric window has stride 1, no dilation and half its odd kernel as padding, above 3 wide."""
    plain = all(step == 1 for step in (*window.stride, *window.dilation))
    return (
        plain
        and max(window.kernel) > 3
        and all(k == 2 * p + 1 for k, p in zip(window.kernel, window.begin, strict=True))
    )


def _kernel(operator: Operator) -> tuple[int, ...] | None:
    shape = operator.shape(1)
    return None if shape is None else shape[2:]


def _conv(operator: Operator) -> fx.Node:
    window = read_window(operator, _kernel(operator))
    groups = operator.integer("group", 1)
    x, weight, bias = operator.tensor(0), operator.tensor(1), operator.optional(2)
    if not window.symmetric:
        return operator.call(padded_conv, x, weight, bias, window, groups)
    if _keeps_size(window):
        return operator.call(reaching_conv, x, weight, bias, window.begin, groups)
    function = _CONV[len(window.kernel) - 1]
    return operator.call(function, x, weight, bias, window.stride, window.begin, window.dilation, groups)


def transposed_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int, extra: tuple[int, ...]
) -> Tensor:
    """Apply a transposed convolution whose output is cropped unequally, or to the input's size times the stride."""
    zeros = (0,) * len(window.kernel)
    begin, end = window.begin, window.end
    y = _TRANSPOSED[len(zeros) - 1](x, weight, bias, window.stride, zeros, extra, groups, window.dilation)
    if window.same:
        surplus = [n - size * s for n, size, s in zip(y.shape[2:], x.shape[2:], window.stride, strict=True)]
        begin, end = split_total(surplus, window.same)
    return F.pad(y, [-crop for crop in flat(begin, end)])


def _conv_transpose(operator: Operator) -> fx.Node:
    auto = operator.text("auto_pad", "NOTSET", keep=True)
    window = read_window(operator, _kernel(operator))
    window = window._replace(same=auto if auto.startswith("SAME") else "")  # also at stride 1, where a conv needs none
    refuse_wide_stride(operator, window)
    groups = operator.integer("group", 1)
    extra = tuple(operator.integers("output_padding") or [0] * len(window.kernel))
    if operator.integers("output_shape") is not None:
        operator.refuse("output_shape is not supported; write pads")
    if any(more >= max(s, d) for more, s, d in zip(extra, window.stride, window.dilation, strict=True)):
        operator.refuse("output_padding must be below the stride or dilation")
    x, weight, bias = operator.tensor(0), operator.tensor(1), operator.optional(2)
    if not window.symmetric:
        return operator.call(transposed_conv, x, weight, bias, window, groups, extra)
    function = _TRANSPOSED[len(window.kernel) - 1]
    return operator.call(function, x, weight, bias, window.stride, window.begin, extra, groups, window.dilation)


def general_gemm(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    """Return alpha * a @ b + beta * c, c broadcast."""
    product = torch.matmul(a, b)
    product = product if alpha == 1.0 else product * alpha
    if c is None:
        return product
    return product + (c if beta == 1.0 else c * beta)


def _gemm(operator: Operator) -> fx.Node:
    alpha, beta = operator.number("alpha", 1.0), operator.number("beta", 1.0)
    transpose_a, transpose_b = operator.integer("transA", 0), operator.integer("transB", 0)
    a, b, c = operator.tensor(0), operator.tensor(1), operator.optional(2)
    bias_rank = len(operator.shape(2) or ()) if c is not None else 1
    if transpose_b and not transpose_a and alpha == beta == 1.0 and bias_rank == 1:
        return operator.call(torch.nn.functional.linear, a, b, c)
    a = operator.call(torch.t, a) if transpose_a else a
    b = operator.call(torch.t, b) if transpose_b else b
    return operator.call(general_gemm, a, b, c, alpha, beta)


def _matmul(operator: Operator) -> fx.Node:
    return operator.call(torch.matmul, operator.tensor(0), operator.tensor(1))


BUILDERS: dict[str, Builder] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
