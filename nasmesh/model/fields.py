"""Copies messages but for some of their fields: what is large is often what is about to be replaced."""

from google.protobuf.message import Message


def copy_fields(source: Message, target: Message, skipped: set[str]) -> None:
    """Copy all that is set in `source` to an empty `target` of its type, but for fields of these names."""
    for descriptor, value in source.ListFields():
        if descriptor.name in skipped:
            continue
        if descriptor.is_repeated:
            getattr(target, descriptor.name).extend(value)
        elif descriptor.message_type:
            getattr(target, descriptor.name).CopyFrom(value)
        else:
            setattr(target, descriptor.name, value)
