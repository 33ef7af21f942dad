"""Bugs planted into leases that wait at an agent for a slot: lives by seed must see each of them, and soon."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import pytest

from scheduler.agents import AgentEntry
from scheduler.placement import Placement
from tests.sim.agent import SLOTS
from tests.sim.bugs import Patch
from tests.sim.catching import caught
from tests.sim.options import draw, searches

MOST_LIVES = 200


def waits_where_another_could_begin(patch: Patch) -> None:
    """Agents that work already are asked before those that do nothing."""
    before = Placement._takers

    def takers(self: Any, kind: Any, need: str) -> list[AgentEntry]:
        agent = None if self._gangs.is_need(need) else self._ahead[kind].first(need)
        return before(self, kind, need) if agent is None else [agent]

    patch.set(Placement, "_takers", takers)


def more_than_it_takes(patch: Patch) -> None:
    """An agent that takes leases ahead is given all there are."""
    patch.set(AgentEntry, "room_ahead", lambda self, kind: self.most_ahead.get(kind, 0) if self.session else 0)


def crowded() -> Iterator[int]:
    """Yield seeds of lives with one agent and more trainings than it has slots for."""
    for seed in count():
        if draw(seed).agents == 1 and sum(spec.parallelism for spec in searches(seed).values()) > SLOTS + 1:
            yield seed


@pytest.mark.parametrize(
    ("plant", "seeds", "seen_as"),
    [(waits_where_another_could_begin, count, "ahead: "), (more_than_it_takes, crowded, "I8: ")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_lives_when_leases_ahead_have_a_bug_then_it_is_seen(
    plant: Callable[[Patch], None],
    seeds: Callable[[], Iterator[int]],
    seen_as: str,
    record_property: Callable[[str, object], None],
) -> None:
    said = caught(plant, islice(seeds(), MOST_LIVES))
    record_property("counts", f"ahead: {plant.__name__} caught by {said}")
    assert seen_as in said
