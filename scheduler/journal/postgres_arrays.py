"""Arrays for PostgreSQL in its own binary form, made at once: the driver's way costs more than all else of a batch.

A header (dimensions, whether there are nulls, the elements' type, count, first index), then each value with its size.
"""

import struct
from collections.abc import Sequence

import psycopg
from psycopg import adapt, pq

_HEADER = struct.Struct("!iiIii")
_EMPTY = struct.Struct("!iiI")
_SIZE = struct.Struct("!i")
_BYTEA, _BYTEA_ARRAY = 17, 1001
_BIGINT, _BIGINT_ARRAY = 20, 1016


class ByteaArray(bytes):
    """A value of type bytea[], encoded."""


class BigintArray(bytes):
    """A value of type bigint[], encoded."""


def bytea_array(values: Sequence[bytes]) -> ByteaArray:
    """Return an array of byte strings."""
    if not values:
        return ByteaArray(_EMPTY.pack(0, 0, _BYTEA))
    parts = [_HEADER.pack(1, 0, _BYTEA, len(values), 1)]
    for value in values:
        parts += (_SIZE.pack(len(value)), value)
    return ByteaArray(b"".join(parts))


def bigint_array(values: Sequence[int]) -> BigintArray:
    """Return an array of numbers of 64 bits."""
    if not values:
        return BigintArray(_EMPTY.pack(0, 0, _BIGINT))
    sized = [part for value in values for part in (8, value)]
    return BigintArray(_HEADER.pack(1, 0, _BIGINT, len(values), 1) + struct.pack("!" + "iq" * len(values), *sized))


def register(db: psycopg.Connection[tuple[object, ...]]) -> None:
    """Teach a connection to send both."""
    db.adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
    db.adapters.register_dumper(BigintArray, _BigintArrayDumper)


class _Encoded(adapt.Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        """Return what is encoded already."""
        return obj


class _ByteaArrayDumper(_Encoded):
    oid = _BYTEA_ARRAY


class _BigintArrayDumper(_Encoded):
    oid = _BIGINT_ARRAY
