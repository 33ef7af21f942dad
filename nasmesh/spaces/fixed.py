"""The space of one network: a given architecture, or a network object in the store."""

from collections.abc import Sequence

from nasmesh.errors import Invalid
from nasmesh.spaces.domains import resolve
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb


def check(space: pb.FixedSpace) -> None:
    """Raise Invalid (SPACE_INVALID) where no network is given; the network itself is judged by admission."""
    given = space.WhichOneof("network")
    if given is None:
        raise _wrong("network", "set architecture or object")
    if given == "architecture" and not space.architecture.blocks:
        raise _wrong("architecture.blocks", "is empty; describe at least one block")
    if given == "object" and not space.object.key:
        raise _wrong("object.key", "is empty; name a network object in the store")


def build(space: pb.FixedSpace, values: pb.ChoiceValues, input_dims: Sequence[int], classes: int) -> arch.Architecture:
    """Return the given architecture as it is, after comparing it with the task.

    Raises Invalid: SPACE_NOT_BUILDABLE for a network object, SPACE_INVALID where input or classes differ from the
    data's, CHOICE_UNKNOWN where values are given.
    """
    resolve([], values)
    if space.WhichOneof("network") == "object":
        message = "space.fixed.object is a finished network; propose the object itself"
        raise Invalid("SPACE_NOT_BUILDABLE", message, field="space.fixed.object")
    dims = [list(item.dims) for item in space.architecture.inputs]
    if dims != [list(input_dims)]:
        raise _wrong("architecture.inputs", f"dims {dims} do not fit the data's {list(input_dims)}")
    ends = [block for block in space.architecture.blocks if block.id == space.architecture.output]
    if not ends:
        raise _wrong("architecture.output", f"{space.architecture.output[:80]!r} is no block of it")
    features = ends[0].operation.linear.features
    if ends[0].operation.HasField("linear") and features != classes:
        raise _wrong("architecture.output", f"{features} outputs do not fit the data's {classes} classes")
    built = arch.Architecture()
    built.CopyFrom(space.architecture)
    return built


def _wrong(field: str, what: str) -> Invalid:
    path = f"space.fixed.{field}"
    return Invalid("SPACE_INVALID", f"{path}: {what}", field=path)
