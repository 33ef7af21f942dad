"""Transforms whole ONNX objects: the architecture that rides along, and the weights, changed together and compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from nasmesh.clock import derive_seed
from nasmesh.errors import Invalid
from nasmesh.model import morph
from nasmesh.model.counting import Counts, count
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.model.reasons import Reason, rejected
from nasmesh.model.recover import recover_architecture
from nasmesh.model.weights import has_weights, strip_training, weight_values, with_weights
from nasmesh.v1 import architecture_pb2 as pb

TOLERANCE = 1e-5
"""Largest difference of a child's outputs from its parent's, relative to the largest output where that is above 1."""
_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Deepen:
    """A convolution unit of this kernel at a block."""

    block: str
    kernel: int = 3


@dataclass(frozen=True, slots=True)
class Widen:
    """So many channels for a block."""

    block: str
    channels: int


@dataclass(frozen=True, slots=True)
class Skip:
    """A skip from a block, or the data "x", to a later block's output."""

    source: str
    block: str


Step = Deepen | Widen | Skip


@dataclass(frozen=True, slots=True)
class Child:
    """The changed network, counts of parent and child, and how far outputs are apart (None: it has no weights)."""

    content: bytes
    before: Counts
    after: Counts
    max_abs_diff: float | None


def transform(model: onnx.ModelProto, steps: Sequence[Step], *, seed: int = 0) -> Child:
    """Return the network after these steps, in their order.

    Raises Rejected (TRANSFORM_IMPOSSIBLE and what the steps raise), and Invalid (TRANSFORM_DISAGREES) where onnxruntime
    finds the child's outputs further from the parent's than TOLERANCE.
    """
    model = strip_training(model)
    architecture = recover_architecture(model)
    if architecture is None:
        message = "the object carries no architecture, as imported networks do not; blocks cannot be named in it"
        raise rejected(Reason.TRANSFORM_IMPOSSIBLE, message, where="network")
    made = morph.Morph(architecture, weight_values(model) if has_weights(model) else {})
    for number, step in enumerate(steps):
        made = _apply(made, step, derive_seed(seed, "transform", number))
    child = lower(made.architecture)
    if made.weights:
        child = with_weights(child, made.weights)
    content = to_bytes(child)
    apart = _difference(architecture, to_bytes(model), content) if made.weights else None
    return Child(content, count(model), count(child), apart)


def _apply(made: morph.Morph, step: Step, seed: int) -> morph.Morph:
    if isinstance(step, Deepen):
        return morph.deepen(made.architecture, made.weights, step.block, kernel=step.kernel)
    if isinstance(step, Widen):
        return morph.widen(made.architecture, made.weights, step.block, step.channels, seed=seed)
    return morph.add_skip(made.architecture, made.weights, step.source, step.block, seed=seed)


def _difference(architecture: pb.Architecture, parent: bytes, child: bytes) -> float:
    from nasmesh.model import runtime

    draw = np.random.Generator(np.random.PCG64(derive_seed(0, "transform", "samples")))
    x = draw.standard_normal((_SAMPLES, *architecture.inputs[0].dims), dtype=np.float32)
    before, after = (np.asarray(runtime.open_session(one).run(None, {"x": x})[0]) for one in (parent, child))
    apart, largest = float(np.abs(before - after).max()), max(1.0, float(np.abs(before).max()))
    if not math.isfinite(apart) or apart > TOLERANCE * largest:
        message = f"the child's outputs differ from its parent's by {apart:.3g}, of {largest:.3g}; nothing was written"
        raise Invalid("TRANSFORM_DISAGREES", message)
    return apart
