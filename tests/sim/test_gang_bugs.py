"""Bugs planted into trainings over several agents: lives by seed must see each of them, and soon."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import pytest

from scheduler import gangs, timers, workload
from scheduler.domain import Attempt
from scheduler.effects import Granted
from scheduler.machine import tasks
from tests.sim.bugs import Patch
from tests.sim.catching import caught
from tests.sim.options import draw, searches

FIRST, MOST_LIVES = 500, 300


def leased_without_the_last(patch: Patch) -> None:
    """A gang begins with whoever has room, and nobody counts them."""
    before = gangs.Gangs.crew

    def lease(work: Any, task: Any, agent: str, members: tuple[str, ...]) -> None:
        tasks.move(work, task, tasks.Trigger.LEASE)
        number = len(task.attempts) + 1
        task.attempts.append(Attempt(number, agent, work.state.epoch, work.time_us, members=members))
        work.effects.append(Granted(task.id))

    patch.set(gangs.Gangs, "crew", lambda self, need: before(self, need)[:-1])
    patch.set(tasks, "lease", lease)


def silence_goes_unnoticed(patch: Patch) -> None:
    """Whoever of a gang beats, beats for all of them."""
    before = timers.Leases.beat

    def beat(self: Any, task: str, agent: str, attempt: int, now: float) -> None:
        before(self, task, agent, attempt, now)
        for other in [held for held in self._deadlines if held[0] == task]:
            self.arm(*other, attempt, now)

    patch.set(timers.Leases, "beat", beat)


def slots_stay_taken(patch: Patch) -> None:
    """When a gang ends, rank 0's slot is free again, and no other."""
    before = workload.Workload.closed

    def closed(self: Any, task: str, agents: tuple[str, ...]) -> None:
        for agent in agents[1:]:
            self.leases.disarm(task, agent)
        before(self, task, agents[:1])

    patch.set(workload.Workload, "closed", closed)


def leads_two(patch: Patch) -> None:
    """Nobody notes who leads a gang already."""
    patch.set(gangs.Gangs, "started", lambda _self, _leader: None)
    patch.set(gangs.Gangs, "ended", lambda _self, _leader: None)


BUGS = (leased_without_the_last, silence_goes_unnoticed, slots_stay_taken, leads_two)


def seeds() -> Iterator[int]:
    """Yield seeds of lives with gangs in which agents fall silent while others go on."""
    for seed in count(FIRST):
        silences = draw(seed).stops or draw(seed).mutes
        if silences and any(spec.train.distribution.across_hosts for spec in searches(seed).values()):
            yield seed


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_lives_when_gangs_have_a_bug_then_it_is_seen(
    plant: Callable[[Patch], None], record_property: Callable[[str, object], None]
) -> None:
    said = caught(plant, islice(seeds(), MOST_LIVES))
    record_property("counts", f"gangs: {plant.__name__} caught by {said}")
    assert said, f"seen by none of {MOST_LIVES} lives"
