"""Draws networks that cost about what a reference costs and use the same kinds of branches.

A uniform draw rarely matches, so it is walked there by random changes of a few choices, each kept when it comes no
further away; then it is shuffled by changes that stay within the tolerance, so that the walk's path is forgotten.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from generate_svc.profile import Profile, profile
from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.spaces.domains import is_active
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb

_MAX_STEPS = 1500
_SHUFFLES = 60
_LARGEST_MOVE = 0.3


@dataclass(frozen=True, slots=True)
class Task:
    """A space with what a network of it is for."""

    space: pb.Space
    input_dims: Sequence[int]
    classes: int

    def build(self, values: pb.ChoiceValues) -> arch.Architecture:
        """Return the network of `values`; raises Invalid where they are none of the space."""
        rule = arch.Preprocessing()
        return spaces.build(self.space, values, input_dims=self.input_dims, classes=self.classes, preprocessing=rule)

    def choices(self) -> list[pb.Choice]:
        """Return the flat view of the space."""
        return spaces.choices(self.space, input_dims=self.input_dims, classes=self.classes)


@dataclass(frozen=True, slots=True)
class Target:
    """What to match: parameters and multiply-accumulates within `tolerance`, and, if asked, the kinds of branches."""

    wanted: Profile
    tolerance: float
    match_palette: bool

    def distance(self, found: Profile) -> float:
        """Return 0 within the tolerance, else how far parameters and multiply-accumulates are out, in logarithms."""
        pairs = (found.parameters, self.wanted.parameters), (found.macs, self.wanted.macs)
        outside = [max(0.0, abs(have / want - 1) - self.tolerance) for have, want in pairs]
        if not any(outside):
            return 0.0
        return sum(abs(math.log(have / want)) for have, want in pairs)

    def matches(self, found: Profile) -> bool:
        """Tell whether a network counts as matched."""
        same = found.palette == self.wanted.palette or not self.match_palette
        return same and self.distance(found) == 0


def draw_matched(task: Task, target: Target, rng: Random) -> pb.ChoiceValues | None:
    """Return a matched network, or None where the walk did not get there."""
    choices = task.choices()
    values = dict(spaces.sample(task.space, rng).values)
    found = profile(task.build(pb.ChoiceValues(values=values)))
    shuffled = 0
    for _ in range(_MAX_STEPS):
        if shuffled >= _SHUFFLES:
            return pb.ChoiceValues(values=values)
        moved = _move(choices, values, rng)
        try:
            reached = profile(task.build(pb.ChoiceValues(values=moved)))
        except Invalid:
            # Some values do not go together, for example no branch in a cell.
            continue
        if target.matches(found):
            shuffled += 1
            if not target.matches(reached):
                continue
        elif not target.matches(reached) and target.distance(reached) > target.distance(found):
            continue
        values, found = moved, reached
    return None


def _move(choices: Sequence[pb.Choice], values: Mapping[str, str], rng: Random) -> dict[str, str]:
    """Draw a few choices anew; choices that become active are drawn too, those that become inactive are left out."""
    share = _LARGEST_MOVE * rng.random() ** 3
    forced = choices[rng.randrange(len(choices))].name
    moved: dict[str, str] = {}
    for choice in choices:
        if not is_active(choice, moved):
            continue
        keep = choice.name in values and choice.name != forced and rng.random() >= share
        moved[choice.name] = values[choice.name] if keep else _draw(choice, rng)
    return moved


def _draw(choice: pb.Choice, rng: Random) -> str:
    kind = choice.WhichOneof("domain")
    if kind == "categorical":
        return choice.categorical.values[rng.randrange(len(choice.categorical.values))]
    if kind == "integer":
        return str(rng.randrange(choice.integer.min, choice.integer.max + 1))
    return repr(choice.real.min + rng.random() * (choice.real.max - choice.real.min))
