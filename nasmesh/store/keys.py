"""Builds and parses every object key. A key is derived from kind and content digest, never taken from a message."""

import hashlib
import re
from enum import Enum

from nasmesh.errors import Invalid
from nasmesh.v1 import object_pb2 as pb

_KEY = re.compile(
    r"(?P<kind>networks|checkpoints|datasets|reports|states)/sha256/(?P<head>[0-9a-f]{2})/(?P<digest>[0-9a-f]{64})"
    r"(?P<extension>\.[a-z0-9]{1,8})?"
)

# Extensions are cut off where they touch other text: a key stands for all that begin with it.
_KEYS = re.compile(rb"(?:networks|checkpoints|datasets|reports|states)/sha256/[0-9a-f]{2}/[0-9a-f]{64}")


class ObjectKind(Enum):
    """What an object is; the first part of its key."""

    NETWORK = "networks"
    CHECKPOINT = "checkpoints"
    DATASET = "datasets"
    REPORT = "reports"
    STATE = "states"


_KINDS = {kind.value: kind for kind in ObjectKind}


def object_ref(kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> pb.ObjectRef:
    """Return the reference of an object with these bytes."""
    digest = hashlib.sha256(content).hexdigest()
    suffix = f".{extension}" if extension else ""
    key = f"{kind.value}/sha256/{digest[:2]}/{digest}{suffix}"
    check_ref(pb.ObjectRef(key=key, sha256=digest, size_bytes=len(content)), field="object")
    return pb.ObjectRef(key=key, sha256=digest, size_bytes=len(content))


def is_key(text: str) -> bool:
    """Say whether text is an object key."""
    match = _KEY.fullmatch(text)
    return match is not None and match["digest"][:2] == match["head"]


def check_key(key: str, *, field: str) -> None:
    """Raise Invalid (OBJECT_REF_INVALID) for text that is no object key."""
    if not is_key(key):
        raise Invalid("OBJECT_REF_INVALID", f"{field}: {key[:120]!r} is not an object key", field=field)


def bare(key: str) -> str:
    """Return a key without its extension, as `keys_within` finds it."""
    return key.partition(".")[0]


def keys_within(content: bytes) -> set[str]:
    """Return every object key that occurs in serialised messages, states included whose form nobody here knows.

    More may be found than is meant: whoever asks wants to know what must stay.
    """
    return {match[0].decode() for match in _KEYS.finditer(content)}


def check_ref(ref: pb.ObjectRef, *, field: str) -> ObjectKind:
    """Return the kind of a reference from outside; raises Invalid (OBJECT_KEY_MISMATCH, OBJECT_REF_INVALID)."""
    match = _KEY.fullmatch(ref.key)
    if match is None or ref.size_bytes < 0:
        raise Invalid("OBJECT_REF_INVALID", f"{field}: {ref.key[:120]!r} is not an object key", field=field)
    if match["digest"] != ref.sha256 or match["head"] != ref.sha256[:2]:
        raise Invalid("OBJECT_KEY_MISMATCH", f"{field}: the key does not match the digest", field=field)
    return _KINDS[match["kind"]]


def check_content(ref: pb.ObjectRef, content: bytes) -> bytes:
    """Return the bytes if they are those the reference names; raises Invalid (OBJECT_CORRUPT)."""
    if len(content) != ref.size_bytes or hashlib.sha256(content).hexdigest() != ref.sha256:
        raise Invalid(
            "OBJECT_CORRUPT", f"object {ref.key}: the bytes do not have the digest that names them", field="object"
        )
    return content
