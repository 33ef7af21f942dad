"""Length-prefixed frames on a pipe: four bytes of length, big-endian, then the bytes. Never interprets them."""

import os
import struct

from nasmesh.errors import Invalid
from nasmesh.limits import MESSAGE_BYTES

FRAME_BYTES = 2 * MESSAGE_BYTES
"""Largest frame: a request or result fits a gRPC message, with room for the envelope and a progress mark."""

_LENGTH = struct.Struct(">I")


def write_frame(descriptor: int, content: bytes) -> None:
    """Write one frame; raises Invalid (FRAME_TOO_LARGE), or OSError where the other side is gone."""
    if len(content) > FRAME_BYTES:
        raise Invalid("FRAME_TOO_LARGE", f"a frame of {len(content)} bytes exceeds {FRAME_BYTES}")
    view = memoryview(_LENGTH.pack(len(content)) + content)
    while view:
        view = view[os.write(descriptor, view) :]


def read_frame(descriptor: int) -> bytes | None:
    """Return the next frame, or None at the end of the pipe (also within a frame); raises Invalid (FRAME_TOO_LARGE)."""
    header = _read_exactly(descriptor, _LENGTH.size)
    if header is None:
        return None
    length: int = _LENGTH.unpack(header)[0]
    if length > FRAME_BYTES:
        raise Invalid("FRAME_TOO_LARGE", f"a frame of {length} bytes exceeds {FRAME_BYTES}")
    return _read_exactly(descriptor, length)


def _read_exactly(descriptor: int, length: int) -> bytes | None:
    parts: list[bytes] = []
    while length:
        part = os.read(descriptor, min(length, 1 << 20))
        if not part:
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
