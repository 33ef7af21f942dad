"""Checks and reads the tensors stored in a model: type, length and values, before numpy sees them."""

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nasmesh.limits import ADMISSION_DIM, ADMISSION_RANK
from nasmesh.model.reasons import Reason, rejected

_BYTES: dict[int, int] = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.INT64: 8,
    onnx.TensorProto.INT32: 4,
    onnx.TensorProto.BOOL: 1,
    onnx.TensorProto.UINT8: 1,
}
_FIELDS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.INT32: "int32_data",
    onnx.TensorProto.BOOL: "int32_data",
    onnx.TensorProto.UINT8: "int32_data",
}


def check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    """Refuse a tensor that is external, segmented, of another type, or whose data is not exactly as long as its dims.

    Raises Rejected (EXTERNAL_DATA, TENSOR_TYPE, DATA_LENGTH, DATA_NOT_FINITE, VALUE_OUT_OF_RANGE) with field `where`.
    """
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise rejected(Reason.EXTERNAL_DATA, "the tensor's data is outside the object; store it inside", where=where)
    if tensor.data_type not in _BYTES or tensor.HasField("segment") or tensor.string_data:
        known = onnx.TensorProto.DataType.keys()
        name = known[tensor.data_type] if 0 <= tensor.data_type < len(known) else str(tensor.data_type)
        message = f"tensors of type {name} are not supported; use FLOAT, INT64, INT32, BOOL or UINT8"
        raise rejected(Reason.TENSOR_TYPE, message, where=where)
    if len(tensor.dims) > ADMISSION_RANK or not all(0 <= size <= ADMISSION_DIM**2 for size in tensor.dims):
        raise rejected(Reason.VALUE_OUT_OF_RANGE, f"dims {list(tensor.dims)[:8]} are out of range", where=where)
    count = math.prod(tensor.dims)
    raw = tensor.raw_data  # read once: each access copies
    stored = _stored(tensor, len(raw))
    if stored != count:
        message = f"dims {list(tensor.dims)} need {count} values, the data has {stored:g}"
        raise rejected(Reason.DATA_LENGTH, message, where=where)
    if tensor.data_type == onnx.TensorProto.FLOAT:
        values = np.frombuffer(raw, "<f4") if tensor.HasField("raw_data") else np.asarray(tensor.float_data, np.float32)
        if not np.isfinite(values).all():
            raise rejected(Reason.DATA_NOT_FINITE, "the data has NaN or infinity", where=where)


def _stored(tensor: onnx.TensorProto, raw_bytes: int) -> float:
    """Return how many values the tensor stores; -1 where two fields store some."""
    own = _FIELDS[tensor.data_type]
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    if any(len(getattr(tensor, name)) for name in fields if name != own):
        return -1
    typed = len(getattr(tensor, own))
    if not tensor.HasField("raw_data"):
        return typed
    return -1 if typed else raw_bytes / _BYTES[tensor.data_type]


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto:
    """Return the tensor of a Constant node that check_operator accepted, named by the node's output."""
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        result = onnx.TensorProto()
        result.CopyFrom(value)
        result.name = node.output[0]
        return result
    kind = np.float32 if attribute.name.startswith("value_float") else np.int64
    return numpy_helper.from_array(np.asarray(value, dtype=kind), node.output[0])
