"""Whether all text of an ONNX model is UTF-8: ONNX's own messages do not say, and hand out bytes where it is not."""

import functools

import onnx
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from nasmesh.limits import MIB

# Parsing once more is a hundred times as fast as looking at every text from here, but takes the memory twice.
_SMALL = 16 * MIB


def is_all_text(model: onnx.ModelProto, content: bytes) -> bool:
    """Tell whether every text of a model, parsed from `content`, is UTF-8."""
    if len(content) > _SMALL:
        return _walk(model)
    try:
        _verifying().FromString(content)
    except DecodeError:
        return False
    return True


@functools.cache
def _verifying() -> type[Message]:
    """Return the class of ONNX models that refuses such text when it parses: the same file with one feature more."""
    file = descriptor_pb2.FileDescriptorProto()
    onnx.ModelProto.DESCRIPTOR.file.CopyToProto(file)
    if file.syntax not in ("", "proto2"):
        raise RuntimeError(f"onnx is now defined in {file.syntax}: see whether its parser verifies text by itself")
    file.syntax, file.edition = "editions", descriptor_pb2.EDITION_2023
    file.options.Clear()
    features = file.options.features
    features.utf8_validation = descriptor_pb2.FeatureSet.VERIFY
    features.enum_type = descriptor_pb2.FeatureSet.CLOSED
    features.repeated_field_encoding = descriptor_pb2.FeatureSet.EXPANDED
    waiting = list(file.message_type)
    while waiting:
        message = waiting.pop()
        waiting.extend(message.nested_type)
        for field in message.field:
            field.options.ClearField("packed")  # editions say it otherwise; parsers take both ways
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx.ModelProto"))
    return found


def _walk(message: Message) -> bool:
    if isinstance(message, onnx.TensorProto):
        # Listing a tensor's fields would copy its data.
        texts = (message.name, message.doc_string)
        entries = (*message.metadata_props, *message.external_data)
        return not any(isinstance(text, bytes) for text in texts) and all(_walk(entry) for entry in entries)
    for descriptor, value in message.ListFields():
        parts = value if descriptor.is_repeated else (value,)
        if descriptor.type == FieldDescriptor.TYPE_STRING and any(isinstance(text, bytes) for text in parts):
            return False
        if descriptor.type == FieldDescriptor.TYPE_MESSAGE and not all(_walk(part) for part in parts):
            return False
    return True
