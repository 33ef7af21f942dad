"""An object store in this process's memory, for tests and simulation. It ends with the process."""

import threading

from nasmesh.errors import NotFound
from nasmesh.store.base import check_size
from nasmesh.store.keys import ObjectKind, check_content, check_ref, object_ref
from nasmesh.v1 import object_pb2 as pb


class MemoryStore:
    """Keeps objects in a dict."""

    kind_name = "memory"

    def __init__(self) -> None:
        """Start empty."""
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> pb.ObjectRef:
        """Keep the bytes; see ObjectStore.put."""
        check_size(kind, len(content))
        ref = object_ref(kind, content, extension=extension)
        with self._lock:
            self._objects[ref.key] = bytes(content)
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

    def location(self, ref: pb.ObjectRef) -> str:
        """Return a name for people."""
        check_ref(ref, field="object")
        return f"memory:{ref.key}"
