"""Which channels of a network are the same in all but name: tied by sums, and by what passes channels on one by one."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from nasmesh.model.architecture import INPUT_ID, merged_dims
from nasmesh.model.geometry import Dims
from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb

Ids = npt.NDArray[np.int64]
"""A number for every channel (or feature) of a value; tied channels are of one class."""
Map = npt.NDArray[np.int64]
"""For every new channel of a value, the old one that it is a copy of."""

_PASSING = frozenset({"pool", "global_pool", "batch_norm", "activation", "dropout", "identity", "zero"})


class Channels:
    """The classes of a network's channels, and how many copies of each there are to be."""

    def __init__(self, architecture: pb.Architecture, known: Mapping[str, Dims]) -> None:
        """Trace every channel through the network."""
        self._parents: list[int] = []
        self._fixed: list[tuple[Ids, str]] = []
        self._copies: dict[int, int] = {}
        self._known = known
        self.values: dict[str, Ids] = {INPUT_ID: self._fresh(known[INPUT_ID][0])}
        self._fix(INPUT_ID, "the data")
        for block in architecture.blocks:
            merged = self._merge(block)
            self.values[block.id] = self._through(block.operation, merged, merged_dims(block, dict(known)), block.id)
        for output in (architecture.output, *architecture.auxiliary_outputs):
            self._fix(output, "the logits")

    def copy(self, block: str, originals: Ids) -> None:
        """Ask for copies of some channels of a block, one for each time that one is named.

        Raises Rejected (TRANSFORM_IMPOSSIBLE) naming the block that cannot have them.
        """
        for place in originals:
            root = self._root(int(self.values[block][place]))
            self._copies[root] = self._copies.get(root, 0) + 1
        for ids, why in self._fixed:
            if any(self._root(int(one)) in self._copies for one in ids):
                message = f"its channels are tied to {why}, and cannot be copied"
                raise rejected(Reason.TRANSFORM_IMPOSSIBLE, message, where=block)

    def produced(self, block: str) -> Map:
        """Return the map of what a block computes anew: each channel, and its copies right behind it.

        So concatenated channels are in the order of those that are computed at once, and both can be summed.
        """
        ids = self.values[block]
        return np.repeat(np.arange(len(ids)), [1 + self._copies.get(self._root(int(one)), 0) for one in ids])

    def _merge(self, block: pb.Block) -> Ids:
        arriving = [self.values[edge.source] for edge in block.inputs]
        if block.merge == pb.MERGE_CONCAT:
            return np.concatenate(arriving)
        for other in arriving[1:]:
            self._tie(arriving[0], other)
        return arriving[0]

    def _through(self, operation: pb.Operation, ids: Ids, dims: Dims, where: str) -> Ids:
        """Return the ids of what an operation puts out for an input of `ids` and old `dims`."""
        kind = operation.WhichOneof("kind") or ""
        if kind in _PASSING:
            return ids
        if kind == "flatten":
            return np.repeat(ids, int(np.prod(dims[1:])))
        if kind == "linear":
            return self._fresh(operation.linear.features)
        if kind in ("conv", "conv_unit"):
            conv = operation.conv if kind == "conv" else operation.conv_unit.conv
            return self._convolved(conv, ids, where)
        if kind == "mixed":
            found = [self._through(candidate.operation, ids, dims, where) for candidate in operation.mixed.candidates]
            for other in found[1:]:
                self._tie(found[0], other)
            return found[0]
        # Layer norm and local response norm: a copy would count twice in what others are divided by.
        self._fixed.append((ids, f"the normalisation {where!r}"))
        return ids

    def _convolved(self, conv: pb.Conv, ids: Ids, where: str) -> Ids:
        if (conv.groups or 1) == 1:
            return self._fresh(conv.channels)
        if conv.groups == len(ids) == conv.channels:
            return ids
        made = self._fresh(conv.channels)
        self._fixed += [(part, f"the groups of {where!r}") for part in (ids, made)]
        return made

    def _fresh(self, count: int) -> Ids:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _fix(self, value: str, why: str) -> None:
        self._fixed.append((self.values[value], why))

    def _tie(self, one: Ids, other: Ids) -> None:
        for first, second in zip(one.tolist(), other.tolist(), strict=True):
            self._parents[self._root(first)] = self._root(second)

    def _root(self, one: int) -> int:
        while self._parents[one] != one:
            self._parents[one] = self._parents[self._parents[one]]
            one = self._parents[one]
        return one
