"""Checks an exported model as its user will meet it: parsed, loaded and run by onnxruntime, where that is installed."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from nasmesh.errors import NasmeshError
from nasmesh.v1 import object_pb2
from nasmesh.v1.search_pb2 import Trial

PREPROCESSING_KEY = "nasmesh.preprocessing"
_BATCH = 2
_AGREEMENT = 1e-4  # of the largest output


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """How the model is fed: input and output names, sample dimensions, preprocessing."""

    input: str
    output: str
    dims: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    per_image: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, as sentences, and what the model says of itself; facts are None without onnxruntime."""

    checks: Sequence[str]
    facts: ModelFacts | None


def verify(content: bytes, ref: object_pb2.ObjectRef, trial: Trial) -> Verification:
    """Check the bytes of a trained model; raises NasmeshError (MODEL_UNVERIFIED) where a check fails."""
    if trial.model.sha256 and trial.model.sha256 != ref.sha256:
        raise _unverified(f"its SHA-256 {ref.sha256[:12]} is not the recorded {trial.model.sha256[:12]}")
    checks = [f"SHA-256 {ref.sha256} equals the recorded digest"]
    checks.append(_check_with_onnx(content) if _installed("onnx") else "not parsed with onnx: it is not installed")
    if not (_installed("onnxruntime") and _installed("numpy")):
        return Verification([*checks, "not run: onnxruntime is not installed (pip install onnxruntime)"], None)
    facts, sentence = _check_with_runtime(content)
    return Verification([*checks, sentence], facts)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _unverified(text: str) -> NasmeshError:
    return NasmeshError("MODEL_UNVERIFIED", f"best.onnx: {text}; export it again or look at the train server's log")


def _check_with_onnx(content: bytes) -> str:
    import onnx

    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:
        raise _unverified(f"onnx refuses it ({str(error)[:160]})") from error
    opset = max((entry.version for entry in model.opset_import), default=0)
    return f"onnx {onnx.__version__} parses and checks it (IR {model.ir_version}, opset {opset})"


def _check_with_runtime(content: bytes) -> tuple[ModelFacts, str]:
    import numpy as np

    from nasmesh.model import runtime

    try:
        session = runtime.open_session(content)
        first, output = session.get_inputs()[0], session.get_outputs()[0]
        dims = tuple(int(dim) for dim in first.shape[1:])
        result = np.asarray(session.run([output.name], {first.name: np.zeros((_BATCH, *dims), np.float32)})[0])
    except Exception as error:
        raise _unverified(f"onnxruntime refuses it ({str(error)[:160]})") from error
    if result.shape[0] != _BATCH or not bool(np.isfinite(result).all()):
        raise _unverified(f"a batch of {_BATCH} gave {result.shape} with numbers that are not finite or missing")
    shape = "x".join(str(size) for size in result.shape)
    sentence = f"onnxruntime {runtime.VERSION} loads it and ran a batch of {_BATCH} (output {shape}, all finite)"
    return _facts(session.get_modelmeta().custom_metadata_map, first.name, output.name, dims), sentence


def check_runs(content: bytes, name: str) -> str:
    """Return the sentence that onnxruntime ran a file; raises NasmeshError (MODEL_UNVERIFIED) where it does not."""
    if not (_installed("onnxruntime") and _installed("numpy")):
        return f"{name}: not run, onnxruntime is not installed"
    return f"{name}: {_check_with_runtime(content)[1]}"


def agree(one: bytes, other: bytes, name: str) -> str:
    """Return the sentence that two forms of a network compute the same; raises NasmeshError (MODEL_UNVERIFIED)."""
    if not (_installed("onnxruntime") and _installed("numpy")):
        return f"{name}: not run, onnxruntime is not installed"
    import numpy as np

    from nasmesh.model import runtime

    outputs = []
    for content in (one, other):
        try:
            session = runtime.open_session(content)
            first = session.get_inputs()[0]
            x = np.random.default_rng(0).standard_normal((_BATCH, *map(int, first.shape[1:])), np.float32)
            outputs.append(np.asarray(session.run(None, {first.name: x})[0]))
        except Exception as error:
            raise _unverified(f"{name}: onnxruntime refuses it ({str(error)[:160]})") from error
    difference = float(np.abs(outputs[0] - outputs[1]).max())
    if not difference <= _AGREEMENT * max(1.0, float(np.abs(outputs[0]).max())):
        raise _unverified(f"{name}: its outputs differ by {difference:.3g}")
    return f"{name}: onnxruntime computes the same (largest difference {difference:.2g})"


def _facts(metadata: dict[str, str], first: str, output: str, dims: tuple[int, ...]) -> ModelFacts:
    try:
        rule = cast("dict[str, object]", json.loads(metadata.get(PREPROCESSING_KEY, "{}")))
        mean, std = (tuple(float(value) for value in cast("list[float]", rule.get(key, []))) for key in ("mean", "std"))
    except (ValueError, TypeError, AttributeError) as error:
        raise _unverified(f"its metadata {PREPROCESSING_KEY} cannot be read") from error
    return ModelFacts(first, output, dims, mean, std, bool(rule.get("per_image", False)))
