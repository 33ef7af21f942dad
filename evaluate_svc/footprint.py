"""How much memory a network and one forward pass hold: measured in a process of its own, by its resident set.

Run as `python -m evaluate_svc.footprint ENGINE THREADS` with a network's bytes on standard input, it prints the number.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

from evaluate_svc.subject import open_engine
from nasmesh.errors import Rejected
from nasmesh.jobs.bounds import give_back
from nasmesh.model.initializers import data_inputs
from nasmesh.unpickling import forbid_unpickling
from nasmesh.v1 import evaluation_pb2

TIMEOUT_S = 300
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5), clear_refs: the peak resident set is that of now


def peak_bytes(content: bytes, config: evaluation_pb2.EvaluateConfig) -> int:
    """Return the most memory in bytes that the processor's side of an engine took for network and one forward pass.

    At batch 1, weights included, what the engine's library itself takes left out. Raises Rejected
    (MEASUREMENT_UNSUPPORTED) on a system that does not tell, (NETWORK_NOT_RUNNABLE).
    """
    if not _STATUS.exists():
        message = "config.memory: this system does not tell the peak of a process's memory; leave it out"
        raise Rejected("MEASUREMENT_UNSUPPORTED", message, field="config.memory")
    command = [sys.executable, "-m", "evaluate_svc.footprint", str(config.engine), str(config.threads)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=TIMEOUT_S, check=True)
        return int(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        told = getattr(error, "stderr", b"") or b""
        why = told.decode(errors="replace").strip().rpartition("\n")[2][:200] or str(error)[:200]
        raise Rejected("NETWORK_NOT_RUNNABLE", f"model: its memory cannot be measured: {why}", field="model") from error


def _measure(content: bytes, config: evaluation_pb2.EvaluateConfig) -> int:
    _load_engine(config)
    # Parsed before the first look: the parsed form is ours, not the engine's.
    model = onnx.ModelProto.FromString(content)
    name = data_inputs(model)[0]
    dims = next(value for value in model.graph.input if value.name == name).type.tensor_type.shape.dim
    batch = np.zeros((1, *(dim.dim_value for dim in dims[1:])), dtype=np.float32)
    give_back()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    engine, _ = open_engine(content, model, config)
    engine.outputs(batch)
    return max(0, _memory("VmHWM") - before)


def _load_engine(config: evaluation_pb2.EvaluateConfig) -> None:
    """Have the engine's library set itself up, with the smallest of networks."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "first", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    engine, _ = open_engine(model.SerializeToString(), model, config)
    engine.outputs(np.zeros((1, 1), dtype=np.float32))


def _memory(name: str) -> int:
    """Return a line of the process's status in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure the network on standard input and print the bytes."""
    forbid_unpickling()
    config = evaluation_pb2.EvaluateConfig(
        engine=evaluation_pb2.EvaluateEngine.ValueType(int(sys.argv[1])), threads=int(sys.argv[2])
    )
    sys.stdout.write(str(_measure(sys.stdin.buffer.read(), config)))


if __name__ == "__main__":
    main()
