"""An object store whose reads and writes are spans of the trace in work."""

from collections.abc import Iterator

from nasmesh.store.base import ObjectStore, Stored
from nasmesh.store.keys import ObjectKind
from nasmesh.telemetry import tracing
from nasmesh.v1 import object_pb2 as pb


class TracedStore:
    """Wraps a store."""

    def __init__(self, store: ObjectStore) -> None:
        """Trace what this store does."""
        self._store = store

    @property
    def kind_name(self) -> str:
        """The store's."""
        return self._store.kind_name

    def put(self, kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> pb.ObjectRef:
        """Keep the bytes; see ObjectStore.put."""
        with tracing.span_within("store put", {"kind": kind.value, "bytes": len(content)}) as span:
            ref = self._store.put(kind, content, extension=extension)
            span.set(key=ref.key)
            return ref

    def get(self, ref: pb.ObjectRef) -> bytes:
        """Return the bytes; see ObjectStore.get."""
        with tracing.span_within("store get", {"key": ref.key[:120], "bytes": ref.size_bytes}):
            return self._store.get(ref)

    def exists(self, ref: pb.ObjectRef) -> bool:
        """Say whether the object is there; see ObjectStore.exists."""
        return self._store.exists(ref)

    def objects(self) -> Iterator[Stored]:
        """Yield every object; see ObjectStore.objects."""
        return self._store.objects()

    def delete(self, key: str, *, min_age_s: float) -> bool:
        """Delete an object; see ObjectStore.delete."""
        return self._store.delete(key, min_age_s=min_age_s)

    def location(self, ref: pb.ObjectRef) -> str:
        """Return where the object is; see ObjectStore.location."""
        return self._store.location(ref)

    def link(self, ref: pb.ObjectRef, *, seconds: int) -> str:
        """Return an address to download from; see ObjectStore.link."""
        return self._store.link(ref, seconds=seconds)
