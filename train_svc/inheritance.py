"""Initial weights from another network's checkpoint, and the report of what was taken."""

from google.protobuf import json_format
from torch import nn

from nasmesh.errors import Invalid
from nasmesh.model.engine.checkpoint import Checkpoint, Json, inherit
from nasmesh.v1 import search_pb2

_MOST_NAMES = 1000


def take_weights(module: nn.Module, parent: Checkpoint) -> search_pb2.InheritanceReport:
    """Copy what agrees by name and shape into the module, and return what that was.

    Raises Invalid (CHECKPOINT_MISMATCH) where nothing agrees: the checkpoint is of another network.
    """
    found = inherit(module, parent)
    if not found.taken:
        message = "initial_weights: no parameter of the network has the name and shape of one there; leave it out"
        raise Invalid("CHECKPOINT_MISMATCH", message, field="initial_weights")
    return search_pb2.InheritanceReport(
        taken=len(found.taken),
        taken_share=found.taken_share,
        initialized=[name for name, _ in found.skipped[:_MOST_NAMES]],
        unused=found.unused[:_MOST_NAMES],
    )


def to_scalars(report: search_pb2.InheritanceReport | None) -> Json:
    """Return a report as a checkpoint keeps it, for what resumes from there."""
    return json_format.MessageToDict(report) if report is not None else None


def from_scalars(kept: Json) -> search_pb2.InheritanceReport | None:
    """Return what `to_scalars` was given."""
    if not isinstance(kept, dict):
        return None
    return json_format.ParseDict(kept, search_pb2.InheritanceReport())
