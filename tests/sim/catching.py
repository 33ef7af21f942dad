"""Which life first shows a bug that was planted into the program."""

from collections.abc import Callable, Iterable

from scheduler.effects import IllegalTransitionError
from scheduler.invariants import InvariantError
from tests.sim.bugs import Patch
from tests.sim.lives import live


def caught(plant: Callable[[Patch], None], seeds: Iterable[int]) -> str:
    """Return the seed of the first life that breaks a rule, and which; nothing where none does."""
    with Patch() as patch:
        plant(patch)
        for seed in seeds:
            try:
                live(seed)
            except (AssertionError, InvariantError, IllegalTransitionError) as error:
                return f"seed {seed}: {type(error).__name__}: {str(error).splitlines()[0][:140]}"
    return ""
