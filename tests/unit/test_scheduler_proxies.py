"""Zero-cost proxies as objectives: what is refused, what ranks, what becomes of a network that has no value."""

import pytest

from nasmesh import metrics
from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import evaluate_service_pb2, training_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler import outcomes
from scheduler.domain import SearchState
from scheduler.facts import AttemptLeased
from scheduler.validate import complete_spec
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play

SYNFLOW = training_pb2.ZERO_COST_PROXY_SYNFLOW


def _spec(*further: str, proxy: str = "synflow", **more: object) -> pb.SearchSpec:
    spec = make.make_spec(**more)  # type: ignore[arg-type]
    spec.instrumentation.proxies.append(SYNFLOW)
    del spec.objectives[:]
    for metric in (proxy, *further):
        spec.objectives.add(metric=metric, goal=pb.GOAL_MAXIMIZE)
    return spec


def _complete(spec: pb.SearchSpec) -> pb.SearchSpec:
    return complete_spec(spec, [make.make_generator()])


def _faults(spec: pb.SearchSpec) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        _complete(spec)
    return {violation.field: violation.description for violation in caught.value.violations}


def _propose(play: Play, call: int, *names: str) -> None:
    """Record networks as agents propose them, with what the search says of their training."""
    result = dispatch_pb.GenerateResult(state=str(call).encode())
    for name in names:
        network, plan = make.make_network(name), play.run.spec.instrumentation
        result.trials.add(network=network, train=play.run.spec.train, instrumentation=plan)
    play.do(f"s-g{call}", generate=result)


def _trained(play: Play, number: int, synflow: float | None) -> None:
    """End a trial's training, which measured this."""
    token = dispatch_pb.AttemptToken()
    result = make.train_result(dispatch_pb.Lease(token=token, trial=f"searches/s/trials/{number}"))
    result.steps = play.run.trials[number - 1].train.steps
    if synflow is not None:
        result.measurements.add(metric="synflow", value=synflow)
    play.do(f"s-t{number}-train", train=result)


def _evaluated(play: Play, number: int, accuracy: float) -> dispatch_pb.AttemptOutcome:
    """Return what a trial's evaluation comes to, as it is recorded."""
    trial = play.run.trials[number - 1]
    lease = dispatch_pb.Lease(trial=trial.name)
    lease.evaluate.config.CopyFrom(trial.evaluate)
    task = play.state.tasks[f"s-t{number}-evaluate"]
    outcome = dispatch_pb.AttemptOutcome(evaluate=make.evaluate_result(lease, accuracy))
    try:
        return outcomes.check(play.run, task, outcome)
    except Invalid as error:
        return outcomes.invalid_outcome(outcome, error)


def _score(play: Play, number: int, synflow: float | None, accuracy: float) -> None:
    _trained(play, number, synflow)
    outcome = _evaluated(play, number, accuracy)
    kind = str(outcome.WhichOneof("result"))
    play.do(f"s-t{number}-evaluate", **{kind: getattr(outcome, kind)})


def test_proxies_are_the_metrics_of_the_plan() -> None:
    assert set(metrics.PROXIES) == {metrics.proxy(kind) for kind in training_pb2.ZeroCostProxy.values() if kind}
    assert metrics.PROXIES.items() <= metrics.TRAINING_METRICS.items()


def test_objective_when_the_plan_has_no_such_proxy_then_refused_with_what_to_set() -> None:
    assert _complete(_spec()).objectives[0].metric == "synflow"
    found = _faults(_spec(proxy="naswot"))
    assert "instrumentation.proxies: [ZERO_COST_PROXY_NASWOT]" in found["spec.objectives[0].metric"]
    bound = _spec()
    bound.constraints.add(metric="synflow", min=1)
    assert "a bound may not" in _faults(bound)["spec.constraints[0].metric"]
    table = _spec()
    table.ClearField("train")
    table.evaluate.table = "tables/digits-cell"
    assert "is measured by training" in _faults(table)["spec.objectives[0].metric"]


def test_final_when_every_objective_is_a_proxy_then_refused_since_nothing_compares_trained_networks() -> None:
    assert "no proxy" in _faults(_spec(final=True))["spec.objectives"]
    assert _complete(_spec("accuracy", final=True)).final.choice == pb.FINAL_CHOICE_VALIDATION


def test_objective_when_evaluation_is_asked_for_a_metric_of_that_name_then_it_is_no_proxy() -> None:
    spec = _spec(final=True)
    spec.ClearField("instrumentation")
    spec.evaluate.metrics.append("synflow")
    assert metrics.first_scored(_complete(spec)).metric == "synflow"


def test_search_when_ranked_by_a_proxy_then_its_value_decides_and_final_networks_are_chosen_by_their_score() -> None:
    spec = _spec("accuracy", max_trials=3, parallelism=3, final=True)
    spec.final.top_k = 2
    play = Play(_complete(spec))
    play.propose(3)
    for number, (synflow, accuracy) in enumerate(((7.0, 0.9), (50.0, 0.1), (30.0, 0.2)), start=1):
        _score(play, number, synflow, accuracy)
    assert play.run.state is SearchState.FINALIZING
    assert play.run.final_sources() == [2, 3]
    grown = [{"network": make.make_network(name)} for name in ("second", "third")]
    play.do("s-final", generate=dispatch_pb.GenerateResult(trials=grown))
    _score(play, 4, None, 0.8)  # evaluates to 0.2 on the validation split; final networks need no proxy
    _score(play, 5, 9.0, 0.7)
    assert play.run.state is SearchState.SUCCEEDED
    assert play.run.final_trials == [5, 4]
    assert play.run.reason.endswith("final trial 5 has accuracy 0.7 on the test split, scored once")


def test_search_when_it_has_no_final_phase_then_the_proxy_is_what_is_told() -> None:
    spec = _spec(max_trials=2)
    spec.budget.target = 40.0
    play = Play(_complete(spec))
    play.propose(2)
    _score(play, 1, 50.0, 0.1)
    assert play.run.state is SearchState.SUCCEEDED
    assert "target reached: trial 1 has synflow 50" in play.run.reason


def test_network_when_its_proxy_is_no_number_then_it_fails_once_and_ranks_nowhere() -> None:
    play = Play(_complete(_spec(max_trials=2)))
    play.propose(2)
    _score(play, 1, None, 0.9)
    failed = play.run.trials[0]
    assert (failed.outcome, failed.failure.reason) == (pb.TRIAL_OUTCOME_FAILED, "PROXY_UNDEFINED")
    assert len(play.state.tasks["s-t1-evaluate"].attempts) == 1
    _score(play, 2, 5.0, 0.1)
    assert [number for _, number in play.run.leaders] == [2]


def test_evaluation_when_it_lacks_a_score_beside_a_proxy_then_as_ever() -> None:
    play = Play(_complete(_spec("accuracy", max_trials=1)))
    play.propose(1)
    _trained(play, 1, 3.0)
    task = play.state.tasks["s-t1-evaluate"]
    with pytest.raises(Invalid, match="accuracy was not measured") as caught:
        outcomes.check(play.run, task, dispatch_pb.AttemptOutcome(evaluate=evaluate_service_pb2.EvaluateResult()))
    assert caught.value.reason == "OUTCOME_INVALID"


def test_rung_when_trials_are_compared_by_a_proxy_then_the_best_by_it_go_on() -> None:
    spec = _spec(max_trials=2, parallelism=2)
    spec.train.steps = 90
    spec.early_stopping.successive_halving.trials = 2
    spec.early_stopping.successive_halving.reduction = 2
    play = Play(_complete(spec))
    _propose(play, 1, "one", "two")
    for number, synflow in ((1, 4.0), (2, 6.0)):
        play.tell(AttemptLeased(f"s-t{number}-train", "agents/a"))
        trial = play.run.trials[number - 1]
        result = make.train_result(dispatch_pb.Lease(trial=trial.name))
        result.steps = play.run.ladder.until_step(trial)
        result.measurements.add(metric="synflow", value=synflow)
        play.report(f"s-t{number}-train", train=result)
        outcome = _evaluated(play, number, 0.5)
        play.do(f"s-t{number}-evaluate", evaluate=outcome.evaluate)
    first, second = play.run.trials[0], play.run.trials[1]
    assert (list(first.rungs[0].values), list(second.rungs[0].values)) == ([4.0], [6.0])
    assert first.outcome == pb.TRIAL_OUTCOME_STOPPED
    assert second.rungs[0].decision == pb.RUNG_DECISION_PROMOTED


def test_equal_network_when_measured_before_then_its_proxy_is_taken_over() -> None:
    spec = _spec(max_trials=2, parallelism=1)
    spec.train.seed = 1
    play = Play(_complete(spec))
    _propose(play, 1, "one")
    _score(play, 1, 8.0, 0.3)
    _propose(play, 2, "one")
    again = play.run.trials[1]
    assert again.reused_from == "searches/s/trials/1"
    assert [m.value for m in again.measurements if m.metric == "synflow"] == [8.0]
