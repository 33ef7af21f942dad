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


def open_session(content: bytes, *, threads: int = 1) -> InferenceSession:
    """Return a session on the processor over ONNX bytes; raises one of ENGINE_ERRORS where the network is refused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    return InferenceSession(content, options, providers=["CPUExecutionProvider"])
