"""What a child of the test's table does with an admitted network: what train and evaluate servers do, on one batch."""

from pathlib import Path

import numpy as np
import onnx
import torch

from nasmesh.errors import Rejected
from nasmesh.jobs.context import JobContext
from nasmesh.model import runtime
from nasmesh.model.admission import admit
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.convert import to_module
from nasmesh.model.initializers import parameters
from nasmesh.model.weights import with_weights
from nasmesh.v1 import train_service_pb2 as pb

BATCH = 2


def run(request: bytes, context: JobContext) -> bytes:  # noqa: ARG001 - the signature of every work function
    """Run the network of the file named, in onnxruntime and both ways in torch; both must agree on shapes."""
    order = pb.StartTrainingRequest.FromString(request)
    admitted = admit(Path(order.network.key).read_bytes())
    dims = admitted.dims[_data(admitted.model)]
    sample = np.linspace(0.1, 1.0, BATCH * int(np.prod(dims[1:])), dtype=np.float32).reshape(BATCH, *dims[1:])
    shapes = {_shape(_by_onnxruntime(admitted.model, sample)), _shape(_by_torch(admitted.model, sample))}
    classes = admitted.dims[admitted.model.graph.output[0].name][1]
    if shapes != {(BATCH, classes)}:
        raise AssertionError(f"engines give {shapes}, admission said {(BATCH, classes)}")
    return b""


def _data(model: onnx.ModelProto) -> str:
    trained = parameters(model)
    return next(value.name for value in model.graph.input if value.name not in trained)


def _shape(array: np.ndarray) -> tuple[int, ...]:
    return tuple(array.shape)


def _by_onnxruntime(model: onnx.ModelProto, sample: np.ndarray) -> np.ndarray:
    values = {name: np.full(dims, 0.5, np.float32) for name, dims in parameters(model).items()}
    try:
        session = runtime.open_session(to_bytes(with_weights(model, values)))
        return session.run(None, {_data(model): sample})[0]
    except runtime.ENGINE_ERRORS as error:
        # As the evaluate server says it.
        raise Rejected("NETWORK_NOT_RUNNABLE", f"onnxruntime refuses it: {str(error)[:200]}") from error


def _by_torch(model: onnx.ModelProto, sample: np.ndarray) -> np.ndarray:
    module = to_module(model, seed=1)
    logits = module(torch.from_numpy(sample))
    if logits.requires_grad:
        logits.sum().backward()
    return logits.detach().numpy()
