"""An object store in this process's memory, for tests and simulation. It ends with the process."""

import threading
from collections.abc import Iterator

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import NotFound
from nasmesh.store.base import Stored, check_size, no_links
from nasmesh.store.keys import ObjectKind, check_content, check_key, check_ref, object_ref
from nasmesh.v1 import object_pb2 as pb


class MemoryStore:
    """Keeps objects in a dict."""

    kind_name = "memory"

    def __init__(self, *, clock: Clock | None = None) -> None:
        """Start empty."""
        self._clock = clock or SystemClock()
        self._objects: dict[str, bytes] = {}
        self._put_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def put(self, kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> pb.ObjectRef:
        """Keep the bytes; see ObjectStore.put."""
        check_size(kind, len(content))
        ref = object_ref(kind, content, extension=extension)
        with self._lock:
            self._objects[ref.key] = bytes(content)
            self._put_at[ref.key] = self._clock.monotonic()
        return ref

    def get(self, ref: pb.ObjectRef) -> bytes:
        """Return the verified bytes; see ObjectStore.get."""
        check_ref(ref, field="object")
        with self._lock:
            content = self._objects.get(ref.key)
        if content is None:
            raise NotFound("OBJECT_MISSING", f"object {ref.key} is not in the store", field="object")
        return check_content(ref, content)

    def exists(self, ref: pb.ObjectRef) -> bool:
        """Say whether the object is there; see ObjectStore.exists."""
        check_ref(ref, field="object")
        with self._lock:
            content = self._objects.get(ref.key)
        return content is not None and len(content) == ref.size_bytes

    def objects(self) -> Iterator[Stored]:
        """Yield every object; see ObjectStore.objects."""
        now = self._clock.monotonic()
        with self._lock:
            found = [Stored(key, len(body), now - self._put_at[key]) for key, body in self._objects.items()]
        yield from found

    def delete(self, key: str, *, min_age_s: float) -> bool:
        """Delete an object; see ObjectStore.delete."""
        check_key(key, field="key")
        with self._lock:
            if key not in self._objects or self._clock.monotonic() - self._put_at[key] < min_age_s:
                return False
            del self._objects[key], self._put_at[key]
        return True

    def location(self, ref: pb.ObjectRef) -> str:
        """Return a name for people."""
        check_ref(ref, field="object")
        return f"memory:{ref.key}"

    def link(self, ref: pb.ObjectRef, *, seconds: int) -> str:  # noqa: ARG002 - as every store
        """Refuse; see ObjectStore.link."""
        raise no_links(self.kind_name)
