"""The engine over a memory disk: restarts, leases, full disks, wall time across boots."""

from functools import partial

import pytest

from nasmesh.errors import Unavailable
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2, search_pb2
from scheduler.agents import AgentEntry
from scheduler.domain import SearchState, TaskState
from scheduler.workload import LEASES_A_STEP
from tests.builders import scheduling as make
from tests.builders.scheduler_world import SimulatedAgent, World


def calm_world() -> tuple[World, SimulatedAgent]:
    """Return a world without faults with one agent that is connected."""
    world = World(1, kill_rate=0.0, agents=1)
    world.faults = False
    world.connect(world.agents[0])
    return world, world.agents[0]


def lease_of(agent: SimulatedAgent) -> pb.Lease:
    return next(iter(agent.held.values()))


def train_lease(world: World, agent: SimulatedAgent) -> pb.Lease:
    """Answer the first generate lease and return the train lease that follows."""
    world.create("s", make.make_spec(max_trials=1, parallelism=1))
    world.deliver(agent)
    assert agent.entry is not None
    outcome = make.make_outcome(lease_of(agent))
    agent.held.clear()
    world.step(partial(world.desk.outcome, agent.entry, outcome))
    world.deliver(agent)
    return lease_of(agent)


def test_lease_when_it_runs_out_then_counted_and_tried_again_after_a_back_off() -> None:
    world, agent = calm_world()
    lease = train_lease(world, agent)
    task = world.engine.state.tasks[lease.token.task]
    world.clock.advance(29.0)
    world.step()
    assert task.state is TaskState.RUNNING
    world.clock.advance(1.5)
    world.step()
    assert (task.state, task.counted) == (TaskState.QUEUED, 1)
    assert task.attempts[0].failure is not None
    assert task.attempts[0].failure.reason == "LEASE_EXPIRED"
    world.clock.advance(1.1)
    world.ready(agent)
    assert (task.state, len(task.attempts)) == (TaskState.RUNNING, 2)


def test_restart_when_an_attempt_runs_then_full_lease_and_its_loss_is_not_counted() -> None:
    world, agent = calm_world()
    lease = train_lease(world, agent)
    world.clock.advance(25.0)
    world.boot()
    task = world.engine.state.tasks[lease.token.task]
    world.clock.advance(29.0)
    world.step()
    assert task.state is TaskState.RUNNING
    world.clock.advance(1.5)
    world.step()
    assert (task.state, task.counted, task.losses) == (TaskState.QUEUED, 0, 1)
    assert task.attempts[0].failure is not None
    assert task.attempts[0].failure.reason == "SCHEDULER_RESTARTED"


def test_restart_when_the_agent_was_heard_again_then_a_later_loss_counts() -> None:
    world, agent = calm_world()
    lease = train_lease(world, agent)
    world.boot()
    world.connect(agent)
    assert agent.entry is not None
    beat = pb.AgentHeartbeat(attempts=[pb.AttemptProgress(token=lease.token)])
    world.clock.advance(20.0)
    world.step(partial(world.desk.heartbeat, agent.entry, beat))
    world.clock.advance(20.0)
    world.step()
    task = world.engine.state.tasks[lease.token.task]
    assert task.state is TaskState.RUNNING
    world.clock.advance(11.0)
    world.step()
    assert task.counted == 1


def test_wall_clock_when_it_jumps_then_no_lease_is_lost() -> None:
    world, agent = calm_world()
    lease = train_lease(world, agent)
    for jump in (-1e9, 1e9):
        world.clock.set_wall(world.clock.wall() + jump)
        world.step()
        assert world.engine.state.tasks[lease.token.task].state is TaskState.RUNNING


def test_wall_time_budget_when_the_scheduler_was_down_then_only_uptime_counts() -> None:
    world, _ = calm_world()
    spec = make.make_spec(max_trials=0)
    spec.budget.max_wall_time_s = 10.0
    world.create("s", spec)
    world.clock.advance(6.0)
    world.step(partial(world.searches.get, "searches/s"))
    world.create("other", make.make_spec())
    world.clock.advance(1000.0)
    world.boot()
    world.clock.advance(3.0)
    world.step()
    assert world.engine.state.searches["s"].state is SearchState.RUNNING
    world.clock.advance(1.5)
    world.step()
    assert world.engine.state.searches["s"].state is SearchState.FAILED
    assert "max_wall_time_s" in world.engine.state.searches["s"].reason


def test_disk_when_full_then_state_is_as_before_and_work_goes_on_later() -> None:
    world, agent = calm_world()
    lease = train_lease(world, agent)
    assert agent.entry is not None
    before = world.replayed()
    world.disk.full = True
    outcome = make.make_outcome(lease)
    results = world.engine.execute(
        [partial(world.desk.outcome, agent.entry, outcome), partial(world.searches.get, "searches/s")]
    )
    assert [getattr(result, "reason", "") for result in results] == ["JOURNAL_FULL", "JOURNAL_FULL"]
    assert world.engine.state == before == world.replayed()
    world.check()
    world.disk.full = False
    results = world.engine.execute([partial(world.desk.outcome, agent.entry, outcome)])
    assert isinstance(results[0], Unavailable)
    read = world.engine.execute([partial(world.searches.get, "searches/s")])
    assert isinstance(read[0], search_pb2.Search)
    world.clock.advance(1.1)
    world.step(partial(world.desk.outcome, agent.entry, outcome))
    assert world.engine.state.tasks[lease.token.task].state is TaskState.SUCCEEDED


def test_lease_when_its_commit_fails_then_the_agent_that_never_heard_of_it_gets_another() -> None:
    world, agent = calm_world()
    world.disk.full = True
    refused = world.engine.execute([partial(world.searches.create, create_request("s"))])
    assert isinstance(refused[0], Unavailable)
    world.disk.full = False
    world.clock.advance(1.1)
    world.step(partial(world.searches.create, create_request("s")))
    world.deliver(agent)
    assert lease_of(agent).token.task.startswith("s-")


def test_room_when_a_commit_fails_then_running_attempts_do_not_take_it_twice() -> None:
    world, agent = calm_world()
    train_lease(world, agent)
    assert agent.entry is not None
    before = dict(agent.entry.free)
    world.disk.full = True
    world.engine.execute([partial(world.searches.create, create_request("t"))])
    assert agent.entry.free == before


def test_leases_when_there_are_many_at_once_then_the_next_step_follows_at_once() -> None:
    world, _ = calm_world()
    hello = make.make_hello("wide", slots=100)
    entry = world.step(partial(world.desk.hello, make.Recorder(), hello))[0]
    assert isinstance(entry, AgentEntry)
    for number in range(LEASES_A_STEP + 6):  # the first ones go to the agent that is there
        world.step(partial(world.searches.create, create_request(f"s{number}")))
    before = len(world.engine.work.leases.armed())
    world.step(partial(world.desk.ready, entry, pb.AgentReady(kind=search_pb2.TASK_KIND_GENERATE, free=100)))
    assert len(entry.held) == LEASES_A_STEP
    assert world.engine.next_deadline() == world.clock.monotonic()
    world.step()
    assert len(entry.held) + before == LEASES_A_STEP + 6
    assert world.engine.next_deadline() > world.clock.monotonic()


def test_watchers_when_a_commit_fails_then_they_hear_of_nothing() -> None:
    world, agent = calm_world()
    train_lease(world, agent)
    request = scheduler_service_pb2.WatchSearchRequest(name="searches/s")
    subscription = world.step(partial(world.searches.watch, request))[0]
    heard = len(subscription._items)  # type: ignore[attr-defined]
    world.disk.full = True
    world.engine.execute([partial(world.searches.cancel, scheduler_service_pb2.CancelSearchRequest(name="searches/s"))])
    assert len(subscription._items) == heard  # type: ignore[attr-defined]


def test_request_id_when_the_same_step_has_it_twice_then_one_search() -> None:
    world, _ = calm_world()
    request = scheduler_service_pb2.CreateSearchRequest(spec=make.make_spec(), request_id="r")
    first, second = world.step(partial(world.searches.create, request), partial(world.searches.create, request))
    assert first == second
    assert len(world.engine.state.searches) == 1


def test_command_when_it_has_a_fault_then_only_it_fails() -> None:
    world, _ = calm_world()

    def broken() -> None:
        raise KeyError("oops")

    results = world.step(broken, partial(world.searches.create, create_request("s")))
    assert isinstance(results[0], KeyError)
    assert "s" in world.engine.state.searches


def create_request(search_id: str) -> scheduler_service_pb2.CreateSearchRequest:
    return scheduler_service_pb2.CreateSearchRequest(spec=make.make_spec(), search_id=search_id)


@pytest.mark.parametrize("times", [1, 3])
def test_agent_when_it_forgets_its_attempts_then_three_times_quarantine(times: int) -> None:
    world, agent = calm_world()
    lease = train_lease(world, agent)
    task = world.engine.state.tasks[lease.token.task]
    for _ in range(times):
        agent.held.clear()
        world.connect(agent)
        world.clock.advance(60.0)
        world.ready(agent)
        world.deliver(agent)
    assert task.counted == times
    assert (task.state is TaskState.QUARANTINED) == (times == 3)
