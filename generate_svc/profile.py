"""What a network costs and which convolutions it is made of, estimated fast from its architecture alone.

Matching asks for hundreds of networks; lowering each to ONNX would take seconds. The proposals themselves are counted
on their ONNX by nasmesh.model.counting, which alone decides.
"""

from dataclasses import dataclass
from math import prod

from nasmesh.model import architecture as shaped
from nasmesh.model.auxiliary import served
from nasmesh.v1 import architecture_pb2 as pb


@dataclass(frozen=True, slots=True)
class Profile:
    """Trainable parameters, multiply-accumulates at batch 1, and kinds of branch convolutions such as "3x3sep"."""

    parameters: int
    macs: int
    palette: frozenset[str]


def profile(architecture: pb.Architecture) -> Profile:
    """Return the estimate: exact but for mixed and layer normalisation blocks, which our spaces do not emit.

    Raises Rejected where the architecture does not fit together.
    """
    dims = shaped.shapes(architecture)
    if architecture.auxiliary_outputs:
        architecture = served(architecture)
    parameters = macs = 0
    for block in architecture.blocks:
        arriving = [dims[edge.source] for edge in block.inputs]
        several = block.merge == pb.MERGE_CONCAT
        features = sum(shape[0] for shape in arriving) if several else arriving[0][0]
        weights, multiplied = _cost(block.operation, features, prod(dims[block.id][1:]))
        parameters += weights + sum(edge.HasField("scale") for edge in block.inputs)
        macs += multiplied
    return Profile(parameters, macs, palette_of(architecture))


def palette_of(architecture: pb.Architecture) -> frozenset[str]:
    """Return the kinds of convolution in its branches; of all its convolutions where it has no branch groups."""
    branches = {group.id for group in architecture.groups if group.kind == pb.GROUP_KIND_BRANCH}
    kinds: set[str] = set()
    for block in architecture.blocks:
        conv = _convolution(block.operation)
        if conv is not None and (block.group in branches or not branches):
            kinds.add(f"{conv.kernel_h}x{conv.kernel_w}{'sep' if conv.separable else ''}")
    return frozenset(kinds)


def _convolution(operation: pb.Operation) -> pb.Conv | None:
    kind = operation.WhichOneof("kind")
    if kind == "conv_unit":
        return operation.conv_unit.conv
    return operation.conv if kind == "conv" else None


def _cost(operation: pb.Operation, features: int, positions: int) -> tuple[int, int]:
    """Return parameters and multiply-accumulates for `features` input channels and `positions` output positions."""
    conv = _convolution(operation)
    if conv is None:
        if operation.WhichOneof("kind") == "batch_norm":
            return features * (operation.batch_norm.scale + operation.batch_norm.offset), 0
        if operation.WhichOneof("kind") != "linear":
            return 0, 0
        weights = features * operation.linear.features
        return weights + (operation.linear.features if operation.linear.bias else 0), weights
    kernel = conv.kernel_h * conv.kernel_w
    weights = features * kernel * conv.channels // max(conv.groups, 1)
    if conv.separable:
        weights = features * kernel + features * conv.channels
    norm = operation.conv_unit.norm
    extra = conv.channels * (conv.bias + norm.scale + norm.offset)
    return weights + extra, weights * positions
