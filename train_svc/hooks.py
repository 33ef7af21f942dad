"""Where others take part in a training: what is called around an update, and who else computes a part of it."""

from collections.abc import Callable
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
    """The processes that share one training: of each batch's size * accumulate_batches parts, each computes as many."""

    rank: int
    size: int

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all members, in place."""
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1

    def average(self, tensors: list[Tensor]) -> None:
        """Leave them: the mean of one."""
