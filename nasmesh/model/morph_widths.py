"""Gives a network the channels that its copies ask for: sizes in the architecture, and weights."""

import math

import numpy as np

from nasmesh.clock import derive_seed
from nasmesh.model.architecture import INPUT_ID, merged_dims, shapes
from nasmesh.model.geometry import Dims
from nasmesh.model.morph_channels import Channels, Map
from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb

_NORM_ROLES = ("weight", "bias", "running_mean", "running_var")


def widened(
    architecture: pb.Architecture, weights: dict[str, np.ndarray], channels: Channels, *, seed: int
) -> dict[str, np.ndarray]:
    """Change the sizes of an architecture in place, and return the weights that go with them.

    Raises Rejected (TRANSFORM_IMPOSSIBLE) where a sum's inputs come in different orders.
    """
    known = shapes(architecture)
    maps: dict[str, Map] = {INPUT_ID: np.arange(known[INPUT_ID][0])}
    widener = _Widener(weights, seed)
    arriving = {block.id: merged_dims(block, known) for block in architecture.blocks}
    for block in architecture.blocks:
        merged = _merged(block, maps, known)
        maps[block.id] = widener.operation(
            block.operation, block.id, merged, (arriving[block.id], channels.produced(block.id))
        )
    return widener.weights


def _merged(block: pb.Block, maps: dict[str, Map], known: dict[str, Dims]) -> Map:
    found = [maps[edge.source] for edge in block.inputs]
    if block.merge == pb.MERGE_CONCAT:
        starts = np.cumsum([0, *(known[edge.source][0] for edge in block.inputs)])
        return np.concatenate([one + start for one, start in zip(found, starts[:-1], strict=True)])
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        message = "it sums channels that would come in different orders; widen another block"
        raise rejected(Reason.TRANSFORM_IMPOSSIBLE, message, where=block.id)
    return found[0]


class _Widener:
    """Rewrites one operation after another; `source` is the map of its input, `produced` that of what it makes anew."""

    def __init__(self, weights: dict[str, np.ndarray], seed: int) -> None:
        """Begin with the parent's weights."""
        self.weights = dict(weights)
        self._seed = seed

    def operation(self, operation: pb.Operation, prefix: str, source: Map, sizes: tuple[Dims, Map]) -> Map:
        """Change an operation and its weights, and return the map of its output; `sizes` are (old dims, produced)."""
        dims, produced = sizes
        kind = operation.WhichOneof("kind") or ""
        if kind == "conv":
            return self._conv(operation.conv, (prefix, prefix), source, sizes)
        if kind == "conv_unit":
            unit = operation.conv_unit
            made = self._conv(unit.conv, (f"{prefix}.conv", prefix), source, sizes)
            self._select([f"{prefix}.norm.{role}" for role in _NORM_ROLES], made)
            return made
        if kind == "linear":
            operation.linear.features = len(produced)
            self._matrix(f"{prefix}.weight", source, produced)
            self._select([f"{prefix}.bias"], produced)
            return produced
        if kind == "batch_norm":
            self._select([f"{prefix}.{role}" for role in _NORM_ROLES], source)
        elif kind == "flatten":
            positions = math.prod(dims[1:])
            return (source[:, None] * positions + np.arange(positions)).reshape(-1)
        elif kind == "mixed":
            found = [
                self.operation(candidate.operation, f"{prefix}.{candidate.id}", source, sizes)
                for candidate in operation.mixed.candidates
            ]
            if any(not np.array_equal(found[0], other) for other in found[1:]):
                message = "its candidates would put channels out in different orders"
                raise rejected(Reason.TRANSFORM_IMPOSSIBLE, message, where=prefix)
            return found[0]
        return source

    def _conv(self, conv: pb.Conv, names: tuple[str, str], source: Map, sizes: tuple[Dims, Map]) -> Map:
        plain, parts = names
        dims, produced = sizes
        if (conv.groups or 1) > 1:
            if not conv.groups == conv.channels == dims[0]:
                return produced  # nothing that other groups touch is ever copied
            conv.groups = conv.channels = len(source)
            self._select([f"{plain}.weight", f"{plain}.bias"], source)
            return source
        conv.channels = len(produced)
        last = f"{parts}.pointwise" if conv.separable else plain
        if conv.separable:
            self._select([f"{parts}.depthwise.weight"], source)
        self._matrix(f"{last}.weight", source, produced)
        self._select([f"{last}.bias"], produced)
        return produced

    def _select(self, names: list[str], chosen: Map) -> None:
        """Take the chosen rows of parameters, of those that there are."""
        for name in names:
            if name in self.weights:
                self.weights[name] = np.ascontiguousarray(self.weights[name][chosen])

    def _matrix(self, name: str, source: Map, produced: Map) -> None:
        """Take rows for outputs, columns for inputs; the columns of copies share what the original's was."""
        if name not in self.weights:
            return
        old = self.weights[name].astype(np.float64)
        count = np.bincount(source, minlength=old.shape[1])
        shares = np.ones(len(source))
        copied = count[source] > 1
        if copied.any():
            draw = np.random.Generator(np.random.PCG64(derive_seed(self._seed, "shares", name)))
            shares[copied] = draw.uniform(0.5, 1.5, int(copied.sum()))
            shares /= np.bincount(source, weights=shares, minlength=old.shape[1])[source]
        taken = old[produced][:, source] * shares.reshape(1, -1, *[1] * (old.ndim - 2))
        self.weights[name] = taken.astype(np.float32)
