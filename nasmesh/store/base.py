"""The seam between the mesh and whatever keeps its objects."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from nasmesh import limits
from nasmesh.errors import Invalid
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import object_pb2 as pb

_MOST_BYTES = {ObjectKind.NETWORK: limits.NETWORK_BYTES}


class Stored(NamedTuple):
    """An object that a store holds; `age_s` counts from the last time that somebody put it."""

    key: str
    size_bytes: int
    age_s: float


class ObjectStore(Protocol):
    """Keeps immutable objects named by content. Safe to use from several threads and processes at once.

    The same bytes put twice are one object, which is as young then as if it were new. An object that was put is there
    after a power cut once `put` returned.
    """

    @property
    def kind_name(self) -> str:
        """What kind of store this is, for people: "directory", "memory", "s3"."""
        ...

    def put(self, kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> pb.ObjectRef:
        """Keep the bytes and return their reference; raises Invalid (OBJECT_TOO_LARGE), Unavailable (STORE_DOWN)."""
        ...

    def get(self, ref: pb.ObjectRef) -> bytes:
        """Return the bytes, verified against the digest every time.

        Raises NotFound (OBJECT_MISSING), Invalid (OBJECT_CORRUPT, OBJECT_KEY_MISMATCH, OBJECT_REF_INVALID),
        Unavailable (STORE_DOWN).
        """
        ...

    def exists(self, ref: pb.ObjectRef) -> bool:
        """Say whether an object of that key and size is there, without reading it; raises as get does for bad refs."""
        ...

    def objects(self) -> Iterator[Stored]:
        """Yield every object, in no order; what is put or deleted meanwhile may or may not come.

        Raises Unavailable (STORE_DOWN).
        """
        ...

    def delete(self, key: str, *, min_age_s: float) -> bool:
        """Delete an object unless it is younger, or put again meanwhile; returns whether it is gone by this call.

        Raises Invalid (OBJECT_REF_INVALID), Unavailable (STORE_DOWN).
        """
        ...

    def location(self, ref: pb.ObjectRef) -> str:
        """Return where the object is, for people; nothing parses it."""
        ...

    def link(self, ref: pb.ObjectRef, *, seconds: int) -> str:
        """Return an address from which whoever has it may download the object for so long, with any HTTP client.

        Raises Invalid (LINK_UNSUPPORTED) for a store that serves nobody by itself.
        """
        ...


def no_links(kind_name: str) -> Invalid:
    """Return the refusal of a store that cannot be downloaded from."""
    return Invalid(
        "LINK_UNSUPPORTED",
        f"link: a store of the kind {kind_name} gives no addresses to download from; export the bytes, or use S3",
        field="link",
    )


def check_size(kind: ObjectKind, size_bytes: int) -> None:
    """Refuse what is too large to keep; raises Invalid (OBJECT_TOO_LARGE)."""
    most = _MOST_BYTES.get(kind, limits.CHECKPOINT_BYTES)
    if size_bytes > most:
        raise Invalid(
            "OBJECT_TOO_LARGE",
            f"an object under {kind.value}/ may have {most:,} bytes, this one has {size_bytes:,}",
            field="object",
        )
