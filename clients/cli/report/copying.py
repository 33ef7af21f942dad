"""The 8-bit copy of a network whose search made none: made here, calibrated on training data, scored like the network.

An evaluate server's own program does it in a process of its own, where its parts and the data are at hand.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.cli.display.view import format_metric
from nasmesh.errors import Invalid, NasmeshError, Stale
from nasmesh.v1 import evaluate_service_pb2, measurement_pb2
from nasmesh.v1.search_pb2 import Search, Trial

_PROGRAM = "evaluate_svc.afterwards"
_NEEDED = ("onnx", "onnxruntime", "numpy")
_COPY_S = 1800.0


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy's bytes, and what was measured of it."""

    content: bytes
    measurements: Sequence[measurement_pb2.Measurement]

    def sentence(self, name: str) -> str:
        """Return what was done, for the report."""
        score = next(item for item in self.measurements if item.split)
        split = measurement_pb2.Split.Name(score.split).removeprefix("SPLIT_").lower()
        return (
            f"{name}: made here after the search, static, calibrated on training samples; "
            f"{score.metric} {format_metric(score.metric, score.value)} on the {split} split"
        )


def copy_afterwards(search: Search, trial: Trial, model: bytes) -> Copy:
    """Return the 8-bit copy of a trained network, scored on the split that the network was scored on.

    Raises Invalid (RUNTIME_MISSING), Stale (NOT_QUANTIZED: its data is not here, or other data, or onnxruntime cannot).
    """
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise Invalid(
            "RUNTIME_MISSING",
            f"--int8: {trial.name} has no 8-bit copy, and {absent[0]}, which makes one, is not installed here; "
            "pip install 'nasmesh[evaluate]'",
            field="int8",
        )
    start = evaluate_service_pb2.StartEvaluationRequest(data=search.spec.data, config=trial.evaluate)
    with tempfile.TemporaryDirectory(prefix="nasmesh-") as text:
        folder = Path(text)
        paths = (folder / "model.onnx", folder / "request.binpb", folder)
        paths[0].write_bytes(model)
        paths[1].write_bytes(start.SerializeToString())
        _run(trial, [sys.executable, "-m", _PROGRAM, *map(str, paths)])
        content = (folder / "int8.onnx").read_bytes()
        result = evaluate_service_pb2.EvaluateResult.FromString((folder / "result.binpb").read_bytes())
    if trial.data_digest and result.data_digest != trial.data_digest:
        raise _impossible(trial, f"{search.spec.data.dataset} is other data here than the network was trained on")
    return Copy(content, list(result.measurements))


def _run(trial: Trial, command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COPY_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _impossible(trial, str(error)[:300]) from error
    if done.returncode:
        raise _impossible(trial, _told(done.stdout) or done.stderr.strip()[-300:])


def _told(output: str) -> str:
    """Return the sentence of a program's error; empty where it ended in another way."""
    try:
        return str(json.loads(output)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _impossible(trial: Trial, why: str) -> NasmeshError:
    return Stale(
        "NOT_QUANTIZED",
        f"--int8: {trial.name} has no 8-bit copy, and none can be made here ({why}); run this where its data is "
        "(NASMESH_STORE, NASMESH_DATA), or set evaluate.quantization: QUANTIZATION_STATIC in the search",
        field="int8",
    )
