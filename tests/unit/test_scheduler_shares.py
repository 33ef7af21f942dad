"""Fair shares between searches, and what finding the next task costs."""

import gc
import time
from collections import Counter

import pytest

from nasmesh.clock import seeded_random
from scheduler.agents import AgentEntry, Agents
from scheduler.domain import TaskKind
from scheduler.placement import Placement, Waiting
from tests.unit.test_scheduler_parts import agent

TRAIN = TaskKind.TRAIN


class Slots:
    """Agents with slots, and what runs on them."""

    def __init__(self, slots: int) -> None:
        self.agents, self.placement = Agents(), Placement()
        self.entry = agent(self.agents, "a", slots=slots)
        self.running: dict[str, str] = {}
        self.order = 0

    def queue(self, search: str, count: int, priority: int = 0) -> None:
        for _ in range(count):
            self.order += 1
            self.placement.add(Waiting(f"{search}-{self.order}", search, TRAIN, "datasets/d", priority, self.order))

    def match(self) -> list[str]:
        """Lease what can be leased and return the searches of it, in order."""
        before = list(self.running)
        self.placement.offer(self.entry)
        self.placement.match(lambda _: True, self._lease, most=1000)
        return [self.running[task] for task in self.running if task not in before]

    def end(self, search: str) -> None:
        """End the oldest running task of a search."""
        task = next(task for task, owner in self.running.items() if owner == search)
        del self.running[task]
        self.agents.release(self.entry.name, task)
        self.placement.ended(task)

    def shares(self) -> Counter[str]:
        return Counter(self.running.values())

    def _lease(self, task: str, found: list[AgentEntry]) -> None:
        (entry,) = found
        search = task.rpartition("-")[0]
        self.running[task] = search
        self.agents.grant(entry.name, task, TRAIN)
        self.placement.started(task, TRAIN, search)


def test_shares_when_queues_differ_in_length_then_equal() -> None:
    slots = Slots(12)
    slots.queue("long", 500)
    slots.queue("middle", 40)
    slots.queue("short", 5)
    slots.match()
    assert slots.shares() == {"long": 4, "middle": 4, "short": 4}
    slots.end("short")
    assert slots.match() == ["short"]
    slots.end("short")
    assert set(slots.match()) <= {"long", "middle"}  # its queue is empty: what it leaves is shared by the others


def test_shares_when_a_search_comes_late_then_it_catches_up_without_taking_work_away() -> None:
    slots = Slots(6)
    slots.queue("old", 100)
    assert slots.match() == ["old"] * 6
    slots.queue("new", 100)
    assert slots.match() == []
    for _ in range(6):
        slots.end("old")
        slots.match()
    assert slots.shares() == {"old": 3, "new": 3}


def test_shares_when_there_is_one_slot_then_searches_take_turns_whatever_waits_longest() -> None:
    slots = Slots(1)
    slots.queue("long", 500)
    slots.queue("short", 2)
    served = slots.match()
    for _ in range(5):
        slots.end(served[-1])
        served += slots.match()
    assert served == ["long", "short", "long", "short", "long", "long"]
    slots.queue("late", 3)
    for _ in range(4):
        slots.end(served[-1])
        served += slots.match()
    assert served[6:] == ["long", "late", "long", "late"]  # who comes late does not overtake those that wait


def test_shares_when_priority_is_higher_then_everything_until_its_queue_is_empty() -> None:
    slots = Slots(4)
    slots.queue("usual", 10)
    slots.queue("urgent", 3, priority=5)
    assert slots.match() == ["urgent", "urgent", "urgent", "usual"]
    slots.placement.reprioritise("usual", 9)
    slots.queue("urgent", 3, priority=5)
    slots.end("usual")
    assert slots.match() == ["usual"]


def test_shares_when_lived_at_random_then_never_unfair() -> None:
    """No search waits with fewer tasks at work than another of its priority had when that one was served."""
    for seed in range(30):
        rng = seeded_random(seed)
        slots = Slots(5)
        names = ["a", "b", "c"]
        waiting: Counter[str] = Counter()
        for _ in range(200):
            if rng.random() < 0.4:
                name, count = rng.choice(names), rng.randrange(1, 4)
                slots.queue(name, count)
                waiting[name] += count
            elif slots.running:
                slots.end(rng.choice(list(slots.running.values())))
            before = slots.shares()
            for served in slots.match():
                hungry = [name for name in names if waiting[name] and before[name] < before[served]]
                assert not hungry, f"seed {seed}: {served} before {hungry}"
                before[served] += 1
                waiting[served] -= 1


def test_task_when_forgotten_and_queued_again_then_leased_once() -> None:
    slots = Slots(9)
    slots.queue("s", 3)
    slots.placement.forget("s")
    assert slots.match() == []
    slots.order = 0
    slots.queue("s", 3)
    slots.order = 0
    slots.queue("s", 3)
    assert slots.match() == ["s"] * 3


@pytest.mark.parametrize("what", ["tasks", "searches", "agents"])
def test_cost_of_a_lease_when_everything_is_a_hundred_times_as_much_then_about_the_same(what: str) -> None:
    few, many = (min(_seconds_each(what, size) for _ in range(3)) for size in (100, 10_000))
    assert many < 8 * few, f"{few * 1e6:.1f} us with 100 {what}, {many * 1e6:.1f} us with 10,000"


def _seconds_each(what: str, size: int) -> float:
    """Return the seconds that one lease and its end take amid so many tasks, searches or idle agents."""
    agents, placement = Agents(), Placement()
    for index in range(size if what == "agents" else 1):
        # Idle agents that have other data: nothing for them here, and nobody should look at each of them.
        entry = agent(agents, f"idle{index}", slots=1, datasets=("datasets/other",))
        placement.offer(entry)
    worker = agent(agents, "worker", slots=1)
    for index in range(size if what in ("tasks", "searches") else 100):
        search = f"s{index}" if what == "searches" else "s"
        placement.add(Waiting(f"t{index}", search, TRAIN, "datasets/d", 0, index))
    rounds = 60
    leased: list[str] = []

    def lease(task: str, found: list[AgentEntry]) -> None:
        (entry,) = found
        leased.append(task)
        agents.grant(entry.name, task, TRAIN)
        placement.started(task, TRAIN, task)

    def one_round() -> None:
        placement.offer(worker)
        placement.match(lambda _: True, lease, most=1000)
        agents.release(worker.name, leased[-1])
        placement.ended(leased[-1])

    one_round()  # puts in line what was added: once for each task, whenever that is
    gc.collect()
    gc.disable()  # a collection amid 10,000 objects costs more than all rounds
    begun = time.perf_counter()
    for _ in range(rounds):
        one_round()
    seconds = (time.perf_counter() - begun) / rounds
    gc.enable()
    assert len(set(leased)) == rounds + 1
    return seconds


def test_agents_when_they_reconnect_with_other_data_then_stand_in_the_right_line() -> None:
    agents, placement = Agents(), Placement()
    placement.offer(agent(agents, "a", slots=1, datasets=("datasets/x",)))
    placement.offer(agent(agents, "a", slots=1, datasets=("datasets/y",)))
    leased: list[str] = []

    def lease(task: str, found: list[AgentEntry]) -> None:
        (entry,) = found
        leased.append(task)
        agents.grant(entry.name, task, TRAIN)
        placement.started(task, TRAIN, "s")

    placement.add(Waiting("x", "s", TRAIN, "datasets/x", 0, 1))
    placement.add(Waiting("y", "s", TRAIN, "datasets/y", 0, 2))
    placement.match(lambda _: True, lease, most=1000)
    assert leased == ["y"]
