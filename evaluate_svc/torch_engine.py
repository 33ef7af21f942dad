"""The one way from evaluation to PyTorch, which an evaluate host need not have."""

import importlib.util
from typing import TYPE_CHECKING

import onnx

from nasmesh.errors import Invalid

if TYPE_CHECKING:
    from nasmesh.model.engine.scoring import Scorer


def check_present() -> None:
    """Raise Invalid (ENGINE_ABSENT) where PyTorch is not installed; does not load it."""
    if importlib.util.find_spec("torch") is None:
        message = "config.engine: PyTorch is not installed on this server; use ONNXRUNTIME, or pip install torch there"
        raise Invalid("ENGINE_ABSENT", message, field="config.engine")


def open_scorer(model: onnx.ModelProto, *, threads: int) -> "tuple[Scorer, str]":
    """Return the network in PyTorch, and PyTorch's version; raises Invalid (ENGINE_ABSENT), Rejected."""
    check_present()
    from nasmesh.model.engine import scoring

    return scoring.open_scorer(model, threads=threads), scoring.VERSION
