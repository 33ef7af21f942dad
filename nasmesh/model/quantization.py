"""8-bit copies of trained networks, made by onnxruntime. They run anywhere ONNX does, but are no networks of ours any
more: admission refuses their operators, so they are for use, not for further training.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from nasmesh.errors import Rejected
from nasmesh.model import runtime
from nasmesh.model.encode import to_bytes
from nasmesh.v1 import evaluation_pb2

_REFUSALS: tuple[type[Exception], ...] = (*runtime.ENGINE_ERRORS, ValueError, RuntimeError, OSError)

Batches = Iterable[NDArray[np.float32]]


def quantize(content: bytes, method: evaluation_pb2.Quantization.ValueType, calibration: Batches) -> bytes:
    """Return an 8-bit copy of a trained network, with its metadata but without what its training left there.

    DYNAMIC quantises weights, and activations as they come. STATIC quantises both; the ranges of activations are those
    of the `calibration` batches. Raises Rejected (NETWORK_NOT_QUANTIZABLE).
    """
    original = onnx.ModelProto.FromString(content)
    with tempfile.TemporaryDirectory() as folder:
        plain, result = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        try:
            runtime.fused(content, str(plain))
            if method == evaluation_pb2.QUANTIZATION_STATIC:
                _quantize_static(plain, result, original.graph.input[0].name, calibration)
            else:
                _quantize_dynamic(plain, result)
            copy = onnx.ModelProto.FromString(result.read_bytes())
            runtime.open_session(copy.SerializeToString())
        except _REFUSALS as error:
            message = f"onnxruntime cannot make an 8-bit copy: {str(error)[:200]}"
            raise Rejected("NETWORK_NOT_QUANTIZABLE", message, field="config.quantization") from error
    del copy.metadata_props[:]
    copy.metadata_props.extend(original.metadata_props)
    return to_bytes(copy)


def _quantize_dynamic(source: Path, target: Path) -> None:
    from onnxruntime import quantization  # noqa: TID251 - behind the door: nasmesh.model.runtime is loaded

    # Unsigned: onnxruntime's ConvInteger takes no signed weights.
    quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QUInt8)


def _quantize_static(source: Path, target: Path, name: str, calibration: Batches) -> None:
    from onnxruntime import quantization  # noqa: TID251 - behind the door: nasmesh.model.runtime is loaded

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        """Hands out one batch after the other."""

        def __init__(self) -> None:
            """Begin at the first."""
            self._batches: Iterator[NDArray[np.float32]] = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            """Return the next batch, None after the last."""
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    quantization.quantize_static(
        source,
        target,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )
