"""Changes of a trained network that leave what it computes as it is: deeper, wider, with another skip.

A child begins where its parent ended (Net2Net, Chen et al. 2016; network morphism, Wei et al. 2016). In evaluation its
outputs are its parent's but for rounding. Nothing here needs torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nasmesh.clock import derive_seed
from nasmesh.ids import BLOCK_ID
from nasmesh.model.architecture import INPUT_ID, check, merged_dims, shapes
from nasmesh.model.geometry import Dims, same_pads
from nasmesh.model.morph_channels import Channels
from nasmesh.model.morph_norm import steady
from nasmesh.model.morph_widths import widened
from nasmesh.model.operations import MAX_DIM
from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb

Weights = Mapping[str, np.ndarray]

_ID_CHARS = 64
_NOT_NEGATIVE = (pb.ACTIVATION_KIND_RELU, pb.ACTIVATION_KIND_SIGMOID)
_PASSING = ("pool", "identity", "dropout", "flatten", "global_pool")


@dataclass(frozen=True, slots=True)
class Morph:
    """A changed network. `weights` [float32, by parameter] is empty where the parent's were: only its form is known."""

    architecture: pb.Architecture
    weights: dict[str, np.ndarray]


def deepen(
    architecture: pb.Architecture, weights: Weights, block: str, *, kernel: int = 3, separable: bool = False
) -> Morph:
    """Add a convolution unit that passes its input on, after `block`, or before it where it begins with its ReLU.

    The unit ends (or begins) with a ReLU that finds nothing to cut. After a block that ends in batch norm and ReLU it
    has a batch norm too, whose running statistics are those that the block's own norm lets expect, so that training
    goes on where it was. Raises Rejected (TRANSFORM_IMPOSSIBLE, VALUE_OUT_OF_RANGE).
    """
    known = shapes(architecture)
    made = _Copy(architecture, weights)
    place, at = made.find(block)
    if len(known[block]) != 3:
        raise _impossible(block, "it puts out no feature maps; deepen a block before it")
    unit = pb.ConvUnit(conv=pb.Conv(kernel_h=kernel, kernel_w=kernel, padding=pb.PADDING_SAME, separable=separable))
    unit.activation.kind = pb.ACTIVATION_KIND_RELU
    new = pb.Block(id=made.free_id(f"{block}_deeper"), group=at.group)
    if _is_not_negative(architecture, block):
        unit.order = pb.CONV_ORDER_CONV_NORM_ACT
        dims = known[block]
        made.redirect(block, new.id)
        new.inputs.add(source=block)
        made.blocks.insert(place + 1, new)
        norm = steady(at.operation, block, made.weights, f"{new.id}.norm")
        if norm is not None:
            unit.norm.CopyFrom(norm.rule)
            made.weights.update(norm.weights)
    elif _begins_with_relu(at):
        unit.order = pb.CONV_ORDER_ACT_CONV_NORM
        dims = merged_dims(at, known)
        made.move_inputs(at, new)
        made.blocks.insert(place, new)
    else:
        raise _impossible(
            block, "its output may be negative, which a ReLU would cut; deepen a block with ReLU, or add a skip"
        )
    unit.conv.channels = dims[0]
    unit.conv.bias = not unit.HasField("norm")
    new.operation.conv_unit.CopyFrom(unit)
    if made.weights:
        made.weights.update(_passing_on(unit.conv, new.id, dims))
    return made.finish()


def widen(architecture: pb.Architecture, weights: Weights, block: str, channels: int, *, seed: int = 0) -> Morph:
    """Give a convolution or linear block `channels` outputs: copies of those it has, drawn from the seed.

    What reads a copied channel reads all its copies with shares of its weights that add up to one, each share another
    number, so that the copies part in training. Blocks that are summed with the block are widened alike. Raises
    Rejected (TRANSFORM_IMPOSSIBLE) naming what cannot be widened: data, logits, grouped convolutions, layer norms.
    """
    known = shapes(architecture)
    made = _Copy(architecture, weights)
    _, at = made.find(block)
    if at.operation.WhichOneof("kind") not in ("conv", "conv_unit", "linear"):
        raise _impossible(block, "only convolutions and linear blocks have a width of their own")
    width = known[block][0]
    if not width < channels <= MAX_DIM:
        message = f"{channels} is not more than the {width} it has, or more than {MAX_DIM}"
        raise rejected(Reason.VALUE_OUT_OF_RANGE, message, where=block)
    traced = Channels(architecture, known)
    draw = np.random.Generator(np.random.PCG64(derive_seed(seed, "widen", block)))
    extra = channels - width
    # Every channel once before any a second time: copies of one channel share what its readers had for it.
    rounds = [draw.permutation(width) for _ in range(-(-extra // width))]
    traced.copy(block, np.concatenate(rounds)[:extra])
    made.weights = widened(made.architecture, made.weights, traced, seed=seed)
    child = made.finish()
    if shapes(child.architecture)[block][0] != channels:
        raise _impossible(block, "some of its channels are summed with each other; they can only be copied together")
    return child


def add_skip(architecture: pb.Architecture, weights: Weights, source: str, block: str, *, seed: int = 0) -> Morph:
    """Add a skip from `source` (a block or "x") to the output of a later block, times a trainable scalar that is 0.

    Larger maps are max-pooled by halves; where channels differ, a 1x1 convolution stands between, drawn from the seed.
    Raises Rejected (TRANSFORM_IMPOSSIBLE, EDGE_RESIZE_IMPOSSIBLE).
    """
    known = shapes(architecture)
    made = _Copy(architecture, weights)
    place, at = made.find(block)
    if source != INPUT_ID and made.find(source)[0] >= place:
        raise _impossible(block, f"{source!r} does not come before it")
    here, there = known[source], known[block]
    if len(here) != 3 or len(there) != 3:
        raise _impossible(block, "a skip joins feature maps, on both of its ends")
    joined = pb.Block(id=made.free_id(f"{block}_joined"), group=at.group, merge=pb.MERGE_SUM)
    joined.operation.identity.SetInParent()
    made.redirect(block, joined.id)
    new = [joined]
    if here[0] != there[0]:
        adapter = pb.Block(id=made.free_id(f"{block}_adapter"), group=at.group, inputs=[pb.Edge(source=source)])
        adapter.operation.conv.CopyFrom(
            pb.Conv(channels=there[0], kernel_h=1, kernel_w=1, padding=pb.PADDING_SAME, bias=False)
        )
        made.add_weight(f"{adapter.id}.weight", _drawn((there[0], here[0], 1, 1), adapter.id, seed))
        source = adapter.id
        new.insert(0, adapter)
    joined.inputs.add(source=block)
    edge = joined.inputs.add(source=source)
    edge.scale.SetInParent()
    if here[1:] != there[1:]:
        edge.resize = pb.RESIZE_MAX_POOL_2X2
    made.add_weight(f"{joined.id}.scale.{source}", np.zeros((), np.float32))
    for offset, one in enumerate(new, start=1):
        made.blocks.insert(place + offset, one)
    return made.finish()


class _Copy:
    """A network that is being changed."""

    def __init__(self, architecture: pb.Architecture, weights: Weights) -> None:
        """Copy it; the blocks are a list until `finish`."""
        self.architecture = pb.Architecture()
        self.architecture.CopyFrom(architecture)
        self.blocks = list(self.architecture.blocks)
        self.weights = dict(weights)

    def find(self, identifier: str) -> tuple[int, pb.Block]:
        """Return a block with its place."""
        for place, block in enumerate(self.blocks):
            if block.id == identifier:
                return place, block
        raise _impossible(identifier, f"there is no such block; it has {', '.join(block.id for block in self.blocks)}")

    def free_id(self, wanted: str) -> str:
        """Return an id that no block has, like the one wanted."""
        taken = {block.id for block in self.blocks}
        number = 1
        found = wanted[-_ID_CHARS:].lstrip("_0123456789")
        while found in taken or not BLOCK_ID.fullmatch(found):
            number += 1
            end = f"_{number}"
            found = wanted[-(_ID_CHARS - len(end)) :].lstrip("_0123456789") + end
        return found

    def add_weight(self, name: str, value: np.ndarray) -> None:
        """Add a parameter, where the network has weights at all."""
        if self.weights:
            self.weights[name] = value

    def redirect(self, old: str, new: str) -> None:
        """Have all that reads one block read another; a scale keeps its value under the name that it has then."""
        for block in self.blocks:
            for edge in block.inputs:
                if edge.source == old:
                    edge.source = new
                    self._rename(f"{block.id}.scale.{old}", f"{block.id}.scale.{new}")

    def move_inputs(self, block: pb.Block, new: pb.Block) -> None:
        """Put a new block before another one, in place of all its inputs."""
        new.inputs.extend(block.inputs)
        new.merge = block.merge
        for edge in block.inputs:
            self._rename(f"{block.id}.scale.{edge.source}", f"{new.id}.scale.{edge.source}")
        del block.inputs[:]
        block.merge = pb.MERGE_UNSPECIFIED
        block.inputs.add(source=new.id)

    def _rename(self, old: str, new: str) -> None:
        if old in self.weights:
            self.weights[new] = self.weights.pop(old)

    def finish(self) -> Morph:
        """Return the changed network; raises what the check of architectures raises."""
        blocks = [pb.Block.FromString(block.SerializeToString()) for block in self.blocks]
        del self.architecture.blocks[:]
        self.architecture.blocks.extend(blocks)
        check(self.architecture)
        return Morph(self.architecture, self.weights)


def _passing_on(conv: pb.Conv, block: str, dims: Dims) -> dict[str, np.ndarray]:
    """Return the weights with which a convolution unit of as many inputs as outputs passes its input on."""
    channels, kernel = dims[0], (conv.kernel_h, conv.kernel_w)
    centre = tuple(same_pads(size, window, 1, 1)[0] for size, window in zip(dims[1:], kernel, strict=True))
    each = np.zeros((channels, 1, *kernel), np.float32)
    each[:, 0, centre[0], centre[1]] = 1
    same = np.eye(channels, dtype=np.float32)[:, :, None, None]
    found, last = {f"{block}.conv.weight": same * each.transpose(1, 0, 2, 3)}, f"{block}.conv"
    if conv.separable:
        found, last = {f"{block}.depthwise.weight": each, f"{block}.pointwise.weight": same}, f"{block}.pointwise"
    if conv.bias:
        found[f"{last}.bias"] = np.zeros(channels, np.float32)
    return found


def _drawn(dims: tuple[int, ...], block: str, seed: int) -> np.ndarray:
    """Return a Kaiming-normal weight (He et al. 2015)."""
    draw = np.random.Generator(np.random.PCG64(derive_seed(seed, "skip", block)))
    fan_in = dims[1] * dims[2] * dims[3]
    return np.asarray(draw.standard_normal(dims) * np.sqrt(2 / fan_in), np.float32)


def _begins_with_relu(block: pb.Block) -> bool:
    unit = block.operation.conv_unit
    first = unit.order == pb.CONV_ORDER_ACT_CONV_NORM and unit.activation.kind == pb.ACTIVATION_KIND_RELU
    return block.operation.WhichOneof("kind") == "conv_unit" and first


def _is_not_negative(architecture: pb.Architecture, block: str) -> bool:
    """Say whether no value that a block puts out can be below zero, whatever the weights."""
    sure: dict[str, bool] = {INPUT_ID: False}
    for one in architecture.blocks:
        kind = one.operation.WhichOneof("kind") or ""
        if kind == "conv_unit":
            unit = one.operation.conv_unit
            sure[one.id] = unit.order == pb.CONV_ORDER_CONV_NORM_ACT and unit.activation.kind in _NOT_NEGATIVE
        elif kind == "activation":
            sure[one.id] = one.operation.activation.kind in _NOT_NEGATIVE
        else:
            arriving = all(sure[edge.source] and not edge.HasField("scale") for edge in one.inputs)
            sure[one.id] = kind in _PASSING and arriving
    return sure[block]


def _impossible(block: str, what: str) -> Exception:
    return rejected(Reason.TRANSFORM_IMPOSSIBLE, what, where=block)
