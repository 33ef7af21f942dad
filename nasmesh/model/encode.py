"""Bytes of ONNX objects: one model, one byte string."""

import onnx
from google.protobuf.message import DecodeError, EncodeError

from nasmesh.errors import Invalid
from nasmesh.limits import ADMISSION_NODES, ADMISSION_PARTS, ADMISSION_SCANNED_BYTES, CHECKPOINT_BYTES
from nasmesh.model.reasons import Reason, rejected
from nasmesh.model.text import is_all_text
from nasmesh.wire import check_fields


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
    """Return the model in trusted bytes of ours; raises Rejected (TOO_LARGE, NOT_ONNX, TOO_MANY)."""
    if len(content) > limit:
        message = f"{len(content)} bytes; the limit is {limit}"
        raise rejected(Reason.TOO_LARGE, message, where="content")
    _check_parts(content)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise rejected(Reason.NOT_ONNX, "the bytes are not an ONNX model", where="content") from None
    if len(model.graph.node) > ADMISSION_NODES:  # before anything walks over them
        message = f"{len(model.graph.node)} nodes; the limit is {ADMISSION_NODES}"
        raise rejected(Reason.TOO_MANY, message, where="graph.node")
    if not is_all_text(model, content):
        raise rejected(Reason.NOT_ONNX, "a name or text is not UTF-8", where="content")
    if not model.HasField("graph"):
        raise rejected(Reason.NOT_ONNX, "the bytes are not an ONNX model: there is no graph", where="content")
    return model


def _check_parts(content: bytes) -> None:
    """Refuse what would become much larger by being parsed, before that happens."""
    if len(content) <= ADMISSION_SCANNED_BYTES:
        return
    try:
        check_fields(content, onnx.ModelProto, most=ADMISSION_PARTS, most_alike=2 * ADMISSION_NODES)
    except Invalid as error:
        reason = Reason.NOT_ONNX if error.reason == "MESSAGE_MALFORMED" else Reason.TOO_MANY
        said = "the bytes are not an ONNX model" if reason is Reason.NOT_ONNX else error.message
        raise rejected(reason, said, where="content") from None


def _too_large() -> Exception:
    message = f"the model takes more than {CHECKPOINT_BYTES} bytes; train a smaller network"
    return rejected(Reason.TOO_LARGE, message, where="content")
