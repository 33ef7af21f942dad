"""Runs a network written out as a Python file beside its ONNX form: what is handed out was seen to agree."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import torch

from nasmesh.errors import Rejected
from nasmesh.model.initializers import data_inputs

_BATCH = 2
_AGREEMENT = 1e-3
_NAME = "nasmesh_written_out"


def largest_difference(content: bytes, source: Path) -> float | None:
    """Return by how much the file's outputs differ from onnxruntime's on one random input; None without onnxruntime.

    Runs the file. Raises Rejected (STANDALONE_DIFFERS) beyond a thousandth of the largest output.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    from nasmesh.model import runtime

    session = runtime.open_session(content)
    name = data_inputs(onnx.ModelProto.FromString(content))[0]
    dims = next(one.shape[1:] for one in session.get_inputs() if one.name == name)
    x = np.random.default_rng(0).standard_normal((_BATCH, *map(int, dims)), np.float32)
    wanted = np.asarray(session.run([session.get_outputs()[0].name], {name: x})[0])
    with torch.no_grad():
        found = _loaded(source)(torch.from_numpy(x)).numpy()
    difference = float(np.abs(found - wanted).max())
    if not difference <= _AGREEMENT * max(1.0, float(np.abs(wanted).max())):
        raise Rejected(
            "STANDALONE_DIFFERS", f"model: as a Python file its outputs differ by {difference:.3g} from onnxruntime's"
        )
    return difference


def _loaded(source: Path) -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location(_NAME, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
        network: torch.nn.Module = module.load()
    finally:
        del sys.modules[_NAME]
    return network
