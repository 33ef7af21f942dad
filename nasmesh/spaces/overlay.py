"""Replaces some fields of a space: how a scale-up states only what it changes."""

from google.protobuf.message import Message

from nasmesh.errors import Invalid
from nasmesh.v1 import space_pb2 as pb


def overlay(space: pb.Space, changes: pb.Space) -> pb.Space:
    """Return `space` with the fields that `changes` sets; lists are replaced as a whole, never appended to.

    Raises Invalid (SPACE_INVALID) where `changes` is of another kind.
    """
    kinds = space.WhichOneof("kind"), changes.WhichOneof("kind")
    if kinds[1] is not None and kinds[0] != kinds[1]:
        message = f"space of kind {kinds[1]} cannot change one of kind {kinds[0]}"
        raise Invalid("SPACE_INVALID", message, field=f"space.{kinds[1]}")
    merged = pb.Space()
    merged.CopyFrom(space)
    _drop_replaced_lists(merged, changes)
    merged.MergeFrom(changes)
    return merged


def _drop_replaced_lists(target: Message, changes: Message) -> None:
    for field, value in changes.ListFields():
        if field.is_repeated:
            target.ClearField(field.name)
        elif field.message_type is not None and target.HasField(field.name):
            _drop_replaced_lists(getattr(target, field.name), value)
