"""A trained network, ready to run in the engine that was asked for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from evaluate_svc.torch_engine import open_scorer
from nasmesh.data.load import Splits
from nasmesh.data.preprocessing import Preprocessing, from_metadata
from nasmesh.errors import Rejected
from nasmesh.host import devices
from nasmesh.model import runtime
from nasmesh.model.admission import Admitted
from nasmesh.model.initializers import data_inputs
from nasmesh.model.weights import has_weights
from nasmesh.v1 import evaluation_pb2

if TYPE_CHECKING:
    from nasmesh.model.engine.scoring import Scorer

Batch = NDArray[np.float32]


class Engine(Protocol):
    """What computes."""

    @property
    def device(self) -> str:
        """Where it computes: "cpu", or the GPU with its model."""
        ...

    def outputs(self, batch: Batch) -> Batch:
        """Return the network's first output [B, K] for input [B, ...]; raises Rejected (NETWORK_NOT_RUNNABLE)."""
        ...

    def peak_device_bytes(self, batch: Batch) -> int | None:
        """Return the most memory of a GPU that a forward pass held, weights included; None on the processor."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """A network, what computes it, and how samples become its input. `versions` name the engine's."""

    engine: Engine
    preprocessing: Preprocessing
    versions: dict[str, str]

    def outputs(self, batch: Batch) -> Batch:
        """Return the network's first output [B, K] for preprocessed input [B, ...]."""
        return self.engine.outputs(batch)


@dataclass(frozen=True, slots=True)
class _Onnxruntime:
    session: runtime.InferenceSession

    @property
    def device(self) -> str:
        if runtime.CUDA_PROVIDER not in self.session.get_providers():
            return "cpu"
        return next((f"{one.id} {one.model}" for one in devices() if one.id != "cpu"), "cuda:0")

    def outputs(self, batch: Batch) -> Batch:
        first = self.session.get_outputs()[0].name
        try:
            found: Batch = self.session.run([first], {self.session.get_inputs()[0].name: batch})[0]
        except runtime.ENGINE_ERRORS as error:
            raise _not_runnable(error) from error
        return found

    def peak_device_bytes(self, _: Batch) -> int | None:
        if self.device == "cpu":
            return None
        message = "config.memory: onnxruntime does not tell what it holds on a GPU; use engine TORCH, or leave it out"
        raise Rejected("MEASUREMENT_UNSUPPORTED", message, field="config.memory")


@dataclass(frozen=True, slots=True)
class _Torch:
    scorer: "Scorer"
    device: str

    def outputs(self, batch: Batch) -> Batch:
        return self.scorer.logits(batch)

    def peak_device_bytes(self, batch: Batch) -> int | None:
        return self.scorer.peak_device_bytes(batch)


def open_subject(content: bytes, admitted: Admitted, splits: Splits, config: evaluation_pb2.EvaluateConfig) -> Subject:
    """Return the network in its engine; raises Rejected where it has no weights, cannot run, or fits no such data.

    Raises Invalid (ENGINE_ABSENT) where this server lacks the engine.
    """
    if not has_weights(admitted.model):
        raise Rejected("NETWORK_WEIGHTLESS", "model: the object has no weights; train it first", field="model")
    _check_fits(admitted, splits)
    entries = {entry.key: entry.value for entry in admitted.model.metadata_props}
    preprocessing = from_metadata(entries, channels=splits.samples.dims[0])
    engine, versions = open_engine(content, admitted.model, config)
    return Subject(engine, preprocessing, versions)


def open_engine(
    content: bytes, model: onnx.ModelProto, config: evaluation_pb2.EvaluateConfig
) -> tuple[Engine, dict[str, str]]:
    """Return what computes a network as asked, with the versions of what does; `model` is the parsed content."""
    versions = {"onnx": onnx.__version__, "onnxruntime": runtime.VERSION}
    if config.engine == evaluation_pb2.EVALUATE_ENGINE_TORCH:
        scorer, version = open_scorer(model, threads=config.threads)
        return _Torch(scorer, scorer.describe()), {**versions, "torch": version}
    try:
        return _Onnxruntime(runtime.open_fastest(content, threads=config.threads)), versions
    except runtime.ENGINE_ERRORS as error:
        raise _not_runnable(error) from error


def open_plain(content: bytes, *, threads: int) -> Engine:
    """Return onnxruntime on the processor over bytes that are no network of ours: an 8-bit copy."""
    try:
        return _Onnxruntime(runtime.open_session(content, threads=threads))
    except runtime.ENGINE_ERRORS as error:
        raise _not_runnable(error) from error


def _check_fits(admitted: Admitted, splits: Splits) -> None:
    info = splits.info
    takes = admitted.dims[data_inputs(admitted.model)[0]][1:]
    if list(takes) != list(splits.samples.dims):
        message = f"model: it takes samples of {list(takes)}, datasets/{info.name} has {list(splits.samples.dims)}"
        raise Rejected("NETWORK_DATA_MISMATCH", message, field="model")
    gives = admitted.dims[admitted.model.graph.output[0].name][1:]
    if list(gives) != [info.outputs]:
        wanted = f"{info.classes} classes" if info.classes else f"{info.targets} numbers to predict"
        message = f"model: it gives outputs of {list(gives)}, datasets/{info.name} has {wanted}"
        raise Rejected("NETWORK_DATA_MISMATCH", message, field="model")


def _not_runnable(error: Exception) -> Rejected:
    return Rejected("NETWORK_NOT_RUNNABLE", f"model: onnxruntime refuses it: {str(error)[:200]}", field="model")
