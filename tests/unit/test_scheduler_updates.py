"""What a change of a running search does by itself, in time: wall time, quotas, withdrawn questions."""

from typing import Any

from nasmesh.errors import Busy
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import search_pb2
from scheduler.domain import SearchState, TaskState
from scheduler.quotas import Quotas
from tests.builders import scheduler_lifecycle as wish
from tests.builders import scheduling as make
from tests.builders.scheduler_lifecycle import LifecycleWorld


def world(spec: search_pb2.SearchSpec) -> LifecycleWorld:
    """Return a world without faults, with a search "s" that nobody works on."""
    found = LifecycleWorld(1, kill_rate=0.0, agents=1)
    found.faults = False
    found.connect(found.agents[0])
    found.create("s", spec)
    return found


def state_at(found: LifecycleWorld, seconds: float) -> SearchState:
    found.clock.advance(seconds)
    found.step()
    return found.engine.state.searches["s"].state


def test_wall_time_when_raised_then_the_old_alarm_means_nothing() -> None:
    spec = make.make_spec()
    spec.budget.max_wall_time_s = 60.0
    found = world(spec)
    assert state_at(found, 50.0) is SearchState.RUNNING
    found.wish(wish.update("s", budget__max_wall_time_s=200.0))
    assert state_at(found, 60.0) is SearchState.RUNNING
    assert state_at(found, 80.0) is SearchState.RUNNING
    assert state_at(found, 20.0) is SearchState.FAILED  # nothing was scored
    assert "max_wall_time_s reached: 210.0 of 200.0 s" in found.engine.state.searches["s"].reason


def test_wall_time_when_lowered_below_what_has_passed_then_over_at_once_also_while_paused() -> None:
    found = world(make.make_spec())
    found.clock.advance(100.0)
    found.wish(wish.pause("s"))
    assert state_at(found, 100.0) is SearchState.RUNNING
    found.wish(wish.update("s", budget__max_wall_time_s=150.0))
    run = found.engine.state.searches["s"]
    assert (run.state, run.paused) == (SearchState.FAILED, False)


def test_question_when_the_search_takes_fewer_then_withdrawn_and_asked_again_under_another_id() -> None:
    found = world(make.make_spec(max_trials=9, parallelism=4))
    state = found.engine.state
    assert state.tasks["s-g1"].state is TaskState.RUNNING
    found.wish(wish.update("s", parallelism=2))
    assert state.tasks["s-g1"].state is TaskState.CANCELLED
    again = state.tasks["s-g1-2"]
    assert again.ask is not None
    assert (again.ask.call, again.ask.count) == (1, 2)
    found.wish(wish.update("s", labels={"a": "b"}))
    assert state.searches["s"].generate_task == "s-g1-2"  # it still fits: nothing is withdrawn


def test_queued_networks_when_the_owner_has_its_quota_then_no_more() -> None:
    found = world(make.make_spec(max_trials=50))
    found.searches.quotas = Quotas(queued_networks=3)
    for number in range(3):
        assert not isinstance(found.wish(wish.enqueue("s", f"{number}")), Busy)
    refused: Any = found.wish(wish.enqueue("s", "one more"))
    assert isinstance(refused, Busy)
    assert (refused.reason, refused.metadata["quota"]) == ("QUOTA_EXCEEDED", "queued_networks")
    assert "at most 3 at once: wait for trials to end" in refused.message
    other = found.create("t", make.make_spec())
    assert isinstance(other, Busy)
    found.wish(("pause", api.PauseSearchRequest(name="searches/s")))
    assert len(found.engine.state.searches["s"].trials) == 3


def test_resume_when_a_task_was_in_its_back_off_then_leased_at_once_and_once() -> None:
    found = world(make.make_spec(max_trials=1, parallelism=1))
    agent = found.agents[0]
    found.deliver(agent)
    (lease,) = agent.held.values()
    assert agent.entry is not None
    found.step(lambda: found.desk.outcome(agent.entry, make.make_failure(lease)))
    found.wish(wish.pause("s"))
    found.ready(agent)
    assert state_at(found, 30.0) is SearchState.RUNNING
    assert found.engine.state.tasks["s-g1"].state is TaskState.QUEUED
    found.wish(wish.resume("s"))
    task = found.engine.state.tasks["s-g1"]
    assert (task.state, len(task.attempts)) == (TaskState.RUNNING, 2)
    assert found.engine.work.leases.armed() == {("s-g1", "agents/a0"): 2}
