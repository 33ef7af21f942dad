"""A training that does not fit: the trial is outside a bound, with numbers; it has not failed."""

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from nasmesh.v1 import train_service_pb2
from scheduler import convert, invariants, outcomes
from scheduler.domain import SearchState, State
from scheduler.facts import AttemptLeased
from scheduler.machine.tasks import name_of
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec

GIB = 2.0**30


def violation(value: float = 3 * GIB, *, largest: float = GIB) -> pb.ConstraintViolation:
    return pb.ConstraintViolation(constraint={"metric": "train_memory_bytes", "max": largest}, value=value)


def leased(play: Play) -> dispatch_pb.AttemptToken:
    play.tell(AttemptLeased("s-t1-train", "agents/a"))
    return dispatch_pb.AttemptToken(task="s-t1-train", attempt=1, epoch=1)


def test_training_when_it_does_not_fit_then_the_trial_is_infeasible_and_tried_no_more() -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    play.propose(2)
    play.do("s-t1-train", infeasible=violation())
    trial = play.run.trials[0]
    assert trial.outcome == pb.TRIAL_OUTCOME_INFEASIBLE
    assert trial.violation == violation()
    assert not trial.HasField("failure")
    assert play.run.results == [1]
    assert play.state.tasks["s-t1-train"].counted == 0
    assert name_of("s", 1, 3) not in play.state.tasks, "what was not trained is not scored"
    assert convert.result_message(trial).violation == violation(), "the generator is told the numbers"
    play.score(2, 0.5)
    assert play.run.generate_task == "s-g2"


def test_training_when_it_is_the_last_then_the_search_goes_on_to_its_end() -> None:
    play = Play(spec(max_trials=1, parallelism=1))
    play.propose(1)
    play.do("s-t1-train", infeasible=violation())
    assert play.run.state in (SearchState.SUCCEEDED, SearchState.FAILED)


def test_equal_trial_when_the_one_it_waits_for_does_not_fit_then_it_is_trained_itself() -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    play.run.spec.cache = pb.CACHE_MODE_REUSE
    for trial in (result := dispatch_pb.GenerateResult(state=b"1", trials=[{}, {}])).trials:
        trial.network.CopyFrom(make.make_network("same"))
        trial.train.CopyFrom(play.run.spec.train)
        trial.train.seed = 4
    play.do("s-g1", generate=result)
    assert play.run.trials[1].phase == pb.TRIAL_PHASE_AWAITS_EQUAL
    play.do("s-t1-train", infeasible=violation())
    assert play.run.trials[1].phase == pb.TRIAL_PHASE_TRAIN_QUEUED


def test_training_when_it_was_measured_then_its_memory_stands_in_the_trial() -> None:
    play = Play(spec(max_trials=2, parallelism=1))
    play.propose(1)
    lease = dispatch_pb.Lease(trial="searches/s/trials/1")
    result = make.train_result(lease)
    result.peak_memory_bytes, result.predicted_memory_bytes = 700, 800
    play.do("s-t1-train", train=result)
    assert (play.run.trials[0].peak_memory_bytes, play.run.trials[0].predicted_memory_bytes) == (700, 800)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (violation(GIB / 2), "within its bounds"),
        (violation(float("nan")), "finite"),
        (violation(largest=float("inf")), "finite"),
        (pb.ConstraintViolation(constraint={"metric": "No Metric", "max": 1}, value=2), "no metric"),
        (pb.ConstraintViolation(constraint={"metric": "train_memory_bytes"}, value=2), "within its bounds"),
    ],
)
def test_violation_when_it_is_none_then_the_outcome_is_refused(bad: pb.ConstraintViolation, says: str) -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    play.propose(1)
    outcome = dispatch_pb.AttemptOutcome(token=leased(play), infeasible=bad)
    with pytest.raises(Invalid, match=says) as refused:
        outcomes.check(play.run, play.state.tasks["s-t1-train"], outcome)
    assert refused.value.reason == outcomes.INVALID_REASON


def test_violation_when_the_task_proposes_networks_then_refused_since_there_is_no_network_yet() -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    play.tell(AttemptLeased("s-g1", "agents/a"))
    outcome = dispatch_pb.AttemptOutcome(token={"task": "s-g1", "attempt": 1, "epoch": 1}, infeasible=violation())
    with pytest.raises(Invalid, match="GENERATE task cannot end with infeasible"):
        outcomes.check(play.run, play.state.tasks["s-g1"], outcome)


def test_memory_when_it_is_negative_then_the_outcome_is_refused() -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    play.propose(1)
    outcome = dispatch_pb.AttemptOutcome(token=leased(play), train=make.train_result(dispatch_pb.Lease(trial="t")))
    outcome.train.peak_memory_bytes = -1
    with pytest.raises(Invalid, match="must not be negative"):
        outcomes.check(play.run, play.state.tasks["s-t1-train"], outcome)


@pytest.mark.parametrize("steps", [-1, 2**63 - 1])
def test_training_when_its_updates_are_no_number_of_updates_then_the_outcome_is_refused(steps: int) -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    play.propose(1)
    outcome = dispatch_pb.AttemptOutcome(token=leased(play), train=make.train_result(dispatch_pb.Lease(trial="t")))
    outcome.train.steps = steps
    with pytest.raises(Invalid, match="no number of updates"):
        outcomes.check(play.run, play.state.tasks["s-t1-train"], outcome)


@pytest.mark.parametrize(
    "bad", [{"validation": [{"metric": "loss", "value": float("nan")}]}, {"validated_step": -1}, {"loss": float("inf")}]
)
def test_progress_when_a_number_of_it_cannot_be_then_it_is_not_passed_on(bad: dict[str, object]) -> None:
    good = train_service_pb2.TrainProgress(step=3, validation=[{"metric": "loss", "value": 0.5}], validated_step=2)
    assert outcomes.check_progress(good)
    good.MergeFrom(train_service_pb2.TrainProgress(**bad))  # type: ignore[arg-type]
    assert not outcomes.check_progress(good)


def _without_violation(state: State) -> None:
    state.searches["s"].trials[0].ClearField("violation")


def _with_two_ends(state: State) -> None:
    state.searches["s"].trials[1].violation.CopyFrom(violation())


@pytest.mark.parametrize("spoil", [_without_violation, _with_two_ends])
def test_invariants_when_outcome_and_violation_disagree_then_noticed(spoil) -> None:  # type: ignore[no-untyped-def]
    play = Play(spec(max_trials=4, parallelism=2))
    play.propose(2)
    play.do("s-t1-train", infeasible=violation())
    spoil(play.state)
    with pytest.raises(invariants.InvariantError, match="violation"):
        invariants.check(play.state)
