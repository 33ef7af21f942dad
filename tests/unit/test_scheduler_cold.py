"""What has ended is kept as bytes: it reads as before, is written once, and is gone with its search."""

from functools import partial

import pytest

from nasmesh.v1 import search_pb2
from scheduler.cold import Trials
from scheduler.domain import OPEN_SEARCHES
from scheduler.journal import codec, ended
from scheduler.journal.base import Batch
from scheduler.journal.memory import MemoryJournal
from scheduler.wishes import SearchDeleted
from tests.builders import scheduling as make
from tests.builders.scheduler_world import World


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots every few events, and values that become bytes at once."""
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 5)
    monkeypatch.setattr("scheduler.snapshots.RECENT", 0)


def calm_world() -> World:
    world = World(3, kill_rate=0.0, agents=3)
    world.faults = False
    for agent in world.agents:
        world.connect(agent)
    return world


def finish(world: World) -> None:
    for _ in range(3000):
        if not world.open_searches():
            return
        world.act()
    raise AssertionError("the search does not end")


def trials() -> list[search_pb2.Trial]:
    return [search_pb2.Trial(number=number, note=f"trial {number}") for number in range(1, 6)]


def test_trials_when_some_are_frozen_then_they_read_like_the_list() -> None:
    plain, cold = trials(), Trials(trials())
    for number in (2, 5):
        cold.freeze(number, cold[number - 1].SerializeToString())
    assert list(cold) == plain
    assert list(reversed(cold)) == plain[::-1]
    assert [cold[index] for index in range(-5, 5)] == [plain[index] for index in range(-5, 5)]
    assert cold == Trials(trials()) == cold
    assert len(cold) == 5
    assert [number for number, _ in cold.values_by_number()] == [1, 3, 4]
    cold.append(search_pb2.Trial(number=6))
    assert cold[5] == cold[-1] == search_pb2.Trial(number=6)
    assert cold != Trials(trials())
    for beyond in (6, -7):
        with pytest.raises(IndexError):
            cold[beyond]


@pytest.mark.usefixtures("quick")
def test_tasks_when_all_are_frozen_then_found_by_id_and_equal_to_the_replayed_ones() -> None:
    world = calm_world()
    world.create("a-t1-train", make.make_spec(max_trials=3))  # an id that looks like a task's
    world.create("b", make.make_spec(max_trials=3, final=True))
    world.create("b-t1", make.make_spec(max_trials=3, final=True))  # its task b-t1-final is none of a trial of b
    finish(world)
    state, replayed = world.engine.state, world.replayed()
    assert not any(state.tasks.holds(task.id) for task in replayed.tasks.values())
    for task in replayed.tasks.values():
        assert state.tasks[task.id] == task
        assert task.id in state.tasks
        assert state.tasks.open(task.id) is None
    assert len(state.tasks) == len(replayed.tasks)
    assert set(state.tasks) == set(replayed.tasks)
    for unknown in ("b-g99", "b-t99-train", "b-t1-walk", "nobody-g1", "", "b"):
        assert unknown not in state.tasks
        assert state.tasks.get(unknown) is None
    assert state == replayed


class Counting(MemoryJournal):
    """Counts how often each row was written."""

    def __init__(self, inner: MemoryJournal) -> None:
        self.__dict__ = inner.__dict__
        self.written: dict[str, int] = {}

    def append(self, batch: Batch) -> None:
        for key in batch.rows:
            self.written[key] = self.written.get(key, 0) + 1
        super().append(batch)


@pytest.mark.usefixtures("quick")
def test_rows_when_trials_end_then_each_is_written_once_and_no_open_row_stays() -> None:
    world = calm_world()
    assert isinstance(world.engine.journal, MemoryJournal)
    journal = world.engine.journal = Counting(world.engine.journal)
    world.create("s", make.make_spec(max_trials=12, parallelism=3))
    finish(world)
    for other in ("t", "u"):
        world.create(other, make.make_spec(max_trials=6))
        finish(world)
    count = len(world.engine.state.searches["s"].trials)
    of_s = {key: times for key, times in journal.written.items() if key.startswith("ended/s/")}
    assert of_s == {ended.row_key("s", number): 1 for number in range(1, count + 1)}
    assert not any(key.startswith(("trial/s/", "task/s-t")) for key in world.disk.rows)
    world.boot()
    assert world.engine.state == world.replayed()


@pytest.mark.usefixtures("quick")
def test_search_when_deleted_then_its_rows_go_with_the_next_snapshots() -> None:
    world = calm_world()
    world.create("s", make.make_spec(max_trials=4))
    finish(world)
    assert any(key.startswith("ended/s/") for key in world.disk.rows)
    world.step(partial(world.engine.record, SearchDeleted("s")))
    world.boot()
    assert world.engine.state == world.replayed()
    for agent in world.agents:
        world.connect(agent)
    world.create("t", make.make_spec(max_trials=6))
    finish(world)
    assert not [key for key in world.disk.rows if "/s/" in key or "/s-" in key or key.endswith("/s")]
    world.boot()
    assert world.engine.state == world.replayed()
    assert "s" not in world.engine.state.searches


@pytest.mark.usefixtures("quick")
def test_watchers_when_the_scheduler_restarts_then_changes_of_the_last_events_are_there_as_they_were() -> None:
    world = calm_world()
    world.create("s", make.make_spec(max_trials=30, parallelism=3))
    seen = {}
    for _ in range(120):
        world.act()
        for change in world.engine.hub._history["s"]:
            seen[change.sequence] = change.message()
    run = world.engine.state.searches["s"]
    assert run.state in OPEN_SEARCHES
    last = run.sequence
    at = world.disk.snapshot_sequence
    assert len(world.disk.events) - at >= 5
    world.boot()
    history = world.engine.hub._history["s"]
    assert history[0].sequence < last - 3
    for change in history:
        if change.sequence <= last:
            assert change.message() == seen[change.sequence]


def test_rows_when_written_by_a_version_that_kept_each_alone_then_they_become_ended_ones() -> None:
    world = calm_world()
    world.create("s", make.make_spec(max_trials=4))
    finish(world)
    older = world.replayed()
    world.disk.rows = {key: codec.encode_row(older, key) for key in (*older.dirty, "state")}
    world.disk.snapshot_sequence = older.sequence
    world.boot()
    assert world.engine.state == world.replayed()
    count = len(older.searches["s"].trials)
    rows = {key for key in world.disk.rows if key.startswith("ended/s/")}
    assert rows == {ended.row_key("s", number) for number in range(1, count + 1)}
