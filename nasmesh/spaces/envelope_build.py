"""Turns a network of the envelope space into explicit blocks (Kamath et al. 2018; their released configurations)."""

from collections.abc import Sequence

from nasmesh.spaces import blocks
from nasmesh.spaces.envelope import cell_width, widener_id
from nasmesh.spaces.envelope_network import Cell, branch_block, decode, output_block, skip_block
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb

# Trainable scalars on skips start near this, so that all skips count about equally at first.
_SCALE = arch.EdgeScale(init_mean=0.5, init_std=0.01)
# The stem's local response normalisation: depth radius 4, bias 1, alpha 0.001 / 9, beta 0.75 in TensorFlow's form
# x / (bias + alpha * sum) ^ beta. Radius 4 is a window of 9, and ONNX divides alpha by the window.
_LRN = arch.LocalResponseNorm(size=9, alpha=0.001, beta=0.75, bias=1.0)


def build(
    space: pb.EnvelopeSpace, values: pb.ChoiceValues, input_dims: Sequence[int], classes: int
) -> arch.Architecture:
    """Return the network of `values` in a complete, checked space; raises Invalid naming a wrong choice."""
    network = decode(space, values)
    builder = _Builder(space, input_dims)
    builder.add_stem()
    until_auxiliary = blocks.auxiliary_cell(sum(len(stage) for stage in network.stages)) if space.auxiliary_head else 0
    for s, stage in enumerate(network.stages, start=1):
        builder.add_group(f"stage_{s}", arch.GROUP_KIND_STAGE)
        for k, cell in enumerate(stage, start=1):
            builder.add_cell(cell, f"stage_{s}", cell_width(space, s, k, len(stage)))
            until_auxiliary -= 1
            if until_auxiliary == 0:
                builder.add_auxiliary(classes)
        if s < len(network.stages):
            builder.add_widener(s)
    return builder.finish(classes)


class _Builder:
    """Appends entries; `_channels` holds each entry's output channels, `_last` is the entry built last."""

    def __init__(self, space: pb.EnvelopeSpace, input_dims: Sequence[int]) -> None:
        self._space = space
        self._built = arch.Architecture(inputs=[blocks.image_input(input_dims)], drop_path=space.drop_path)
        self._channels: dict[str, int] = {}
        self._last = ""

    def add_group(self, identifier: str, kind: "arch.GroupKind.ValueType", parent: str = "") -> None:
        self._built.groups.add(id=identifier, kind=kind, parent=parent)

    def _add(self, block: arch.Block) -> str:
        self._built.blocks.append(block)
        return block.id

    def _ended(self, entry: str, channels: int) -> None:
        self._channels[entry] = channels
        self._last = entry

    def _output(self, entry: str) -> str:
        return output_block(entry, self._space)

    def add_stem(self) -> None:
        stem = self._space.stem
        self.add_group("stem", arch.GROUP_KIND_STEM)
        conv = blocks.convolution(stem.kernel, stem.width, bias=True)
        last = self._add(blocks.block("stem_conv", "stem", ["x"], blocks.conv_relu(conv)))
        if stem.local_response_norm:
            norm = arch.Operation(local_response_norm=_LRN)
            self._add(blocks.block("stem_norm", "stem", [last], norm))
        self._ended("stem", stem.width)

    def add_cell(self, cell: Cell, stage: str, width: int) -> None:
        self.add_group(cell.id, arch.GROUP_KIND_CELL, stage)
        source = self._add_skips(cell) if self._space.skips else self._output(self._last)
        channels = width // len(cell.branches)
        ends: list[str] = []
        for branch in cell.branches:
            identifier = branch_block(cell.id, branch)
            self.add_group(identifier, arch.GROUP_KIND_BRANCH, cell.id)
            conv = blocks.convolution(int(branch[0]), channels, separable=branch.endswith("sep"))
            operation = blocks.conv_norm_relu(
                conv, affine=self._space.branch_norm_affine, dropout=self._space.branch_dropout
            )
            ends.append(self._add(blocks.block(identifier, identifier, [source], operation)))
        joined = [arch.Edge(source=end, drop_path=self._space.drop_path and end != ends[0]) for end in ends]
        self._add(blocks.block(f"{cell.id}_cat", cell.id, joined, blocks.identity()))
        self._ended(cell.id, channels * len(cell.branches))

    def _add_skips(self, cell: Cell) -> str:
        """Join the direct input with the pooled, scaled skips; bring them back to the direct input's channels.

        A cell without skips has the 1x1 convolution too, as in the authors' networks: their published parameters
        and multiply-accumulates only come out with it.
        """
        source = self._output(self._last)
        if cell.skips:
            scaled = [
                arch.Edge(source=self._output(entry), scale=_SCALE, resize=arch.RESIZE_MAX_POOL_2X2)
                for entry in cell.skips
            ]
            source = self._add(blocks.block(skip_block(cell.id), cell.id, [source, *scaled], blocks.identity()))
        conv = blocks.convolution(1, self._channels[self._last], bias=True)
        return self._add(blocks.block(f"{cell.id}_mix", cell.id, [source], blocks.conv_relu(conv)))

    def add_auxiliary(self, classes: int) -> None:
        last = self._last
        blocks.add_auxiliary(self._built, last, self._output(last), self._channels[last], classes)

    def add_widener(self, stage: int) -> None:
        """Halve the resolution; the convolution adds as many channels as the stage's nominal width."""
        widener = widener_id(stage)
        self.add_group(widener, arch.GROUP_KIND_WIDENER)
        source = self._output(self._last)
        added = self._space.stem.width << (stage - 1)
        pool = self._add(blocks.block(f"{widener}_pool", widener, [source], blocks.max_pool()))
        conv = blocks.conv_relu(blocks.convolution(3, added, stride=2, bias=True))
        strided = self._add(blocks.block(f"{widener}_conv", widener, [source], conv))
        self._add(blocks.block(widener, widener, [pool, strided], blocks.identity()))
        self._ended(widener, self._channels[self._last] + added)

    def finish(self, classes: int) -> arch.Architecture:
        self.add_group("head", arch.GROUP_KIND_HEAD)
        head = blocks.head_blocks(self._output(self._last), classes, self._space.head_dropout)
        self._built.blocks.extend(head)
        self._built.output = head[-1].id
        return self._built
