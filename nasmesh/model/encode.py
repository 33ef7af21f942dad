"""Bytes of ONNX objects: one model, one byte string."""

from collections.abc import Iterable

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message

from nasmesh.limits import ADMISSION_NODES, CHECKPOINT_BYTES
from nasmesh.model.reasons import Reason, rejected

_PLAIN_ATTRIBUTES = (onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOAT)
_PLAIN_FIELDS = 3  # name, type and value


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
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise rejected(Reason.NOT_ONNX, "the bytes are not an ONNX model", where="content") from None
    if len(model.graph.node) > ADMISSION_NODES:  # before anything walks over them
        message = f"{len(model.graph.node)} nodes; the limit is {ADMISSION_NODES}"
        raise rejected(Reason.TOO_MANY, message, where="graph.node")
    _check_text(model)
    if not model.HasField("graph"):
        raise rejected(Reason.NOT_ONNX, "the bytes are not an ONNX model: there is no graph", where="content")
    return model


def _check_text(message: Message) -> None:
    """Refuse text that is not UTF-8: protobuf hands it out as bytes, which no later check expects."""
    if isinstance(message, onnx.TensorProto):
        _refuse_bytes([message.name, message.doc_string])
        for entry in (*message.metadata_props, *message.external_data):
            _check_text(entry)
        return  # listing a tensor's fields would copy its data
    graph = message if isinstance(message, onnx.GraphProto) else None
    if graph is not None:
        _check_nodes(graph)
    for descriptor, value in message.ListFields():
        if descriptor.type == FieldDescriptor.TYPE_STRING:
            _refuse_bytes(value if descriptor.is_repeated else [value])
        elif descriptor.type == FieldDescriptor.TYPE_MESSAGE and (graph is None or descriptor.name != "node"):
            for part in value if descriptor.is_repeated else (value,):
                _check_text(part)


def _check_nodes(graph: onnx.GraphProto) -> None:
    """Look at what every node has by name, and at the rest where a node has more: there may be many nodes."""
    texts: list[str | bytes] = []
    for node in graph.node:
        texts += (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            texts.append(attribute.name)
            if attribute.type not in _PLAIN_ATTRIBUTES or len(attribute.ListFields()) > _PLAIN_FIELDS:
                _check_text(attribute)
        if node.doc_string or node.metadata_props or node.overload or node.device_configurations:
            _check_text(node)
    _refuse_bytes(texts)


def _refuse_bytes(texts: Iterable[str | bytes]) -> None:
    if any(isinstance(text, bytes) for text in texts):
        raise rejected(Reason.NOT_ONNX, "a name or text is not UTF-8", where="content")


def _too_large() -> Exception:
    message = f"the model takes more than {CHECKPOINT_BYTES} bytes; train a smaller network"
    return rejected(Reason.TOO_LARGE, message, where="content")
