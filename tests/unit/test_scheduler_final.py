"""The final phase: which networks enter it, and what becomes of the search."""

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import evaluate_service_pb2, measurement_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler import outcomes
from scheduler.domain import SearchState
from scheduler.effects import IllegalTransitionError
from scheduler.facts import SearchExpired
from tests.builders import scheduling as make
from tests.builders.scheduler_play import (
    Play,
    failure,
    spec,
)


def test_wall_time_when_used_up_then_finals_still_run() -> None:
    asked = spec(max_trials=8, parallelism=2, final=True)
    asked.budget.max_wall_time_s = 10.0
    play = Play(asked)
    play.propose(2)
    play.score(1, 0.5)
    play.uptime_s = 12.0
    play.tell(SearchExpired("s"))
    assert play.run.state is SearchState.FINALIZING
    assert play.run.trials[1].outcome == pb.TRIAL_OUTCOME_STOPPED
    with pytest.raises(IllegalTransitionError, match="search phase only"):
        Play.tell(play, SearchExpired("s"))


def test_final_when_scored_then_succeeded_and_when_all_fail_then_failed() -> None:
    for fails in (False, True):
        play = Play(spec(max_trials=1, parallelism=1, final=True))
        play.propose(1)
        play.score(1, 0.5)
        assert play.run.state is SearchState.FINALIZING
        play.do("s-final", generate=dispatch_pb.GenerateResult(trials=[{"network": make.make_network("big")}]))
        if fails:
            play.do("s-t2-train", failure=failure(retryable=False))
        else:
            play.score(2, 0.8)
        assert play.run.state is (SearchState.FAILED if fails else SearchState.SUCCEEDED)
        assert list(play.run.trials[1].parents) == ["searches/s/trials/1"]


def test_final_when_the_last_are_picked_then_the_newest_measured_enter_whatever_their_rank() -> None:
    asked = spec(max_trials=3, parallelism=3, final=True)
    asked.final.pick, asked.final.top_k = pb.FINAL_PICK_LAST, 2
    play = Play(asked)
    play.propose(3)
    play.score(1, 0.9)
    play.score(2, 0.5)
    play.do("s-t3-train", failure=failure(retryable=False))
    assert play.run.final_sources() == [2, 1]
    grown = [{"network": make.make_network(name)} for name in ("second", "first")]
    play.do("s-final", generate=dispatch_pb.GenerateResult(trials=grown))
    assert [list(trial.parents) for trial in list(play.run.trials)[3:]] == [
        ["searches/s/trials/2"],
        ["searches/s/trials/1"],
    ]


@pytest.mark.parametrize(
    ("choice", "first"),
    [
        (pb.FINAL_CHOICE_UNSPECIFIED, 6),  # searches of before: the test score chose
        (pb.FINAL_CHOICE_VALIDATION, 5),
        (pb.FINAL_CHOICE_RANK, 4),
    ],
)
def test_final_when_there_are_several_then_chosen_as_asked_and_the_unscored_come_last(
    choice: pb.FinalChoice.ValueType, first: int
) -> None:
    asked = spec(max_trials=2, parallelism=2, final=True)
    asked.final.top_k, asked.final.repeats, asked.final.choice = 2, 2, choice
    if choice == pb.FINAL_CHOICE_VALIDATION:
        asked.final.evaluate.further_split = measurement_pb2.SPLIT_VALIDATION
    play = Play(asked)
    play.propose(2)
    play.score(1, 0.9)
    play.score(2, 0.5)
    grown = [{"network": make.make_network(name)} for name in ("first", "second")]
    play.do("s-final", generate=dispatch_pb.GenerateResult(trials=grown))
    play.do("s-t3-train", failure=failure(retryable=False))
    for number, test in ((4, 0.7), (5, 0.6), (6, 0.8)):  # on validation the other way round: 0.3, 0.4, 0.2
        play.score(number, test)
    assert play.run.state is SearchState.SUCCEEDED
    assert play.run.final_trials[0] == first
    assert play.run.final_trials[-1] == 3
    assert f"final trial {first} has accuracy" in play.run.reason
    assert "on the test split" in play.run.reason


def test_final_when_nothing_was_measured_on_validation_then_the_search_s_order_decides() -> None:
    asked = spec(max_trials=2, parallelism=2, final=True)
    asked.final.top_k, asked.final.choice = 2, pb.FINAL_CHOICE_VALIDATION
    play = Play(asked)
    play.propose(2)
    play.score(1, 0.5)
    play.score(2, 0.9)
    grown = [{"network": make.make_network(name)} for name in ("first", "second")]
    play.do("s-final", generate=dispatch_pb.GenerateResult(trials=grown))
    play.score(3, 0.7)
    play.score(4, 0.8)
    assert list(play.run.final_trials) == [3, 4]
    assert list(play.run.trials[2].parents) == ["searches/s/trials/2"]


def test_scores_when_on_a_split_that_was_not_asked_for_then_refused_and_the_further_one_does_not_do_instead() -> None:
    asked = spec(max_trials=1, parallelism=1, final=True)
    asked.final.choice = pb.FINAL_CHOICE_VALIDATION
    asked.final.evaluate.further_split = measurement_pb2.SPLIT_VALIDATION
    play = Play(asked)
    play.propose(1)
    play.score(1, 0.5)
    play.do("s-final", generate=dispatch_pb.GenerateResult(trials=[{"network": make.make_network("big")}]))
    lease = dispatch_pb.Lease(token=dispatch_pb.AttemptToken(), trial="searches/s/trials/2")
    play.do("s-t2-train", train=make.train_result(lease))
    task = play.state.tasks["s-t2-evaluate"]

    def told(*splits: measurement_pb2.Split.ValueType) -> dispatch_pb.AttemptOutcome:
        found = evaluate_service_pb2.EvaluateResult()
        found.measurements.extend(make.make_measurement("accuracy", 0.5, split) for split in splits)
        return dispatch_pb.AttemptOutcome(evaluate=found)

    train, validation, test = measurement_pb2.SPLIT_TRAIN, measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST
    for good in (told(test), told(test, validation), told(validation, test)):
        assert outcomes.check(play.run, task, good) is good
    with pytest.raises(Invalid, match="SPLIT_TRAIN, which was not asked for"):
        outcomes.check(play.run, task, told(test, train))
    with pytest.raises(Invalid, match="accuracy was not measured"):
        outcomes.check(play.run, task, told(validation))
