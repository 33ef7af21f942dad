"""The trained network as it is served: weights without training state, proven to compute the same in onnxruntime."""

from dataclasses import dataclass

import numpy as np
import onnx
import torch

from nasmesh.errors import Invalid
from nasmesh.model import runtime
from nasmesh.model.auxiliary import without_auxiliary
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.weights import strip_training
from train_svc.training import Training

# Of the largest logit. Both compute in float32, in another order; measured differences are below 1e-5.
TOLERANCE = 1e-3
_SAMPLES = 32


@dataclass(frozen=True, slots=True)
class Published:
    """The object's bytes and how far onnxruntime's logits were from torch's on one batch."""

    content: bytes
    max_abs_diff: float


def publish(training: Training) -> Published:
    """Return the network with its weights, averaged ones where they are on. The module holds them afterwards.

    Raises Invalid (EXPORT_DISAGREES) where onnxruntime computes something else, (NETWORK_DIVERGED) for logits that are
    no numbers.
    """
    if training.average:
        state = {**training.module.state_dict(), **training.average.state}
        training.module.load_state_dict(state)
    written = write_back(training.model, training.module.state_dict())
    content = to_bytes(strip_training(without_auxiliary(written)))
    return Published(content, _largest_difference(training, content))


def _largest_difference(training: Training, content: bytes) -> float:
    rows = training.splits.train[:_SAMPLES]
    batch = training.preprocessing.apply(training.splits.samples.rows(rows))
    training.module.eval()
    with torch.no_grad():
        ours = training.module(training.choice.arrange(torch.from_numpy(batch).to(training.device)))
    logits = ours if isinstance(ours, torch.Tensor) else ours[0]
    expected = logits.float().cpu().numpy()
    session = runtime.open_session(content)
    served = session.run(None, {session.get_inputs()[0].name: batch})[0]
    if not (np.isfinite(expected).all() and np.isfinite(served).all()):
        raise Invalid("NETWORK_DIVERGED", "the trained network's outputs are not finite; lower the learning rate")
    difference = float(np.abs(served - expected).max())
    if difference > TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise Invalid("EXPORT_DISAGREES", f"onnxruntime's logits differ from torch's by up to {difference:.3g}")
    return difference


def engine_versions() -> dict[str, str]:
    """Return the versions of what computed, for the result's environment."""
    return {"torch": torch.__version__, "onnxruntime": runtime.VERSION, "onnx": onnx.__version__}
