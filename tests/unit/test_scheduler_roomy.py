"""Tasks that need much memory, in the queues: who is passed over, what is kept for gangs, what nobody remembers."""

from nasmesh.v1 import job_pb2
from scheduler.agents import AgentEntry, Agents
from scheduler.domain import TaskKind
from scheduler.placement import Placement, Waiting
from tests.builders import scheduling as make

TRAIN = TaskKind.TRAIN


class Mesh:
    """Agents with one slot each, unless it is said, and a placement; what is leased runs until it is ended."""

    def __init__(self) -> None:
        self.agents, self.placement = Agents(), Placement()
        self.running: dict[str, list[str]] = {}
        self.order = 0

    def join(
        self, name: str, gives: int, *, slots: int = 1, free: int = 1, ahead: int = 0, data: str = "datasets/d"
    ) -> AgentEntry:
        server = job_pb2.Server()
        server.datasets.add(name=data, available=True)
        entry = AgentEntry(name, {TRAIN: slots}, server, {}, make.Recorder(), 0, gives_bytes=gives)
        entry.gang_address = f"{name}.example:7500"
        entry.free, entry.ahead, entry.most_ahead = {TRAIN: free}, {TRAIN: ahead}, {TRAIN: ahead}
        self.agents.put(entry, 0.0)
        self.placement.offer(entry)
        return entry

    def queue(self, task: str, memory: int = 0, *, size: int = 1, slots: int = 1, need: str = "datasets/d") -> None:
        self.order += 1
        self.placement.add(Waiting(task, "s", TRAIN, need, 0, self.order, size, memory, slots))

    def match(self) -> dict[str, list[str]]:
        before = set(self.running)
        self.placement.match(lambda _: True, self._lease, most=100)
        return {task: agents for task, agents in self.running.items() if task not in before}

    def end(self, task: str) -> None:
        self.placement.ended(task)
        for name in self.running.pop(task):
            released = self.agents.release(name, task)
            assert released is not None
            released[0].free[TRAIN] += 1
            self.placement.offer(released[0], TRAIN)

    def _lease(self, task: str, agents: list[AgentEntry]) -> None:
        self.running[task] = [entry.name for entry in agents]
        for entry in agents:
            self.agents.grant(entry.name, task, TRAIN)
            entry.given(TRAIN)
        self.placement.started(task, TRAIN, "s", tuple(self.running[task]))


def test_need_when_agents_give_too_little_or_have_other_data_then_they_are_passed_over_and_keep_their_place() -> None:
    mesh = Mesh()
    mesh.join("small", 4)
    mesh.join("other", 9, data="datasets/other")
    mesh.join("silent", 0)
    mesh.join("large", 8)
    mesh.queue("big", 8)
    mesh.queue("any")
    assert mesh.match() == {"big": ["large"], "any": ["small"]}


def test_need_when_data_is_in_the_store_then_anybody_who_gives_as_much_is_right() -> None:
    mesh = Mesh()
    mesh.join("small", 4)
    mesh.join("large", 8, data="datasets/other")
    mesh.queue("big", 5, need="")
    assert mesh.match() == {"big": ["large"]}


def test_need_when_nobody_has_room_then_it_waits_before_what_came_later_and_holds_nobody_up() -> None:
    mesh = Mesh()
    mesh.join("large", 8)
    mesh.queue("first")
    assert mesh.match() == {"first": ["large"]}
    mesh.queue("big", 5)
    mesh.queue("later")
    mesh.join("small", 4)
    assert mesh.match() == {"later": ["small"]}
    mesh.queue("last")
    mesh.end("first")
    assert mesh.match() == {"big": ["large"]}


def test_need_of_slots_when_some_have_fewer_then_they_are_passed_over_and_do_what_needs_less() -> None:
    mesh = Mesh()
    mesh.join("one", 8)
    mesh.queue("pair", slots=2)
    assert mesh.match() == {}
    mesh.join("two", 4, slots=2)
    mesh.join("many", 8, slots=4)
    mesh.queue("any")
    assert mesh.match() == {"pair": ["two"], "any": ["one"]}
    mesh.queue("large pair", 5, slots=2)
    mesh.queue("nobody's", 5, slots=8)
    assert mesh.match() == {"large pair": ["many"]}


def test_need_when_the_one_that_meets_it_takes_leases_ahead_then_it_waits_there() -> None:
    mesh = Mesh()
    mesh.join("small", 4, free=0, ahead=1)
    mesh.join("large", 8, free=0, ahead=1)
    mesh.queue("big", 5)
    assert mesh.match() == {"big": ["large"]}


def test_need_when_the_last_slot_is_kept_for_a_gang_then_the_gang_has_it() -> None:
    mesh = Mesh()
    mesh.join("a", 8)
    mesh.queue("one")
    assert mesh.match() == {"one": ["a"]}
    mesh.join("b", 8, ahead=1)
    mesh.queue("gang", size=2)
    mesh.queue("big", 5)
    assert mesh.match() == {}
    mesh.end("one")
    assert set(mesh.match()["gang"]) == {"a", "b"}


def test_needs_when_met_then_nothing_of_them_is_kept() -> None:
    mesh = Mesh()
    mesh.join("large", 1000)
    for number in range(50):
        mesh.queue(f"big-{number}", 500 + number)
        assert mesh.match() == {f"big-{number}": ["large"]}
        mesh.end(f"big-{number}")
    assert mesh.match() == {}
    assert list(mesh.placement.lacking("s")) == []
    assert not any(mesh.placement._needs.values())
    assert not mesh.placement._queues[TRAIN]
