"""Padding of windowed operators: ONNX writes begin and end of each axis, PyTorch's kernels take one number for both.

Equal begin and end go into the kernel; the rest is padded beforehand, or hidden in ceil_mode where that gives the
same windows without copying the input.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nasmesh.model.engine.build import Operator


class Window(NamedTuple):
    """A window's geometry, each entry per spatial axis; `same` is "" or the auto_pad that depends on the input's size.

    A named tuple, because fx writes such arguments into the generated code as they are.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    same: str = ""

    @property
    def symmetric(self) -> bool:
        """Return whether the padding is known and equal on both sides."""
        return not self.same and self.begin == self.end


def read_window(operator: Operator, kernel: Sequence[int] | None) -> Window:
    """Read kernel_shape, strides, dilations, pads and auto_pad; `kernel` is what a weight's shape says, if known."""
    written = operator.integers("kernel_shape")
    size = tuple(written if written is not None else kernel or ())
    if not 1 <= len(size) <= 3:
        operator.refuse("the kernel's size is not known, or has more than three axes")
    if kernel is not None and tuple(kernel) != size:
        operator.refuse(f"kernel_shape {list(size)} contradicts the weight's {list(kernel)}")
    rank = len(size)
    stride = tuple(operator.integers("strides") or [1] * rank)
    dilation = tuple(operator.integers("dilations") or [1] * rank)
    auto = operator.text("auto_pad", "NOTSET")
    pads = operator.integers("pads")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        operator.refuse(f"auto_pad {auto[:32]!r} is not supported")
    if pads is None or auto != "NOTSET":
        pads = [0] * (2 * rank)
    if len(pads) != 2 * rank or len(stride) != rank or len(dilation) != rank:
        operator.refuse("strides, dilations or pads do not fit the kernel's axes")
    if min(pads) < 0 or min(stride) < 1 or min(dilation) < 1 or min(size) < 1:
        operator.refuse("a negative pad, or a stride, dilation or kernel below 1")
    same = auto if auto.startswith("SAME") else ""
    window = Window(size, stride, dilation, tuple(pads[:rank]), tuple(pads[rank:]), same)
    return _resolve_unit_stride(window)


def _resolve_unit_stride(window: Window) -> Window:
    """With stride 1, same padding does not depend on the input's size."""
    if not window.same or any(step != 1 for step in window.stride):
        return window
    begin, end = split_total([d * (k - 1) for k, d in zip(window.kernel, window.dilation, strict=True)], window.same)
    return Window(window.kernel, window.stride, window.dilation, begin, end)


def split_total(totals: Sequence[int], same: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (begin, end) of total paddings; `same` says which side takes an odd one."""
    small = tuple(total // 2 for total in totals)
    large = tuple(total - total // 2 for total in totals)
    return (small, large) if same == "SAME_UPPER" else (large, small)


def same_padding(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], same: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (begin, end) such that the output's size is ceil(size / stride)."""
    axes = zip(sizes, kernel, stride, dilation, strict=True)
    return split_total([max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in axes], same)


def flat(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Return padding in the order of torch.nn.functional.pad: last axis first."""
    return [side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair]


def bounds(sizes: Sequence[int], window: Window) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the (begin, end) padding of an input with these spatial sizes."""
    if not window.same:
        return window.begin, window.end
    return same_padding(sizes, window.kernel, window.stride, window.dilation, window.same)


def refuse_wide_stride(operator: Operator, window: Window) -> None:
    """Refuse same padding of a window below its stride: runtimes differ in what a negative padding means."""
    extents = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    if window.same and any(extent < step for extent, step in zip(extents, window.stride, strict=True)):
        operator.refuse("auto_pad of a window smaller than its stride is not the same everywhere; write pads")


def ceil_end(sizes: Sequence[int], window: Window) -> tuple[int, ...]:
    """Return the end padding with which flooring lays the windows that ONNX's ceil_mode means; may be negative.

    The last window may be partly empty, but none starts beyond the input and its begin padding.
    """
    begin, end = bounds(sizes, window)
    found = []
    for n, k, s, d, b, e in zip(sizes, window.kernel, window.stride, window.dilation, begin, end, strict=True):
        extent = d * (k - 1) + 1
        count = -(-(n + b + e - extent) // s) + 1
        if (count - 1) * s >= n + b:
            count -= 1
        found.append((count - 1) * s + extent - n - b)
    return tuple(found)


def ceil_mode_fits(sizes: Sequence[int], window: Window, begin: Sequence[int], end: Sequence[int]) -> bool:
    """Return whether PyTorch's ceil_mode, with `begin` on both sides, lays the same windows as begin and end do.

    ceil_mode adds at most one window, which starts inside the input or its begin padding and reads nothing beyond the
    end; so it is equivalent to end padding for a maximum, and for a mean that leaves padding out.
    """
    for n, k, s, d, b, e in zip(sizes, window.kernel, window.stride, window.dilation, begin, end, strict=True):
        extent = d * (k - 1) + 1
        written = (n + b + e - extent) // s + 1
        rounded = -(-(n + 2 * b - extent) // s) + 1
        if (rounded - 1) * s >= n + b:
            rounded -= 1
        if written != rounded or 2 * b > k:
            return False
    return True
