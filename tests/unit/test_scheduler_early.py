"""Bounds on what is measured but not learned are judged before training: in the machine, with every invariant."""

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import evaluate_service_pb2, measurement_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler import outcomes
from scheduler.convert import fill_lease
from scheduler.domain import SearchState
from scheduler.facts import AttemptLeased
from scheduler.validate import complete_spec
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, interrupt


def _spec(metric: str = "latency_p50", *, judging: int = 0, **more: object) -> pb.SearchSpec:
    spec = make.make_spec(**more)  # type: ignore[arg-type]
    spec.constraints.add(metric=metric, max=5.0)
    spec.judging = pb.Judging.ValueType(judging)
    return complete_spec(spec, [make.make_generator()])


def _found(latency_ms: float) -> evaluate_service_pb2.EvaluateResult:
    return evaluate_service_pb2.EvaluateResult(
        measurements=[make.make_measurement("latency_p50", latency_ms, measurement_pb2.SPLIT_UNSPECIFIED)],
        device_time_s=0.25,
        environment={"cpu": "some"},
    )


def test_network_outside_a_bound_when_measured_untrained_then_infeasible_and_never_trained() -> None:
    play = Play(_spec(max_trials=2))
    play.propose(2)
    assert sorted(play.run.open_tasks) == ["s-t1-profile", "s-t2-profile"]
    play.do("s-t1-profile", evaluate=_found(7.0))
    ended = play.run.trials[0]
    assert ended.outcome == pb.TRIAL_OUTCOME_INFEASIBLE
    assert (ended.violation.constraint.metric, ended.violation.value) == ("latency_p50", 7.0)
    assert ended.device_time_s == 0.25
    assert "s-t1-train" not in play.state.tasks
    play.do("s-t2-profile", evaluate=_found(3.0))
    assert list(play.run.open_tasks) == ["s-t2-train"]
    play.score(2, 0.9)
    assert play.run.trials[1].outcome == pb.TRIAL_OUTCOME_SUCCEEDED
    # What the untrained network measured has made room for what the trained one did.
    assert not [m for m in play.run.trials[1].measurements if m.metric == "latency_p50"]
    assert play.run.trials[1].environment["profile.cpu"] == "some"
    assert play.run.state is SearchState.SUCCEEDED


def test_lease_when_a_network_is_measured_untrained_then_says_so() -> None:
    play = Play(_spec(max_trials=1))
    play.propose(1)
    play.tell(AttemptLeased("s-t1-profile", "agents/a"))
    lease = dispatch_pb.Lease()
    fill_lease(lease, play.state, play.state.tasks["s-t1-profile"])
    assert lease.evaluate.untrained
    assert lease.evaluate.model == play.run.trials[0].network.object


@pytest.mark.parametrize(
    ("metric", "judging"),
    [("accuracy", 0), ("parameters", 0), ("size_bytes", 0), ("latency_p50", pb.JUDGING_LATE)],
)
def test_bound_when_it_is_learned_or_static_or_judged_late_then_training_comes_first(metric: str, judging: int) -> None:
    play = Play(_spec(metric, judging=judging, max_trials=1))
    play.propose(1)
    assert list(play.run.open_tasks) == ["s-t1-train"]


def test_search_of_an_earlier_version_when_replayed_then_nothing_is_measured_first() -> None:
    spec = _spec(max_trials=1)
    spec.ClearField("judging")
    play = Play(spec)
    play.propose(1)
    assert list(play.run.open_tasks) == ["s-t1-train"]


def test_final_trials_are_not_judged() -> None:
    play = Play(_spec(max_trials=1, final=True))
    play.propose(1)
    play.do("s-t1-profile", evaluate=_found(1.0))
    play.score(1, 0.5)
    result = dispatch_pb.GenerateResult(trials=[dispatch_pb.ProposedTrial(network=make.make_network("final"))])
    play.do("s-final", generate=result)
    assert list(play.run.open_tasks) == ["s-t2-train"]


def test_measuring_when_held_lost_failed_or_cancelled_then_behaves_as_any_work() -> None:
    play = Play(_spec(max_trials=3, parallelism=3))
    play.propose(3)
    interrupt(play, "profile", lambda: play.do("s-t1-profile", evaluate=_found(1.0)), "NETWORK_NOT_RUNNABLE")
    assert [trial.outcome for trial in play.run.trials][::2] == [pb.TRIAL_OUTCOME_STOPPED] * 2


def test_outcome_when_the_bounded_metric_was_not_measured_then_invalid() -> None:
    play = Play(_spec(max_trials=1))
    play.propose(1)
    task = play.state.tasks["s-t1-profile"]
    found = _found(1.0)
    assert outcomes.check(play.run, task, dispatch_pb.AttemptOutcome(evaluate=found)).HasField("evaluate")
    found.measurements[0].metric = "latency_p99"
    with pytest.raises(Invalid, match="latency_p50 was not measured"):
        outcomes.check(play.run, task, dispatch_pb.AttemptOutcome(evaluate=found))


def test_equal_networks_when_one_is_measured_untrained_then_the_other_waits_for_its_training() -> None:
    play = Play(_spec(max_trials=2))
    result = dispatch_pb.GenerateResult(state=b"1")
    for _ in range(2):
        result.trials.add(network=make.make_network("same"), train={"steps": 10, "seed": 3})
    play.do("s-g1", generate=result)
    assert list(play.run.open_tasks) == ["s-t1-profile"]
    assert play.run.trials[1].phase == pb.TRIAL_PHASE_AWAITS_EQUAL
    play.do("s-t1-profile", evaluate=_found(9.0))
    # The first one ended without what the second one waits for; it is measured itself.
    assert list(play.run.open_tasks) == ["s-t2-profile"]
