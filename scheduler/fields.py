"""Parts of encoded messages: what is bytes already is put together, not parsed and encoded again."""

SMALL = [bytes([number]) for number in range(128)]
"""Lengths below 128, encoded."""


def tag(number: int) -> bytes:
    """Return what stands before a field that has a length: a message, a text or bytes; for numbers below 16."""
    return SMALL[number << 3 | 2]


def sized(content: bytes) -> bytes:
    """Return bytes with their length before them, as a field of a message holds them."""
    size = len(content)
    if size < 128:
        return SMALL[size] + content
    head = bytearray()
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + content
