"""Search spaces: what networks a search may try, their flat list of choices, and how values become an architecture.

Each function looks at the kind of the space and hands over to its module. Nothing here reads data, results or files.
"""

from collections.abc import Sequence
from random import Random

from nasmesh.errors import Invalid
from nasmesh.spaces import cell, chain, envelope, envelope_build, envelope_sample, fixed
from nasmesh.spaces.overlay import overlay
from nasmesh.spaces.summary import summary
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb

__all__ = ["build", "check", "choices", "complete", "kind", "overlay", "sample", "summary"]


def kind(space: pb.Space) -> str:
    """Return the space's kind, the name of the field that is set; raises Invalid (SPACE_INVALID) where none is."""
    name = space.WhichOneof("kind")
    if name is None:
        raise Invalid("SPACE_INVALID", "space: set one of envelope, chain, fixed, cell", field="space")
    return name


def complete(space: pb.Space) -> pb.Space:
    """Return a copy with every default filled in; the same space again when it is complete already."""
    completed = pb.Space()
    completed.CopyFrom(space)
    if kind(space) == "envelope":
        completed.envelope.CopyFrom(envelope.complete(space.envelope))
    elif kind(space) == "cell":
        completed.cell.CopyFrom(cell.complete(space.cell))
    return completed


def check(space: pb.Space) -> None:
    """Raise Invalid (SPACE_INVALID) with every field that is out of its bounds or contradicts another."""
    name = kind(space)
    if name == "envelope":
        envelope.check(space.envelope)
    elif name == "chain":
        chain.check(space.chain)
    elif name == "cell":
        cell.check(space.cell)
    else:
        fixed.check(space.fixed)


def choices(space: pb.Space, *, input_dims: Sequence[int], classes: int) -> list[pb.Choice]:
    """Return the space's decisions in network order; a choice comes after those that its conditions name.

    `input_dims` are the input's dimensions without the batch. Raises Invalid for a bad space, dimensions or classes.
    """
    check(space)
    _check_task(input_dims, classes)
    name = kind(space)
    if name == "envelope":
        return envelope.choices(envelope.complete(space.envelope))
    if name == "cell":
        return cell.choices(cell.complete(space.cell))
    return chain.choices(space.chain) if name == "chain" else []


def build(
    space: pb.Space,
    values: pb.ChoiceValues,
    *,
    input_dims: Sequence[int],
    classes: int,
    preprocessing: arch.Preprocessing,
) -> arch.Architecture:
    """Return the network that `values` stand for, from the data input "x" [N, *input_dims] to logits [N, classes].

    Every active choice must have a value of its domain and nothing else may have one: raises Invalid with the
    choice's name (CHOICE_UNKNOWN, CHOICE_MISSING, CHOICE_INACTIVE, CHOICE_OUT_OF_DOMAIN, CELL_EMPTY).
    """
    check(space)
    _check_task(input_dims, classes)
    name = kind(space)
    if name == "fixed":
        return fixed.build(space.fixed, values, input_dims, classes)
    _check_dims(name, input_dims)
    if name == "envelope":
        full = envelope.complete(space.envelope)
        built = envelope_build.build(full, values, input_dims, classes)
    elif name == "cell":
        built = cell.build(cell.complete(space.cell), values, input_dims, classes)
    else:
        built = chain.build(space.chain, values, input_dims, classes)
    if len(input_dims) == 2:
        _narrow(built)
    built.preprocessing.CopyFrom(preprocessing)
    return built


def sample(space: pb.Space, rng: Random) -> pb.ChoiceValues:
    """Draw one network of the space; every valid network is equally likely.

    `rng` is the only source of chance. Raises Invalid for a bad space.
    """
    check(space)
    name = kind(space)
    if name == "envelope":
        return envelope_sample.sample(envelope.complete(space.envelope), rng)
    if name == "cell":
        return cell.sample(cell.complete(space.cell), rng)
    return chain.sample(space.chain, rng) if name == "chain" else pb.ChoiceValues()


def _check_task(input_dims: Sequence[int], classes: int) -> None:
    if not input_dims or any(size < 1 for size in input_dims):
        message = f"input_dims: {list(input_dims)} must be positive sizes without the batch"
        raise Invalid("TASK_INVALID", message, field="input_dims")
    if classes < 1:
        raise Invalid("TASK_INVALID", f"classes: {classes} must be at least 1", field="classes")


def _check_dims(name: str, input_dims: Sequence[int]) -> None:
    if len(input_dims) > 3 or (len(input_dims) == 1 and name != "chain"):
        message = (
            f"input_dims: {list(input_dims)} must be channels, height, width, or channels, length of series; only the"
            " chain space takes columns of a table"
        )
        raise Invalid("TASK_INVALID", message, field="input_dims")


def _narrow(built: arch.Architecture) -> None:
    """Give every convolution a kernel of one row: a series is an image of one row, other rows would never see any."""
    for block in built.blocks:
        for operation in (block.operation, *(item.operation for item in block.operation.mixed.candidates)):
            if operation.HasField("conv"):
                operation.conv.kernel_h = 1
            elif operation.HasField("conv_unit"):
                operation.conv_unit.conv.kernel_h = 1
