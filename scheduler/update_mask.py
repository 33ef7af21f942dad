"""What UpdateSearch may change, and changing it. Pure."""

import difflib

from google.protobuf.field_mask_pb2 import FieldMask

from nasmesh.errors import Invalid
from nasmesh.v1 import search_pb2 as pb

_BUDGET = tuple(f"spec.budget.{field.name}" for field in pb.Budget.DESCRIPTOR.fields)
PATHS = ("spec.budget", *_BUDGET, "spec.parallelism", "spec.priority", "spec.labels")


def changed(current: pb.SearchSpec, wanted: pb.SearchSpec, mask: FieldMask) -> pb.SearchSpec:
    """Return `current` with the fields that the mask names as they are in `wanted`.

    Raises Invalid (UPDATE_MASK_INVALID) for an empty mask, and for paths that cannot be changed.
    """
    if not mask.paths:
        raise _invalid(f"name the fields to change, of {', '.join(PATHS)}")
    result = pb.SearchSpec()
    result.CopyFrom(current)
    for path in mask.paths:
        if path not in PATHS:
            near = difflib.get_close_matches(path, PATHS, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else f"what can be: {', '.join(PATHS)}"
            raise _invalid(f"{path[:80]!r} cannot be changed; {hint}")
        parts = path.split(".")[1:]
        if len(parts) == 2:
            _copy(result.budget, wanted.budget, parts[1])
        else:
            _copy(result, wanted, parts[0])
    result.parallelism = result.parallelism or 1
    return result


def _copy(to: pb.SearchSpec | pb.Budget, source: pb.SearchSpec | pb.Budget, field: str) -> None:
    """Make a field what it is in another message, absent included."""
    to.ClearField(field)  # type: ignore[arg-type]
    part = type(source)()
    part.CopyFrom(source)  # type: ignore[arg-type]
    for other in source.DESCRIPTOR.fields:
        if other.name != field:
            part.ClearField(other.name)  # type: ignore[arg-type]
    to.MergeFrom(part)  # type: ignore[arg-type]


def _invalid(what: str) -> Invalid:
    return Invalid("UPDATE_MASK_INVALID", f"update_mask: {what}", field="update_mask")
