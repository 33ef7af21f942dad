"""Streams objects between clients and the store, as they are: nothing here reads ONNX."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from functools import partial

from nasmesh import limits
from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import object_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb


async def export(store: ObjectStore, ref: object_pb2.ObjectRef) -> AsyncIterator[pb.ExportNetworkResponse]:
    """Yield the reference, then the verified bytes in order; raises what ObjectStore.get documents."""
    content = await asyncio.to_thread(store.get, ref)
    yield pb.ExportNetworkResponse(object=ref)
    for start in range(0, len(content), limits.CHUNK_BYTES):
        yield pb.ExportNetworkResponse(chunk=content[start : start + limits.CHUNK_BYTES])


def link(
    store: ObjectStore, ref: object_pb2.ObjectRef, request: pb.LinkNetworkRequest, *, clock: Clock | None = None
) -> pb.LinkNetworkResponse:
    """Return an address to download an object from; raises Invalid (FIELD_INVALID, LINK_UNSUPPORTED)."""
    seconds = request.lifetime.seconds if request.HasField("lifetime") else limits.STORE_LINK_S
    if not 1 <= seconds <= limits.STORE_LINK_S_MAX:
        raise Invalid("FIELD_INVALID", f"lifetime: 1 s to {limits.STORE_LINK_S_MAX} s", field="lifetime")
    found = pb.LinkNetworkResponse(object=ref, url=store.link(ref, seconds=seconds))
    found.expire_time.seconds = int((clock or SystemClock()).wall()) + seconds
    return found


async def receive(
    store: ObjectStore,
    requests: AsyncIterator[pb.ImportNetworkRequest] | AsyncIterator[pb.UploadDatasetObjectRequest],
    *,
    kind: ObjectKind = ObjectKind.NETWORK,
    most: int = limits.NETWORK_BYTES,
    extension: str = "onnx",
) -> object_pb2.ObjectRef:
    """Store the bytes that a client streams, at most `most`, and return their reference.

    Raises Invalid (OBJECT_TOO_LARGE, OBJECT_EMPTY, OBJECT_DIGEST_MISMATCH, FIELD_INVALID), Unavailable (STORE_DOWN).
    """
    chunks: list[bytes] = []
    total, expected = 0, ""
    async for request in requests:
        if len(request.chunk) > limits.CHUNK_BYTES:
            raise Invalid("FIELD_INVALID", f"chunk: at most {limits.CHUNK_BYTES:,} bytes", field="chunk")
        total += len(request.chunk)
        if total > most:
            raise Invalid("OBJECT_TOO_LARGE", f"an object under {kind.value}/ may have {most:,} bytes", field="chunk")
        expected = expected or request.sha256
        chunks.append(request.chunk)
    content = b"".join(chunks)
    if not content:
        raise Invalid("OBJECT_EMPTY", "chunk: no bytes were sent", field="chunk")
    if expected and hashlib.sha256(content).hexdigest() != expected:
        raise Invalid("OBJECT_DIGEST_MISMATCH", "sha256: the bytes that came have another digest", field="sha256")
    return await asyncio.to_thread(partial(store.put, kind, content, extension=extension))


async def with_object(store: ObjectStore, request: pb.EnqueueTrialRequest) -> pb.EnqueueTrialRequest:
    """Return the request with ONNX bytes replaced by the object that they are now: the journal keeps references only.

    Raises Invalid (OBJECT_TOO_LARGE), Unavailable (STORE_DOWN).
    """
    if not request.proposal.HasField("onnx"):
        return request
    named = pb.EnqueueTrialRequest()
    named.CopyFrom(request)
    ref = await asyncio.to_thread(store.put, ObjectKind.NETWORK, request.proposal.onnx)
    named.proposal.object.CopyFrom(ref)
    return named
