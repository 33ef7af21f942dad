"""Counts what a message from outside would become, before it is parsed: two bytes on the wire can cost two hundred.

Walks the encoded bytes by the message's descriptor without making anything of them.
"""

import functools
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from nasmesh.errors import Invalid

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MESSAGE = FieldDescriptor.TYPE_MESSAGE
_TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_FIXED_WIDTH = {
    FieldDescriptor.TYPE_FLOAT,
    FieldDescriptor.TYPE_DOUBLE,
    FieldDescriptor.TYPE_FIXED32,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED32,
    FieldDescriptor.TYPE_SFIXED64,
}
# A packed number takes at most eight bytes in memory, a message more than a hundred.
_PACKED_SHARE = 16
_DEPTH = 64
_PACKED = "packed"
# A descriptor of protobuf's C library, which has no type of its own.
_Kind: TypeAlias = Any
# Messages that are still to be walked: start, end, descriptor, depth.
_Waiting: TypeAlias = list[tuple[int, int, _Kind, int]]


def check_fields(content: bytes, message: type[Message], *, most: int, most_alike: int | None = None) -> None:
    """Refuse bytes that are no message of this type, or whose parts number more than `most`.

    `most_alike` bounds how often one field may be repeated within one message. Raises Invalid (MESSAGE_MALFORMED,
    MESSAGE_TOO_COMPLEX). Takes about half a microsecond a part, and ends early.
    """
    left = most
    most_alike = most if most_alike is None else most_alike
    waiting: _Waiting = [(0, len(content), message.DESCRIPTOR, 0)]
    while waiting:
        start, end, kind, depth = waiting.pop()
        if depth > _DEPTH:
            raise Invalid("MESSAGE_TOO_COMPLEX", f"messages nested more than {_DEPTH} deep")
        left = _walk(content, start, end, (kind, depth, waiting), min(left, most_alike), left)
        if left < 0:
            raise Invalid("MESSAGE_TOO_COMPLEX", f"more than {most} parts, or {most_alike} of one kind in one place")


def _walk(
    content: bytes, position: int, end: int, within: tuple[_Kind, int, _Waiting], most_alike: int, left: int
) -> int:
    """Return how many parts may still come after those of one message; its messages are appended to the list."""
    kind, depth, waiting = within
    fields = _fields_of(kind)
    seen: dict[int, int] = {}
    while position < end:
        tag = content[position]
        position += 1
        if tag > 0x7F:
            tag, position = _varint(content, position - 1, end)
        times = seen[tag] = seen.get(tag, 0) + 1
        left -= 1
        if left < 0 or times > most_alike:
            return -1
        wire = tag & 7
        if wire == _BYTES:
            length, position = _varint(content, position, end)
            meaning = fields.get(tag >> 3)
            if meaning is not None and length:
                if meaning is _PACKED:
                    left -= length // _PACKED_SHARE
                else:
                    waiting.append((position, position + length, meaning, depth + 1))
            position += length
        elif wire == _VARINT:
            _, position = _varint(content, position, end)
        elif wire == _FIXED32:
            position += 4
        elif wire == _FIXED64:
            position += 8
        else:
            raise _malformed()
        if position > end:
            raise _malformed()
    return left


@functools.cache
def _fields_of(kind: _Kind) -> dict[int, _Kind]:
    """Return by number what the length-delimited fields of a message hold: messages (their descriptor) or numbers."""
    found: dict[int, _Kind] = {}
    for field in kind.fields:
        if field.type == _MESSAGE:
            found[field.number] = field.message_type
        elif field.type not in _TEXT and field.type not in _FIXED_WIDTH:
            found[field.number] = _PACKED
    return found


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _malformed()


def _malformed() -> Invalid:
    return Invalid("MESSAGE_MALFORMED", "the bytes are no message of this type")
