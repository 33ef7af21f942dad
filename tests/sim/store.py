"""An object store with the faults of a network in front of it; what is behind it is the real in-memory store."""

from random import Random

from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import object_pb2


class FaultStore:
    """Says no, does it and says no, or tears what it reads, by chance; `rate` 0: never."""

    def __init__(self, store: MemoryStore, rng: Random) -> None:
        self.store = store
        self.rate = 0.0
        self.faults = 0
        self._rng = rng

    def put(self, kind: ObjectKind, content: bytes) -> object_pb2.ObjectRef:
        """Keep bytes; raises Unavailable (STORE_DOWN), sometimes after it has kept them."""
        fault = self._fault(2)
        if fault == 1:
            raise Unavailable("STORE_DOWN", "the store did nothing and said no")
        ref = self.store.put(kind, content)
        if fault == 2:
            raise Unavailable("STORE_DOWN", "the store did it and said no")
        return ref

    def get(self, ref: object_pb2.ObjectRef) -> bytes:
        """Return verified bytes; a torn read is refused by the real store's digest check, and tried again later."""
        fault = self._fault(2)
        if fault == 1:
            raise Unavailable("STORE_DOWN", "the store said no")
        if fault == 2:
            objects = self.store._objects
            whole = objects[ref.key]
            objects[ref.key] = whole[:-1] + bytes([whole[-1] ^ 1])
            try:
                return self.store.get(ref)
            except (Invalid, NotFound) as error:
                raise Unavailable("STORE_DOWN", f"torn: {error.message}") from error
            finally:
                objects[ref.key] = whole
        return self.store.get(ref)

    def _fault(self, kinds: int) -> int:
        if self.rate and self._rng.random() < self.rate:
            self.faults += 1
            return self._rng.randint(1, kinds)
        return 0
