"""Loss scaling for float16: gradients too small for it are lifted, and updates with overflown ones are left out.

The rule of torch.amp.GradScaler (double after 2,000 good updates, halve after a bad one) with its kernels; nothing here
waits for the device.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nasmesh.errors import Invalid

_START = 65_536.0
_GROWTH, _BACKOFF, _GROW_AFTER = 2.0, 0.5, 2000
STATE_NAME = "loss_scale"


class LossScale:
    """The scale of one training's losses."""

    def __init__(self, device: torch.device) -> None:
        """Begin at 65,536."""
        self._scale = torch.full((), _START, device=device)
        self._good = torch.zeros((), dtype=torch.int32, device=device)
        self.overflown = torch.zeros((), device=device)
        """1 where the last gradients were not finite, else 0; on the device."""

    def lift(self, loss: Tensor) -> Tensor:
        """Return the loss to start the backward pass from."""
        return loss * self._scale

    def unscale(self, gradients: list[Tensor]) -> None:
        """Bring gradients back to their size in place, and note whether all are finite."""
        self.overflown.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.overflown, self._scale.reciprocal())

    def adapt(self) -> None:
        """Change the scale after an update."""
        torch._amp_update_scale_(self._scale, self._good, self.overflown, _GROWTH, _BACKOFF, _GROW_AFTER)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {"scale": self._scale, "good": self._good}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over an earlier run's scale; raises Invalid (CHECKPOINT_MISMATCH) where there is none."""
        if not {"scale", "good"} <= state.keys():
            raise Invalid("CHECKPOINT_MISMATCH", "resume_from: the checkpoint has no loss scale", field="resume_from")
        self._scale.copy_(state["scale"])
        self._good.copy_(state["good"])
