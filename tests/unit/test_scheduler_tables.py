"""Searches over a table in the machine: nothing is trained, nothing is taken over, and what cannot be is refused."""

from functools import partial

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import evaluate_service_pb2, evaluation_pb2, measurement_pb2
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import search_pb2 as pb
from scheduler import outcomes
from scheduler.convert import fill_lease
from scheduler.domain import SearchState
from scheduler.facts import AttemptLeased
from scheduler.lifecycle import Lifecycle
from scheduler.searches import Searches
from scheduler.validate import complete_spec
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, interrupt
from tests.builders.scheduler_world import World

TABLE = "tables/digits-cell"


def _written(**more: object) -> pb.SearchSpec:
    """A specification as a person writes it."""
    spec = make.make_spec(**more)  # type: ignore[arg-type]
    spec.ClearField("train")
    spec.evaluate.table = TABLE
    if spec.HasField("final"):
        spec.final.ClearField("train")
    return spec


def _complete(**more: object) -> pb.SearchSpec:
    return complete_spec(_written(**more), [make.make_generator()])


def _found(number: int, accuracy: float, split: int = 2) -> evaluate_service_pb2.EvaluateResult:
    return evaluate_service_pb2.EvaluateResult(
        measurements=[make.make_measurement("accuracy", accuracy, split)], device_time_s=100.0 + number
    )


def _look_up(play: Play, number: int, accuracy: float) -> None:
    split = play.run.trials[number - 1].evaluate.split
    play.do(f"s-t{number}-evaluate", evaluate=_found(number, accuracy, split))


def test_search_over_a_table_when_proposed_then_looked_up_without_a_training_and_booked_at_the_tables_cost() -> None:
    play = Play(_complete(max_trials=3, parallelism=3, final=True))
    play.propose(3)
    assert sorted(play.run.open_tasks) == ["s-t1-evaluate", "s-t2-evaluate", "s-t3-evaluate"]
    assert {trial.phase for trial in play.run.trials} == {pb.TRIAL_PHASE_EVALUATE_QUEUED}
    for number, accuracy in ((2, 0.5), (1, 0.9), (3, 0.7)):
        _look_up(play, number, accuracy)
    assert play.run.state is SearchState.FINALIZING
    assert play.run.device_time_s == pytest.approx(306)
    assert [play.run.trials[i].device_time_s for i in range(3)] == [101, 102, 103]
    assert not play.state.measured  # the table answers again as fast
    final = dispatch_pb.GenerateResult(trials=[dispatch_pb.ProposedTrial(network=make.make_network("final"))])
    play.do("s-final", generate=final)
    assert list(play.run.open_tasks) == ["s-t4-evaluate"]
    assert play.run.trials[3].evaluate.split == measurement_pb2.SPLIT_TEST
    _look_up(play, 4, 0.8)
    assert play.run.state is SearchState.SUCCEEDED


def test_lease_when_a_table_is_asked_then_has_the_untrained_network_and_its_choices() -> None:
    play = Play(_complete(max_trials=1))
    result = dispatch_pb.GenerateResult(state=b"1")
    proposed = result.trials.add(network=make.make_network("one"))
    proposed.choices.values["edge_0_1"] = "none"
    play.do("s-g1", generate=result)
    play.tell(AttemptLeased("s-t1-evaluate", "agents/a"))
    lease = dispatch_pb.Lease()
    fill_lease(lease, play.state, play.state.tasks["s-t1-evaluate"])
    assert lease.evaluate.model == proposed.network.object
    assert dict(lease.evaluate.choices.values) == {"edge_0_1": "none"}
    assert lease.evaluate.config.table == TABLE


def test_search_over_a_table_when_held_lost_failed_or_cancelled_then_behaves_as_any_other() -> None:
    play = Play(_complete(max_trials=4, parallelism=4))
    play.propose(4)
    interrupt(play, "evaluate", lambda: _look_up(play, 1, 0.4), "NETWORK_NOT_IN_TABLE")
    assert [trial.outcome for trial in play.run.trials][2:] == [pb.TRIAL_OUTCOME_STOPPED] * 2


def test_target_when_the_table_reaches_it_then_the_search_ends() -> None:
    spec = _written(max_trials=50)
    spec.budget.target = 0.9
    play = Play(complete_spec(spec, [make.make_generator()]))
    play.propose(2)
    _look_up(play, 1, 0.95)
    assert play.run.state is SearchState.SUCCEEDED


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("train.steps", "train"),
        ("early_stopping.median.rungs", "early_stopping"),
        ("instrumentation.profile", "instrumentation"),
        ("transfer.inherit_weights", "transfer.inherit_weights"),
        ("final.train.steps", "final.train"),
        ("final.scale_up.width_multiplier", "final.scale_up"),
        ("final.repeats", "final.repeats"),
        ("evaluate.memory", "evaluate.memory"),
        ("evaluate.threads", ""),
    ],
)
def test_spec_when_it_says_how_to_train_besides_a_table_then_refused(change: str, field: str) -> None:
    spec = _written(final=True)
    message = spec
    *path, last = change.split(".")
    for name in path:
        message = getattr(message, name)
    setattr(message, last, 2)
    if not field:
        assert complete_spec(spec, [make.make_generator()]).evaluate.threads == 2
        return
    with pytest.raises(Invalid) as caught:
        complete_spec(spec, [make.make_generator()])
    assert f"spec.{field}" in {violation.field for violation in caught.value.violations}


def test_final_phase_when_it_alone_names_a_table_then_refused() -> None:
    spec = make.make_spec(final=True)
    spec.final.evaluate.table = TABLE
    with pytest.raises(Invalid) as caught:
        complete_spec(spec, [make.make_generator()])
    assert [violation.field for violation in caught.value.violations] == ["spec.final.evaluate.table"]


def test_proposal_when_it_would_train_otherwise_or_read_statistics_then_the_answer_is_invalid() -> None:
    play = Play(_complete(max_trials=2))
    task = play.state.tasks["s-g1"]
    play.tell(AttemptLeased(task.id, "agents/a"))
    for more in ({"train": {"steps": 5}}, {"instrumentation": {"probes": [{"tap": 1, "statistics": [1]}]}}):
        trial = dispatch_pb.ProposedTrial(network=make.make_network("one"), **more)  # type: ignore[arg-type]
        outcome = dispatch_pb.AttemptOutcome(generate=dispatch_pb.GenerateResult(trials=[trial]))
        with pytest.raises(Invalid) as caught:
            outcomes.check(play.run, task, outcome)
        assert TABLE in caught.value.message


def test_network_when_added_with_a_plan_to_a_search_over_a_table_then_refused_by_its_field() -> None:
    world = World(1, kill_rate=0.0, agents=1)
    world.faults = False
    world.connect(world.agents[0])
    world.create("s", _written(max_trials=2))
    request = api.EnqueueTrialRequest(parent="searches/s", request_id="r")
    request.proposal.architecture.SetInParent()
    request.proposal.instrumentation.profile = True
    engine = world.engine
    lifecycle = Lifecycle(engine, Searches(engine))
    (refused,) = engine.execute([partial(lifecycle.enqueue, request)])
    assert isinstance(refused, Invalid)
    assert (refused.reason, refused.field) == ("SPEC_INVALID", "proposal.instrumentation")
    request.proposal.ClearField("instrumentation")
    (reply,) = engine.execute([partial(lifecycle.enqueue, request)])
    assert reply.trial.enqueued


@pytest.mark.parametrize(
    ("metric", "evaluate", "wanted"),
    [
        ("throughput_b8", {}, "throughput_batch_sizes: [8]"),
        ("peak_memory_bytes", {}, "memory: true"),
        ("int8_accuracy", {}, "quantization"),
        ("macro_f1", {}, "metrics: [macro_f1]"),
        ("rmse", {}, "has classes"),
        ("own_metric", {}, "does not produce"),
        ("throughput_b8", {"throughput_batch_sizes": [4, 8]}, ""),
        ("peak_memory_bytes", {"memory": True}, ""),
        ("int8_accuracy", {"quantization": evaluation_pb2.QUANTIZATION_DYNAMIC}, ""),
        ("macro_f1", {"metrics": ["macro_f1"]}, ""),
        ("own_metric", {"metrics": ["own_metric"]}, ""),
        ("accuracy_low", {}, ""),
    ],
)
def test_objective_when_evaluation_must_be_told_to_measure_it_then_refused_unless_it_is(
    metric: str, evaluate: dict[str, object], wanted: str
) -> None:
    spec = make.make_spec()
    spec.objectives[0].metric = metric
    spec.evaluate.CopyFrom(evaluation_pb2.EvaluateConfig(**evaluate))  # type: ignore[arg-type]
    if not wanted:
        assert complete_spec(spec, [make.make_generator()]).objectives[0].metric == metric
        return
    with pytest.raises(Invalid) as caught:
        complete_spec(spec, [make.make_generator()])
    assert wanted in caught.value.message


def test_outcome_when_report_or_copy_are_no_such_objects_then_refused() -> None:
    play = Play(_complete(max_trials=1))
    play.propose(1)
    task = play.state.tasks["s-t1-evaluate"]
    for field, kind in (("report", "networks"), ("quantized", "reports")):
        found = _found(1, 0.5)
        getattr(found, field).CopyFrom(make.make_ref("x", kind))
        with pytest.raises(Invalid) as caught:
            outcomes.check(play.run, task, dispatch_pb.AttemptOutcome(evaluate=found))
        assert caught.value.field == f"evaluate.{field}"


@pytest.mark.parametrize("kind", ["table", "untrained"])
def test_work_that_reads_no_data_is_given_to_agents_without_the_data_set(kind: str) -> None:
    world = World(1, kill_rate=0.0, agents=1)
    world.faults = False
    agent = world.agents[0]
    agent.kinds = (pb.TASK_KIND_GENERATE, pb.TASK_KIND_EVALUATE)
    world.connect(agent)
    spec = _written(max_trials=1) if kind == "table" else make.make_spec(max_trials=1)
    spec.data.dataset = "datasets/cifar10"  # the agent has digits only
    if kind == "untrained":
        spec.constraints.add(metric="latency_p50", max=5.0)
    world.create("s", spec)
    world.deliver(agent)
    assert agent.entry is not None
    outcome = make.make_outcome(next(iter(agent.held.values())))
    agent.held.clear()
    world.step(partial(world.desk.outcome, agent.entry, outcome))
    world.deliver(agent)
    assert [lease.WhichOneof("work") for lease in agent.held.values()] == ["evaluate"]


def test_search_over_a_table_when_no_train_server_has_the_data_then_accepted_and_another_is_refused() -> None:
    world = World(1, kill_rate=0.0, agents=1)
    world.faults = False
    world.connect(world.agents[0])
    for name, spec in (("plain", make.make_spec()), ("table", _written())):
        spec.data.dataset = "datasets/cifar10"
        world.create(name, spec)
    assert list(world.engine.state.searches) == ["table"]


def test_bound_when_the_table_does_not_hold_its_metric_then_the_answer_is_refused() -> None:
    spec = _complete(max_trials=1)
    spec.constraints.add(metric="ece", max=0.1)
    spec.constraints.add(metric="parameters", max=1e9)  # known from the network alone
    play = Play(spec)
    play.propose(1)
    found = _found(1, 0.9)
    task = play.state.tasks["s-t1-evaluate"]
    with pytest.raises(Invalid, match=r"ece was not measured.*tables/digits-cell does not hold it"):
        outcomes.check(play.run, task, dispatch_pb.AttemptOutcome(evaluate=found))
    found.measurements.append(make.make_measurement("ece", 0.05, 2))
    assert outcomes.check(play.run, task, dispatch_pb.AttemptOutcome(evaluate=found)).HasField("evaluate")
