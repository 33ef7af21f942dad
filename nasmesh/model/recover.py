"""Finds the architecture that rides along in a network's metadata, and does not believe it unless it fits."""

import base64
import binascii

import onnx
from google.protobuf.message import DecodeError

from nasmesh.model.digest import structural_digest
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.model.metadata import ARCHITECTURE_KEY, metadata_value
from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb


def recover_architecture(model: onnx.ModelProto) -> pb.Architecture | None:
    """Return the architecture that the network was lowered from, or None if it carries none.

    Raises Rejected: ARCHITECTURE_MALFORMED for undecodable metadata, ARCHITECTURE_MISMATCH where lowering it gives a
    network of another structure than this graph, and what the architecture check raises.
    """
    return recover_checked(model, structural_digest(model), to_bytes(model))


def recover_checked(model: onnx.ModelProto, digest: str, content: bytes) -> pb.Architecture | None:
    """Return the same for a model whose structural digest and canonical bytes are at hand."""
    text = metadata_value(model, ARCHITECTURE_KEY)
    if text is None:
        return None
    try:
        result = pb.Architecture.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, DecodeError, ValueError):
        message = "the metadata value is not a base64 architecture message"
        raise rejected(Reason.ARCHITECTURE_MALFORMED, message, where=ARCHITECTURE_KEY) from None
    lowered = lower(result)
    # A network without weights that is all that its architecture says has the very same bytes.
    if to_bytes(lowered) != content and structural_digest(lowered) != digest:
        message = "the graph is not what the architecture in its metadata describes; remove the metadata"
        raise rejected(Reason.ARCHITECTURE_MISMATCH, message, where=ARCHITECTURE_KEY)
    return result
