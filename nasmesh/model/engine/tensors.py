"""ONNX tensors ↔ torch tensors, bit for bit."""

from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from nasmesh.errors import Invalid
from nasmesh.model.reasons import Reason, rejected

_KINDS: Final = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
    torch.int64: onnx.TensorProto.INT64,
    torch.int32: onnx.TensorProto.INT32,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.bool: onnx.TensorProto.BOOL,
}
_KNOWN: Final = frozenset(_KINDS.values())


def to_proto(name: str, tensor: Tensor) -> onnx.TensorProto:
    """Return a tensor as an ONNX tensor of its dtype; raises Invalid (TENSOR_TYPE)."""
    kind = _KINDS.get(tensor.dtype)
    if kind is None:
        raise Invalid("TENSOR_TYPE", f"{name}: {tensor.dtype} cannot be stored", field=name)
    plain = tensor.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
    if tensor.dtype == torch.bfloat16:  # numpy has none
        plain = plain.view(torch.int16)
    proto = onnx.TensorProto(name=name, data_type=kind, dims=list(tensor.shape))
    proto.raw_data = plain.numpy().tobytes()
    return proto


def to_tensor(proto: onnx.TensorProto) -> Tensor:
    """Return an ONNX tensor as a torch tensor that owns its memory; raises Rejected (TENSOR_TYPE, DATA_LENGTH)."""
    if proto.data_type not in _KNOWN or proto.data_location == onnx.TensorProto.EXTERNAL:
        raise rejected(Reason.TENSOR_TYPE, "a tensor of another type, or outside the object", where=proto.name)
    try:
        if proto.data_type == onnx.TensorProto.BFLOAT16 and proto.HasField("raw_data"):
            raw = np.frombuffer(proto.raw_data, dtype="<i2").reshape(tuple(proto.dims))
            return torch.from_numpy(raw.copy()).view(torch.bfloat16)
        return torch.from_numpy(np.array(numpy_helper.to_array(proto)))
    except (ValueError, TypeError) as error:
        raise rejected(Reason.DATA_LENGTH, "the bytes do not fit the dims", where=proto.name) from error
