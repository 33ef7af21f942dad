"""ONNX files that are small or cheap to make, and large once parsed or walked; and files that are none."""

import itertools
from collections.abc import Iterator

from nasmesh.model.encode import to_bytes
from tests.fuzz.mutants import chain_network

MIB = 1 << 20


def _field(number: int, content: bytes) -> bytes:
    """One length-delimited field on the wire."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def bombs() -> Iterator[tuple[str, bytes]]:
    """Files that are small or cheap to make and large once parsed or walked."""
    good = to_bytes(chain_network(0))
    graph_fields = {"nodes": 1, "initialisers": 5, "inputs": 11, "outputs": 12, "value infos": 13, "sparse": 15}
    graph_fields |= {"annotations": 14, "metadata": 16}
    for name, number in graph_fields.items():
        for count in (50_000, 1_000_000):
            yield f"{count} empty {name}", good + _field(7, _field(number, b"") * count)
    for name, number in {"functions": 25, "training": 20, "notes": 14, "opsets": 8, "configuration": 26}.items():
        yield f"1000000 empty {name}", good + _field(number, b"") * 1_000_000
    node_fields = {"inputs": 1, "outputs": 2, "attributes": 5, "node metadata": 9}
    for name, number in node_fields.items():
        yield f"a node with 1000000 {name}", good + _field(7, _field(1, _field(number, b"") * 1_000_000))
        yield f"3000 nodes with 300 {name}", good + _field(7, _field(1, _field(number, b"a") * 300) * 3000)
    for name, number in {"ints": 8, "floats": 7}.items():
        packed = _field(5, _field(1, b"pads") + _field(number, bytes(4 * MIB)) + _varint(20 << 3) + b"\x07")
        yield f"an attribute of many {name}", good + _field(7, _field(1, _field(4, b"Conv") + packed))
    for name, number in {"strings": 9, "tensors": 10, "graphs": 11, "types": 15, "sparse tensors": 23}.items():
        many = _field(5, _field(1, b"a") + _field(number, b"") * 500_000)
        yield f"an attribute of many {name}", good + _field(7, _field(1, many))
    for name, number in {"dims": 1, "int32": 5, "int64": 7, "uint64": 11}.items():
        tensor = _field(8, b"t") + b"\x10\x01" + _field(number, b"\x01" * 4 * MIB)
        yield f"a tensor of many {name}", good + _field(7, _field(5, tensor))
    yield "a tensor of many dims one by one", good + _field(7, _field(5, _field(8, b"t") + b"\x08\x01" * MIB))
    yield "a tensor of many strings", good + _field(7, _field(5, _field(8, b"t") + _field(6, b"") * MIB))
    for depth in (40, 90, 110, 1000, 100_000):
        content = b""
        for _ in range(depth):
            content = _field(1, _field(5, _field(6, content)))
            if len(content) > 8 * MIB:
                break
        yield f"graphs {depth} deep on the wire", good + _field(7, content)
    shape = _field(1, b"") * 1_000_000
    yield (
        "a type of a million dims",
        good + _field(7, _field(11, _field(1, b"v") + _field(2, _field(1, _field(2, shape))))),
    )
    yield "a long name", good + _field(7, _field(1, _field(3, b"n" * 30 * MIB)))
    yield "a long documentation", good + _field(6, b"d" * 30 * MIB)
    yield "a long producer", good + _field(2, b"p" * MIB)
    yield "over 64 MiB", good + bytes(64 * MIB)
    for cut in range(1, 20):
        yield f"cut at {cut}/20", good[: len(good) * cut // 20]
    for number, wire in itertools.product((0, 99, 2**28), (0, 1, 2, 3, 4, 5, 6, 7)):
        yield f"field {number} of wire type {wire}", good + _varint(number << 3 | wire) + b"\x01" * 8
    for byte in (0x00, 0x80, 0xFF):
        yield f"bytes {byte:#x}", bytes([byte]) * 1000
    yield "nothing", b""
    yield "another format", b"PK\x03\x04" + bytes(1000)
    yield "a pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR."
    yield "twice itself", good + good
    yield "an unknown varint behind", good + b"\xf8\x7f\x01"
