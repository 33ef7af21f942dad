"""The scheduler's spans: told once what they tell is durable, and whole over a restart."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.traces import lease_place, task_place, trial_place
from tests.builders import scheduling as make
from tests.builders.scheduler_world import SimulatedAgent, World
from tests.builders.spans import PARENT, rows, traced_to


@pytest.fixture
def spans(tmp_path: Path) -> Iterator[Path]:
    with traced_to(tmp_path / "spans.jsonl") as path:
        yield path


def traced_world(traceparent: str = PARENT) -> tuple[World, SimulatedAgent]:
    world = World(1, kill_rate=0.0, agents=1)
    world.faults = False
    agent = world.agents[0]
    world.connect(agent)
    request = api.CreateSearchRequest(search_id="s", spec=make.make_spec(max_trials=1, parallelism=1))
    world.step(partial(world.searches.create, request, traceparent=traceparent))
    world.ready(agent)
    return world, agent


def answer(world: World, agent: SimulatedAgent) -> None:
    """Answer the lease that the agent holds."""
    world.deliver(agent)
    (lease,) = agent.held.values()
    agent.held.clear()
    assert agent.entry is not None
    world.step(partial(world.desk.outcome, agent.entry, make.make_outcome(lease)))
    world.ready(agent)


@pytest.mark.usefixtures("spans")
def test_lease_when_its_search_is_traced_then_names_its_place_below_its_trial() -> None:
    world, agent = traced_world()
    answer(world, agent)
    world.deliver(agent)
    (lease,) = agent.held.values()
    run, task = world.engine.state.searches["s"], world.engine.state.tasks["s-t1-train"]
    assert lease.traceparent == lease_place(run, task, 1).traceparent
    assert lease_place(run, task, 1).parent == task_place(run, task).traceparent
    assert task_place(run, task).parent == trial_place(run, 1).traceparent
    assert trial_place(run, 1).parent == PARENT


def test_spans_when_the_scheduler_restarts_on_the_way_then_one_tree(spans: Path) -> None:
    world, agent = traced_world()
    answer(world, agent)
    world.deliver(agent)
    world.clock.advance(3.0)
    world.boot()  # the training goes on at the agent
    world.connect(agent)
    answer(world, agent)
    answer(world, agent)
    told = rows(spans)
    by_id = {row["span"]: row for row in told}
    names = sorted(row["name"] for row in told)
    assert names.count("trial") == 1
    assert {"task generate", "task train", "task evaluate", "lease", "queued"} <= set(names)
    outside = {row["name"] for row in told if row["parent"] not in by_id}
    assert outside == {"task generate", "trial"}
    assert {row["parent"] for row in told if row["name"] in outside} == {PARENT[36:52]}
    train = next(row for row in told if row["name"] == "task train")
    assert float(train["end_s"]) - float(train["start_s"]) >= 3.0


def test_spans_when_a_commit_is_refused_then_nothing_is_told_of_it(spans: Path) -> None:
    world, agent = traced_world()
    world.deliver(agent)
    (lease,) = agent.held.values()
    assert agent.entry is not None
    before = len(rows(spans))
    world.disk.full = True
    step = world.engine.prepare([partial(world.desk.outcome, agent.entry, make.make_outcome(lease))])
    assert step.batch is not None
    with pytest.raises(Exception, match="no space") as refused:
        world.engine.journal.append(step.batch)
    world.engine.abort(step, refused.value)  # type: ignore[arg-type]
    assert len(rows(spans)) == before
    world.disk.full = False
    world.clock.advance(2.0)
    world.engine.execute([])
    world.step(partial(world.desk.outcome, agent.entry, make.make_outcome(lease)))
    ended = [row["span"] for row in rows(spans)]
    assert len(ended) == len(set(ended)) > before


def test_search_when_nobody_traces_it_then_leases_name_no_trace(spans: Path) -> None:
    world, agent = traced_world("")
    world.deliver(agent)
    (lease,) = agent.held.values()
    assert lease.traceparent == ""
    answer(world, agent)
    assert rows(spans) == []
