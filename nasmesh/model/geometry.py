"""Sizes and paddings of windowed operations, in Python integers."""

from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb

Dims = tuple[int, ...]


def window_output(size: int, kernel: int, stride: int, dilation: int, padding: pb.Padding.ValueType) -> int:
    """Return the output size of a window sliding over `size` positions; 0 or less where it does not fit."""
    if padding == pb.PADDING_SAME:
        return -(-size // stride)
    return (size - (kernel - 1) * dilation - 1) // stride + 1


def same_pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return (before, after) so that the output has ceil(size / stride) positions; an odd surplus goes after."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def onnx_pads(
    dims: Dims, kernel: tuple[int, int], stride: int, dilation: int, padding: pb.Padding.ValueType
) -> list[int]:
    """Return ONNX's pads [top, left, bottom, right] for a window over `dims` [C, H, W]."""
    if padding != pb.PADDING_SAME:
        return [0, 0, 0, 0]
    top, bottom = same_pads(dims[1], kernel[0], stride, dilation)
    left, right = same_pads(dims[2], kernel[1], stride, dilation)
    return [top, left, bottom, right]


def halvings(dims: Dims, target: tuple[int, int], *, where: str) -> list[Dims]:
    """Return the dims after each 2x2 stride-2 max-pool that brings [C, H, W] to the target height and width.

    Raises Rejected (EDGE_RESIZE_IMPOSSIBLE) where halving with ceiling never meets the target.
    """
    steps: list[Dims] = []
    height, width = dims[1:]
    while (height, width) != target:
        halved = (-(-height // 2), -(-width // 2))
        if halved == (height, width) or halved[0] < target[0] or halved[1] < target[1]:
            raise rejected(
                Reason.EDGE_RESIZE_IMPOSSIBLE,
                f"halving {dims[1]}x{dims[2]} never gives {target[0]}x{target[1]}; add an adapter block",
                where=where,
            )
        height, width = halved
        steps.append((dims[0], height, width))
    return steps
