"""Networks as trainings read them: admitted once, also where a training was weighed before it is run."""

from nasmesh.model.admission import Admitted, admit
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import object_pb2

_weighed: dict[str, Admitted] = {}
"""What this process weighed last, by digest; whoever trains it takes it away, since training may change it."""


def look_at(store: ObjectStore, ref: object_pb2.ObjectRef) -> Admitted:
    """Return a stored network after admission and keep it for the training that follows.

    Raises Rejected, NotFound, Unavailable (STORE_DOWN).
    """
    _weighed.clear()
    found = _weighed[ref.sha256] = admit(store.get(ref), checkpoint=True)
    return found


def take(store: ObjectStore, ref: object_pb2.ObjectRef) -> Admitted:
    """Return a stored network after admission, for the caller alone; raises as `look_at`."""
    return _weighed.pop(ref.sha256, None) or admit(store.get(ref), checkpoint=True)
