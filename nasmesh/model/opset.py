"""A trained network in another version of ONNX's operator set, for runtimes that do not know ours."""

import onnx
from onnx import helper, version_converter

from nasmesh.errors import Invalid, Rejected

OPSETS = range(16, 24)
"""Versions that can be asked for; below, the ways back of most operators are missing in onnx's converter."""


def to_opset(content: bytes, opset: int) -> bytes:
    """Return the bytes of the same network in another version of the operator set, and of the file format where older.

    What the metadata says of the network stays; what only training reads of tensors goes. Whoever calls this runs the
    result: the conversion is onnx's. Raises Invalid (OPSET_INVALID), Rejected (OPSET_UNREACHABLE) for a network with an
    operator that the version does not have.
    """
    if opset not in OPSETS:
        message = f"opset: {opset} is not in {OPSETS.start}..{OPSETS.stop - 1}"
        raise Invalid("OPSET_INVALID", message, field="opset")
    model = onnx.ModelProto.FromString(content)
    current = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if current == opset:
        return content
    for tensor in model.graph.initializer:  # older formats do not have it, and the converter would drop it silently
        del tensor.metadata_props[:]
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter's own exceptions are of several kinds, RuntimeError among them
        why = " ".join(str(error).split())[:200]
        message = f"opset: the network cannot be written in version {opset} ({why}); name another version"
        raise Rejected("OPSET_UNREACHABLE", message, field="opset") from error
    if [value.name for value in converted.graph.output] != [value.name for value in model.graph.output]:
        raise Rejected("OPSET_UNREACHABLE", f"opset: version {opset} would rename outputs; name another", field="opset")
    converted.ir_version = min(model.ir_version, helper.find_min_ir_version_for(converted.opset_import))
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return bytes(converted.SerializeToString(deterministic=True))
