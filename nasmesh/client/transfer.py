"""Objects in pieces over a stream: receives and checks them, cuts and names them."""

import hashlib
from collections.abc import Iterable, Iterator

from nasmesh.errors import Invalid
from nasmesh.limits import CHUNK_BYTES, MIB, NETWORK_BYTES
from nasmesh.store.keys import check_content, check_ref
from nasmesh.v1 import object_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb


def receive(stream: Iterable[pb.ExportNetworkResponse]) -> tuple[object_pb2.ObjectRef, bytes]:
    """Return (reference, bytes) of an exported object; raises Invalid (OBJECT_REF_INVALID, OBJECT_CORRUPT)."""
    ref = object_pb2.ObjectRef()
    pieces: list[bytes] = []
    size = 0
    for message in stream:
        if message.HasField("object"):
            ref = message.object
            check_ref(ref, field="object")
        size += len(message.chunk)
        if size > ref.size_bytes:
            raise Invalid(
                "OBJECT_CORRUPT", f"object {ref.key}: more bytes came than its reference says", field="object"
            )
        pieces.append(message.chunk)
    return ref, check_content(ref, b"".join(pieces))


def check_size(size: int) -> None:
    """Refuse an empty or too large network before a byte is sent; raises Invalid (OBJECT_EMPTY, OBJECT_TOO_LARGE)."""
    if size == 0:
        raise Invalid("OBJECT_EMPTY", "network: the file is empty; give an ONNX file", field="network")
    if size > NETWORK_BYTES:
        raise Invalid(
            "OBJECT_TOO_LARGE",
            f"network: {size / MIB:.0f} MiB are more than the {NETWORK_BYTES // MIB} MiB that a network may have",
            field="network",
        )


def chunks(content: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield the bytes in pieces, the SHA-256 of all of them with the first."""
    digest = hashlib.sha256(content).hexdigest()
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES], digest if start == 0 else ""
