"""Where others take part in a training: what is called around an update, and who else computes a part of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

StepHook = Callable[[int], None]


@dataclass(slots=True)
class Hooks:
    """Called with the number of the update (from 0), in the order in which they were added.

    `after_backward` finds the whole batch's gradients, unscaled and before clipping.
    """

    before_step: list[StepHook] = field(default_factory=list)
    after_backward: list[StepHook] = field(default_factory=list)
    after_step: list[StepHook] = field(default_factory=list)


class Team(Protocol):
    """The processes that share one training: each part of a batch is split among them, in the order of their ranks."""

    rank: int
    size: int

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all members, in place."""
        ...

    def total(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all members, in place."""
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Leave them: the mean of one."""

    def total(self, tensors: Sequence[Tensor]) -> None:
        """Leave them: the sum of one."""
