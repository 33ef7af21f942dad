"""The exponential moving average of weights: what is evaluated and published when it is on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nasmesh.errors import Invalid


class Average:
    """Averages every parameter and floating-point buffer (running statistics must belong to the averaged weights).

    After t updates the decay in use is min(decay, (1 + t) / (10 + t)), so that short trainings are not dominated by the
    initial weights (TensorFlow's ExponentialMovingAverage with num_updates).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Begin with a copy of the module's state."""
        self._decay = decay
        self._live = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
        self._averages = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The averaged tensors by name."""
        return self._averages

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over the averages of an earlier run; raises Invalid (CHECKPOINT_MISMATCH) where one is missing."""
        for name, tensor in self._averages.items():
            if name not in state:
                raise Invalid("CHECKPOINT_MISMATCH", f"the checkpoint has no average of {name}", field="resume_from")
            tensor.copy_(state[name])

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the averages towards the weights after `updates` optimiser updates (at least 1)."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(list(self._averages.values()), list(self._live.values()), 1 - decay)
