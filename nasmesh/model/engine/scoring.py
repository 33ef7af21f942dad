"""A trained network as evaluation runs it through PyTorch: on the first GPU, or on the processor."""

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import fx

from nasmesh.model.engine.convert import to_module

VERSION: str = torch.__version__
_PIECE = 64


@dataclass(frozen=True, slots=True)
class Scorer:
    """A module in evaluation mode, in the layout that is fast on its device."""

    module: fx.GraphModule
    device: torch.device

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's first output [B, K] for input [B, ...]."""
        # On the processor small pieces stay in its caches: 256 samples at once take up to twice as long as 4 times 64.
        size = len(batch) if self.device.type == "cuda" else _PIECE
        pieces = [self._forward(batch[first : first + size]) for first in range(0, len(batch), size)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _forward(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        x = torch.from_numpy(batch).to(self.device)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            found = self.module(x)
        first = found[0] if isinstance(found, (tuple, list)) else found
        return np.asarray(first.float().cpu().numpy(), dtype=np.float32)

    def peak_device_bytes(self, batch: NDArray[np.float32]) -> int | None:
        """Return the most that the GPU's allocator held in a forward pass, weights included; None without a GPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.logits(batch)
        torch.cuda.synchronize(self.device)
        return int(torch.cuda.max_memory_allocated(self.device))

    def describe(self) -> str:
        """Return the device, with its model where it is a GPU."""
        if self.device.type != "cuda":
            return "cpu"
        return f"{self.device} {torch.cuda.get_device_name(self.device)}"


def open_scorer(model: onnx.ModelProto, *, threads: int) -> Scorer:
    """Return the network rebuilt from its ONNX form; raises Rejected naming the node that cannot be converted."""
    torch.set_num_threads(threads)
    device = torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")
    module = to_module(model, seed=None).eval().to(device)
    if any(parameter.dim() == 4 for parameter in module.parameters()):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return Scorer(module, device)
