"""The converter against the operator cases that the onnx package generates: right, or refused loudly, never wrong."""

import importlib
import pkgutil
import sys
import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case import node

from nasmesh.errors import Rejected
from nasmesh.model.engine.convert import convert
from nasmesh.model.engine.operators import BUILDERS

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def _cases() -> list[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = {name.lower() for name in BUILDERS}
        for module in pkgutil.iter_modules(node.__path__):  # importing all of them takes 12 s
            if module.name.replace("_", "") in ours:
                importlib.import_module(f"{node.__name__}.{module.name}")
    return [case for case in node._NodeTestCases if _is_ours(case)]


def _is_ours(case) -> bool:
    """Keep single-node cases of our operators in their float, inference form."""
    model = case.model
    if len(model.graph.node) != 1 or model.graph.node[0].op_type not in BUILDERS or "_expanded" in case.name:
        return False
    if model.graph.node[0].domain or not case.data_sets or "train" in case.name:
        return False
    first, *_ = model.graph.input
    return first.type.tensor_type.elem_type in _FLOATS and model.graph.output[0].type.tensor_type.elem_type in _FLOATS


def _array(value) -> np.ndarray:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _run(case) -> str:
    """Return "pass", "refused: why", "raised: what" (at run time) or "wrong: how"."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    names = [value.name for value in model.graph.input]
    worst = ""
    if model.graph.node[0].op_type == "LayerNormalization":  # networks use its first output; the others are refused
        del model.graph.output[1:]
        del model.graph.node[0].output[1:]
    for inputs, outputs in case.data_sets:
        dynamic, tensors = [], []
        del model.graph.initializer[:]
        for name, value in zip(names, inputs, strict=False):
            array = _array(value)
            # Axes, shapes, ratios and limits are constants in networks; the cases pass them as inputs.
            if array.dtype.kind in "iub" or (
                array.ndim == 0 and model.graph.node[0].op_type in ("Clip", "Dropout", "Pad")
            ):
                model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            else:
                dynamic.append(name)
                tensors.append(torch.from_numpy(array.copy()))
        try:
            module = convert(model, dynamic, seed=None).eval()
        except Rejected as error:
            return f"refused: {error.reason} {error.message}"
        try:
            with torch.no_grad():
                found = module(*tensors)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            return f"raised: {type(error).__name__} {error}"
        found = found if isinstance(found, tuple) else (found,)
        for got, expected in zip(found, outputs, strict=len(model.graph.output) > 1):
            expected = _array(expected)
            if not np.allclose(got.numpy(), expected, rtol=case.rtol, atol=max(case.atol, 1e-6), equal_nan=True):
                worst = f"wrong: {case.name}"
            if got.shape != expected.shape or got.numpy().dtype != expected.dtype:
                worst = f"wrong form: {case.name}: {got.shape} {expected.shape}"
    return worst or "pass"


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    torch.set_num_threads(1)
    return {case.name: _run(case) for case in _cases()}


def test_onnx_cases_when_converted_then_none_is_wrong(results):
    counts = Counter(outcome.split(":")[0] for outcome in results.values())
    refused = {name: outcome for name, outcome in results.items() if outcome.startswith("refused")}
    sys.stdout.write(f"\nconformance: {dict(counts)} of {len(results)} cases\n")
    for name, outcome in sorted(refused.items()):
        sys.stdout.write(f"  {name}: {outcome}\n")
    assert [name for name, outcome in results.items() if outcome.startswith("wrong")] == []
    # A maximum over nothing has no shape to refuse beforehand; it fails when run.
    raised = {name for name, outcome in results.items() if outcome.startswith("raised")}
    assert raised <= {"test_reduce_max_empty_set", "test_reduce_min_empty_set"}


def test_onnx_cases_when_converted_then_at_least_the_floor_passes(results):
    assert sum(outcome == "pass" for outcome in results.values()) >= 410
