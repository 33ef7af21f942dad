"""Bytes of ONNX objects: one model, one byte string."""

import onnx
from google.protobuf.message import DecodeError, EncodeError

from nasmesh.limits import CHECKPOINT_BYTES
from nasmesh.model.reasons import Reason, rejected


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Return the deterministic bytes of a model; raises Rejected (TOO_LARGE) over 1.9 GB."""
    try:
        content = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):  # protobuf refuses above 2 GiB
        raise _too_large() from None
    if len(content) > CHECKPOINT_BYTES:
        raise _too_large()
    return bytes(content)


def from_bytes(content: bytes, *, limit: int = CHECKPOINT_BYTES) -> onnx.ModelProto:
    """Return the model in trusted bytes of ours; raises Rejected (TOO_LARGE, NOT_ONNX)."""
    if len(content) > limit:
        message = f"{len(content)} bytes; the limit is {limit}"
        raise rejected(Reason.TOO_LARGE, message, where="content")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise rejected(Reason.NOT_ONNX, "the bytes are not an ONNX model", where="content") from None
    if not model.HasField("graph"):
        raise rejected(Reason.NOT_ONNX, "the bytes are not an ONNX model: there is no graph", where="content")
    return model


def _too_large() -> Exception:
    message = f"the model takes more than {CHECKPOINT_BYTES} bytes; train a smaller network"
    return rejected(Reason.TOO_LARGE, message, where="content")
