"""Which agents train together: all or none, nobody starves, nobody waits for those that are not there."""

import pytest

from nasmesh.v1 import job_pb2
from scheduler.agents import AgentEntry, Agents
from scheduler.domain import TaskKind
from scheduler.placement import Placement, Waiting
from tests.builders import scheduling as make

TRAIN, EVALUATE = TaskKind.TRAIN, TaskKind.EVALUATE


class Mesh:
    """Agents and a placement; what is leased runs until it is ended."""

    def __init__(self) -> None:
        self.agents, self.placement = Agents(), Placement()
        self.running: dict[str, list[str]] = {}
        self.searches: dict[str, str] = {}
        self.order = 0

    def join(self, name: str, *, slots: int = 1, ahead: int = 0, gang: str = "", **more: object) -> AgentEntry:
        server = job_pb2.Server()
        server.datasets.add(name=str(more.pop("data", "datasets/d")), available=True)
        entry = AgentEntry(name, {TRAIN: slots, EVALUATE: slots}, server, {}, make.Recorder(), 0)
        entry.gang_address = gang or f"{name}.example:7500"
        entry.free = {TRAIN: slots, EVALUATE: slots}
        entry.most_ahead = entry.ahead = {TRAIN: ahead}
        self.agents.put(entry, 0.0)
        self.placement.offer(entry)
        return entry

    def queue(self, task: str, size: int = 1, *, search: str = "", priority: int = 0, kind: TaskKind = TRAIN) -> None:
        self.order += 1
        self.searches[task] = search or task
        self.placement.add(Waiting(task, search or task, kind, "datasets/d", priority, self.order, size))

    def match(self, most: int = 1000) -> dict[str, list[str]]:
        """Lease what can be leased and return it: agents by task, rank 0 first."""
        before = set(self.running)
        self.placement.match(lambda _: True, self._lease, most=most)
        return {task: agents for task, agents in self.running.items() if task not in before}

    def end(self, task: str) -> None:
        """End a task; its agents say that they have room."""
        self.placement.ended(task)
        for name in self.running.pop(task):
            released = self.agents.release(name, task)
            assert released is not None
            entry, kind = released
            entry.free[kind] += 1
            self.placement.offer(entry, kind)

    def _lease(self, task: str, agents: list[AgentEntry]) -> None:
        kind = EVALUATE if task.startswith("score") else TRAIN
        self.running[task] = [entry.name for entry in agents]
        for entry in agents:
            self.agents.grant(entry.name, task, kind)
            entry.given(kind)
        self.placement.started(task, kind, self.searches[task], tuple(self.running[task]))


def test_gang_when_enough_have_room_then_all_at_one_instant_and_a_slot_of_each() -> None:
    mesh = Mesh()
    for name in "abc":
        mesh.join(name, slots=2)
    mesh.queue("gang", 3)
    assert mesh.match() == {"gang": ["a", "b", "c"]}
    mesh.queue("more", 3)
    assert mesh.match()["more"][0] != "a"


def test_gang_when_its_agents_do_other_work_too_then_they_still_count() -> None:
    mesh = Mesh()
    mesh.join("a")
    mesh.join("b")
    mesh.queue("score", kind=EVALUATE)
    assert mesh.match() == {"score": ["a"]}
    mesh.queue("gang", 2)
    assert set(mesh.match()["gang"]) == {"a", "b"}


def test_gang_when_too_few_have_room_then_none_until_all_have() -> None:
    mesh = Mesh()
    mesh.join("a")
    mesh.join("b")
    mesh.queue("one")
    assert mesh.match() == {"one": ["a"]}
    mesh.queue("gang", 2)
    assert mesh.match() == {}
    mesh.end("one")
    assert set(mesh.match()["gang"]) == {"a", "b"}


def test_gang_when_first_in_line_then_what_comes_after_it_does_not_take_its_agents() -> None:
    mesh = Mesh()
    mesh.join("a")
    mesh.join("b", ahead=3)
    mesh.queue("one", search="many")
    assert mesh.match() == {"one": ["a"]}
    mesh.queue("gang", 2)
    for number in range(5):
        mesh.queue(f"many-{number}", search="many")
    mesh.queue("score", kind=EVALUATE)
    # No slot of b's, nor a lease that would wait there for its next one; other kinds of work go on.
    assert mesh.match() == {"score": ["a"]}
    mesh.end("one")
    assert mesh.match()["gang"] == ["b", "a"]


def test_gang_when_agents_have_slots_to_spare_then_others_get_those() -> None:
    mesh = Mesh()
    mesh.join("a", slots=3)
    mesh.join("b")
    mesh.queue("first", search="s")
    mesh.queue("second", search="s")
    mesh.placement.match(lambda _: True, mesh._lease, most=1000)
    assert mesh.running == {"first": ["a"], "second": ["b"]}
    mesh.queue("gang", 2)
    for number in range(3):
        mesh.queue(f"s-{number}", search="s")
    assert list(mesh.match().values()) == [["a"]]  # the last slot of a is kept


def test_gang_when_too_few_agents_are_there_then_it_keeps_nothing_from_anybody_and_says_why() -> None:
    mesh = Mesh()
    first = mesh.join("a")
    mesh.join("b")
    mesh.queue("gang", 3)
    mesh.queue("one")
    mesh.queue("two")
    assert set(mesh.match()) == {"one", "two"}
    ((task, why),) = mesh.placement.lacking("gang")
    assert task == "gang"
    assert why.startswith("a training over 3 servers waits for agents: 2 of the connected train servers")
    first.session = None
    ((_, why),) = mesh.placement.lacking("gang")
    assert "1 of the connected" in why
    mesh.join("c")
    mesh.join("a")
    mesh.queue("three")
    assert mesh.match() == {}  # the gang is possible now, and first
    assert list(mesh.placement.lacking("gang")) == []


@pytest.mark.parametrize("why", ["drained", "draining", "data", "address", "away"])
def test_gang_when_an_agent_can_not_take_part_then_not_counted_on(why: str) -> None:
    mesh = Mesh()
    mesh.join("a")
    other = mesh.join("b", data="datasets/other" if why == "data" else "datasets/d")
    if why in ("drained", "draining"):
        setattr(other, why, True)
    elif why == "address":
        other.gang_address = ""
    elif why == "away":
        other.session = None
    mesh.placement.offer(other)
    mesh.queue("gang", 2)
    mesh.queue("one")
    assert mesh.match() == {"one": ["a"]}


def test_gangs_when_two_wait_then_the_second_takes_nothing_that_the_first_waits_for() -> None:
    mesh = Mesh()
    for name in "abc":
        mesh.join(name)
    mesh.queue("one")
    assert mesh.match() == {"one": ["a"]}
    mesh.queue("large", 3)
    mesh.queue("small", 2)
    assert mesh.match() == {}
    mesh.end("one")
    assert list(mesh.match()) == ["large"]
    mesh.end("large")
    assert list(mesh.match()) == ["small"]


def test_gangs_when_an_agent_leads_one_then_another_leads_the_next() -> None:
    mesh = Mesh()
    mesh.join("a", slots=3)
    mesh.join("b", slots=3)
    for number in range(3):
        mesh.queue(f"gang{number}", 2)
    found = mesh.match()
    assert sorted(agents[0] for agents in found.values()) == ["a", "b"]  # the third has nobody to lead it
    mesh.end(next(iter(found)))
    assert list(mesh.match()) == ["gang2"]


def test_gangs_when_addresses_are_of_loopback_then_those_meet_each_other_only() -> None:
    mesh = Mesh()
    for name, gang in (("a", "127.0.0.1:1"), ("b", ""), ("c", "localhost:2"), ("d", "[::1]:3")):
        mesh.join(name, gang=gang)
    mesh.queue("gang", 2)
    assert mesh.match() == {"gang": ["a", "c"]}
    mesh.queue("next", 2)
    assert mesh.match() == {}
    mesh.join("e")
    assert mesh.match() == {"next": ["b", "e"]}


def test_share_when_a_search_has_gangs_then_each_agent_of_them_counts() -> None:
    mesh = Mesh()
    for name in "abcdef":
        mesh.join(name)
    for number in range(3):
        mesh.queue(f"gangs-{number}", 2, search="gangs")
        mesh.queue(f"single-{number}", search="single")
    assert list(mesh.match()) == ["gangs-0", "single-0", "single-1", "gangs-1"]


def test_starvation_when_single_trainings_never_end_then_the_gang_has_its_turn() -> None:
    mesh = Mesh()
    mesh.join("a")
    mesh.join("b")
    for number in range(3):
        mesh.queue(f"busy-{number}", search="busy")
    mesh.match()
    mesh.queue("gang", 2, search="gang")
    for number in range(3, 40):
        mesh.queue(f"busy-{number}", search="busy")
        mesh.end(next(iter(mesh.running)))
        if "gang" in mesh.match():
            break
    assert number < 6


def test_agent_when_an_old_stream_says_its_last_words_then_the_new_one_stays() -> None:
    mesh = Mesh()
    old = mesh.join("a")
    mesh.join("b")
    mesh.join("a")
    old.session = None
    mesh.placement.offer(old, TRAIN)
    mesh.queue("gang", 2)
    assert set(mesh.match()["gang"]) == {"a", "b"}
    assert mesh.agents.get("a") is not old
