"""Explicit, recorded changes of whole architectures."""

import math
from collections.abc import Sequence

from nasmesh.model.architecture import check, shapes
from nasmesh.model.operations import MAX_DIM
from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb


def scale_width(architecture: pb.Architecture, multiplier: float) -> pb.Architecture:
    """Return the architecture with every convolution's channels and every hidden layer's features times `multiplier`.

    Widths are rounded to the nearest whole number, at least 1, and to a multiple of the convolution's groups; a
    depthwise convolution (groups = input channels) stays depthwise. The linear blocks that the logits come from keep
    their features, so the number of classes stays. Ids and all else stay as they are. Raises Rejected where the result
    contradicts itself, for example where a sum joins a scaled branch with the unscaled data input.
    """
    if not (math.isfinite(multiplier) and 0 < multiplier <= MAX_DIM):
        message = f"the multiplier is {multiplier:g}; use a number greater than 0"
        raise rejected(Reason.VALUE_OUT_OF_RANGE, message, where="multiplier")
    check(architecture)
    result = pb.Architecture()
    result.CopyFrom(architecture)
    fixed = _logit_sources(architecture)
    for block in result.blocks:
        for operation in _operations(block.operation):
            _scale(operation, multiplier, keep_features=block.id in fixed)
    check(result)
    return result


def fit_to(
    architecture: pb.Architecture, input_dims: Sequence[int], outputs: int, preprocessing: pb.Preprocessing
) -> pb.Architecture:
    """Return the architecture for other data: its input's dimensions, as many outputs, and that data's normalisation.

    Ids and all else stay. An image that the network standardises by itself it goes on standardising by itself. Raises
    Rejected where the network cannot take such samples, or has no block whose width is the number of outputs.
    """
    check(architecture)
    result = pb.Architecture()
    result.CopyFrom(architecture)
    del result.inputs[0].dims[:]
    result.inputs[0].dims.extend(input_dims)
    if not architecture.preprocessing.per_image:
        result.preprocessing.CopyFrom(preprocessing)
    fixed = _logit_sources(architecture)
    for block in result.blocks:
        if block.id in fixed:
            _set_width(block.operation, outputs)
    check(result)
    if (found := shapes(result)[result.output]) != (outputs,):
        message = f"the network gives {list(found)}, and {outputs} outputs are needed"
        raise rejected(Reason.SHAPE_MISMATCH, message, where=result.output)
    return result


def _set_width(operation: pb.Operation, width: int) -> None:
    kind = operation.WhichOneof("kind")
    if kind == "linear":
        operation.linear.features = width
    elif kind in ("conv", "conv_unit"):
        conv = operation.conv if kind == "conv" else operation.conv_unit.conv
        conv.channels = width


def _operations(operation: pb.Operation) -> list[pb.Operation]:
    if operation.WhichOneof("kind") == "mixed":
        return [candidate.operation for candidate in operation.mixed.candidates]
    return [operation]


def _scale(operation: pb.Operation, multiplier: float, *, keep_features: bool) -> None:
    kind = operation.WhichOneof("kind")
    if keep_features:
        return
    if kind == "linear":
        operation.linear.features = _rounded(operation.linear.features, multiplier)
    elif kind in ("conv", "conv_unit"):
        conv = operation.conv if kind == "conv" else operation.conv_unit.conv
        if conv.groups > 1:
            # Grouped convolutions keep the width of a group; the number of groups grows, so depthwise stays depthwise.
            width = conv.channels // conv.groups
            conv.groups = _rounded(conv.groups, multiplier)
            conv.channels = width * conv.groups
        else:
            conv.channels = _rounded(conv.channels, multiplier)


def _rounded(width: int, multiplier: float) -> int:
    return max(1, math.floor(width * multiplier + 0.5))


def _logit_sources(architecture: pb.Architecture) -> set[str]:
    """Return the ids of the blocks whose width is the number of classes: back from the outputs to what sets a width."""
    blocks = {block.id: block for block in architecture.blocks}
    found: set[str] = set()
    waiting = [architecture.output, *architecture.auxiliary_outputs]
    while waiting:
        block = blocks.get(waiting.pop())
        if block is None or block.id in found:
            continue
        found.add(block.id)
        sets_width = block.operation.WhichOneof("kind") in ("linear", "conv", "conv_unit")
        if not sets_width:
            waiting.extend(edge.source for edge in block.inputs)
    return found
