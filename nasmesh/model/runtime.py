"""The one door to onnxruntime, so that every session is opened the same way and nothing is reported to its vendor."""

import os

# From 1.29 on the Linux wheels send usage events unless this is set before the library is loaded;
# disable_telemetry_events() is too late, for the environment has been set up by then.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from onnxruntime import InferenceSession as InferenceSession
from onnxruntime.capi import onnxruntime_pybind11_state as errors

VERSION: str = onnxruntime.__version__
# What onnxruntime raises where it refuses or cannot run a network.
ENGINE_ERRORS: tuple[type[Exception], ...] = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NotImplemented,
    errors.RuntimeException,
)
_SILENT = 4
CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"


def open_session(content: bytes, *, threads: int = 1) -> InferenceSession:
    """Return a session on the processor over ONNX bytes; raises one of ENGINE_ERRORS where the network is refused."""
    return InferenceSession(content, _options(threads), providers=[CPU_PROVIDER])


def open_fastest(content: bytes, *, threads: int = 1) -> InferenceSession:
    """Return a session on the first GPU where this build of onnxruntime has CUDA and finds one, else on the processor.

    Raises one of ENGINE_ERRORS where the network is refused. What the GPU cannot run runs on the processor.
    """
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return open_session(content, threads=threads)
    # onnxruntime falls back by itself where there is no device; get_providers() of the session tells.
    return InferenceSession(content, _options(threads), providers=[CUDA_PROVIDER, CPU_PROVIDER])


def fused(content: bytes, path: str) -> None:
    """Write the network as onnxruntime simplifies it (constants folded, batch norm within convolutions) to a file.

    Only standard operators are in it. Raises one of ENGINE_ERRORS where the network is refused.
    """
    options = _options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = path
    InferenceSession(content, options, providers=[CPU_PROVIDER])


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    return options
