"""Runs networks in onnxruntime with random weights."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime

from nasmesh.model.encode import to_bytes
from nasmesh.model.initializers import parameters
from nasmesh.model.weights import with_weights


def randomised(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The network with random positive weights (batch norm's variance may not be negative)."""
    rng = np.random.default_rng(seed)
    values = {
        name: np.asarray(rng.uniform(0.05, 1.0, dims), dtype=np.float32) for name, dims in parameters(model).items()
    }
    return with_weights(model, values)


def run(model: onnx.ModelProto, sample: np.ndarray, values: Sequence[str] = ()) -> list[np.ndarray]:
    """The outputs of a network with weights; `values` names inner values to return besides the logits."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for name in values:
        shown.graph.output.add(name=name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = to_bytes(shown)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": sample})
