"""Early stopping in rounds, by median and by Pareto rank in the pure machine; and beside trials that await equals."""

from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import SearchState
from scheduler.facts import SearchCreated
from scheduler.journal import codec
from scheduler.wishes import TrialEnqueued
from tests.builders import scheduling as make
from tests.unit.test_scheduler_rungs import Rungs, stopping_spec

STOPPED, SUCCEEDED = pb.TRIAL_OUTCOME_STOPPED, pb.TRIAL_OUTCOME_SUCCEEDED


def outcomes(play: Rungs) -> list[int]:
    return [trial.outcome for trial in play.run.trials]


def test_round_when_its_rung_is_full_then_the_best_share_goes_on_and_the_others_end() -> None:
    play = Rungs(stopping_spec("successive_halving", trials=6, max_trials=12, parallelism=6))
    play.propose(6, next_call={"in_flight_below": 6})
    for number in range(1, 6):
        play.part(number)
    assert play.held() == [1, 2, 3, 4, 5]
    play.part(6)
    assert outcomes(play)[:6] == [STOPPED] * 4 + [0, 0]
    assert [task for task in play.open() if task.endswith("-r1")] == ["s-t5-train-r1", "s-t6-train-r1"]
    assert play.run.trials[0].rungs[0].reason == "6th of 6, the best 2 go on"
    assert play.run.trials[0].failure.message == "at rung 0, after 10 updates: 6th of 6, the best 2 go on"


def test_round_when_the_budget_ends_before_it_is_full_then_the_search_ends_all_the_same() -> None:
    play = Rungs(stopping_spec("successive_halving", trials=9, max_trials=5, parallelism=5))
    play.propose(5)
    for number in range(1, 6):
        play.part(number)
    assert play.open() == ["s-t5-train-r1"]
    play.part(5)
    play.part(5)
    assert play.run.state is SearchState.SUCCEEDED
    assert outcomes(play) == [STOPPED] * 4 + [SUCCEEDED]


def test_round_when_some_of_it_fail_then_it_is_full_without_them() -> None:
    play = Rungs(stopping_spec("successive_halving", trials=4, max_trials=8, parallelism=4))
    play.propose(4)
    for number in (1, 2, 3):
        play.part(number)
    play.do("s-t4-train", failure=pb.Failure(reason="NETWORK_DIVERGED", message="at step 3"))
    assert play.run.trials[2].rungs[0].reason == "1st of 3, the best one goes on"
    assert outcomes(play) == [STOPPED, STOPPED, 0, pb.TRIAL_OUTCOME_FAILED]


def test_round_when_more_may_go_on_than_there_is_room_for_then_the_best_first_and_the_others_when_there_is() -> None:
    play = Rungs(stopping_spec("successive_halving", trials=6, reduction=2, max_trials=6, parallelism=2))
    for call, number in ((1, 1), (2, 3), (3, 5)):
        play.propose(2, call=call, next_call={"in_flight_below": 1})
        play.part(number)
        play.part(number + 1)
    assert play.open() == ["s-t5-train-r1", "s-t6-train-r1"]
    assert (play.held(), play.run.in_work) == ([4], 2)
    play.part(6)
    # It is held at the next rung, and gives its place to the third of the round before.
    assert play.open() == ["s-t4-train-r1", "s-t5-train-r1"]
    assert play.held() == [6]


def test_rounds_when_there_are_two_then_trials_are_compared_within_their_own() -> None:
    play = Rungs(stopping_spec("successive_halving", trials=3, max_trials=6, parallelism=6))
    play.propose(6)
    for number in (4, 5, 6, 3, 2, 1):
        play.part(number)
    assert outcomes(play) == [STOPPED, STOPPED, 0, STOPPED, STOPPED, 0]
    assert [trial.rungs[0].bracket for trial in play.run.trials] == [0, 0, 0, 1, 1, 1]


def test_hyperband_when_played_then_its_last_bracket_is_trained_to_the_end_at_once() -> None:
    play = Rungs(stopping_spec("hyperband", max_trials=17, parallelism=17))
    play.propose(17)
    for number in range(1, 18):
        play.part(number)
    # Nine from a ninth of the training: three go on; five from a third: one; three have no rung.
    assert [n for n in range(1, 18) if play.run.trials[n - 1].outcome == 0] == [7, 8, 9, 14]
    assert outcomes(play)[14:] == [SUCCEEDED] * 3
    assert play.steps(14) == [30]
    for number in (7, 8, 9, 9, 14):
        play.part(number)
    assert play.run.state is SearchState.SUCCEEDED
    assert outcomes(play).count(SUCCEEDED) == 5


def test_median_when_a_trial_is_worse_than_half_of_those_before_then_it_ends_and_nobody_waits() -> None:
    play = Rungs(stopping_spec("median", rungs=2, min_trials=2, max_trials=6, parallelism=6))
    play.propose(4)
    play.part(1, 0.5)
    play.part(2, 0.6)
    assert play.run.trials[1].rungs[0].reason == "1 were here before, 2 must have been"
    play.part(3, 0.54)
    assert play.run.trials[2].outcome == STOPPED
    assert play.run.trials[2].rungs[0].reason == "best so far 0.54, the median of 2 others is 0.55"
    play.part(4, 0.55)  # not worse than the median
    assert "s-t4-train-r1" in play.open()
    assert play.held() == []
    # At the second rung others are their means so far, 0.7 and 0.6; a trial is as good as it ever was.
    play.part(1, 0.9)
    play.part(2, 0.6)
    play.part(4, 0.1)
    assert play.run.trials[3].rungs[1].reason == "best so far 0.55, the median of 2 others is 0.65"


def test_pareto_rank_when_a_smaller_network_is_less_accurate_then_it_is_as_good() -> None:
    wanted = stopping_spec("successive_halving", trials=4, reduction=2, max_trials=4, parallelism=4)
    wanted.early_stopping.by_pareto_rank = True
    wanted.objectives.add(metric="parameters", goal=pb.GOAL_MINIMIZE)
    play = Rungs(wanted)
    play.propose(4)
    for number, accuracy, parameters in ((1, 0.9, 900), (2, 0.8, 1000), (3, 0.5, 100), (4, 0.4, 500)):
        play.part(number, accuracy, parameters=parameters)
    assert outcomes(play) == [0, STOPPED, 0, STOPPED]
    assert list(play.run.trials[2].rungs[0].values) == [0.5, 100]


def test_leader_when_it_is_held_then_who_waits_for_it_is_trained_instead() -> None:
    first, second = stopping_spec(max_trials=9, parallelism=2), stopping_spec(max_trials=1)
    for wanted in (first, second):
        wanted.train.seed, wanted.cache = 5, pb.CACHE_MODE_REUSE
    second.ClearField("early_stopping")
    play = Rungs(first)
    play.propose(2)
    play.tell(SearchCreated("b", second))
    proposed = make.pb.ProposedTrial(network=make.make_network("1 0"), train=second.train)
    play.do("b-g1", generate=make.pb.GenerateResult(trials=[proposed]))
    other = play.state.searches["b"]
    assert other.trials[0].phase == pb.TRIAL_PHASE_AWAITS_EQUAL
    play.part(1)
    assert play.held() == [1]
    assert other.trials[0].phase == pb.TRIAL_PHASE_TRAIN_QUEUED
    # Nobody waits for a trial at a rung; once it goes on, the other is measuring and it does not lead again.
    play.part(2)
    play.tell(TrialEnqueued("s", make.generate_service_pb2.Proposal(train=first.train)))
    admitted = make.pb.ProposedTrial(network=make.make_network("third"))
    play.do("s-t3-admit", generate=make.pb.GenerateResult(trials=[admitted]))
    play.part(3, 0.0)
    assert "s-t2-train-r1" in play.open()
    assert set(play.run.digests) == {2}
    rows = [(key, body) for key in {*play.state.dirty, "state"} if (body := codec.encode_row(play.state, key))]
    assert codec.decode_rows(rows) == play.state


def test_trial_when_an_equal_one_was_measured_whole_then_it_takes_that_over_and_reaches_no_rung() -> None:
    wanted = stopping_spec(max_trials=2, parallelism=2)
    wanted.train.seed, wanted.cache = 5, pb.CACHE_MODE_REUSE
    play = Rungs(wanted)
    play.propose(1, next_call={"after_results": 1})
    for _ in range(3):
        play.part(1)
    again = make.pb.ProposedTrial(network=make.make_network("1 0"), train=wanted.train)
    play.do("s-g2", generate=make.pb.GenerateResult(trials=[again]))
    assert play.run.trials[1].reused_from == "searches/s/trials/1"
    assert list(play.run.trials[1].rungs) == []
    assert play.run.state is SearchState.SUCCEEDED


def test_constraint_when_training_does_not_change_it_then_judged_at_the_first_rung() -> None:
    wanted = stopping_spec(max_trials=3)
    wanted.constraints.add(metric="parameters", max=500)
    wanted.constraints.add(metric="accuracy", min=0.5)
    play = Rungs(wanted)
    play.propose(2)
    play.part(1, 0.1, parameters=1000)
    play.part(2, 0.1, parameters=100)
    assert play.run.trials[0].outcome == pb.TRIAL_OUTCOME_INFEASIBLE
    assert play.run.trials[1].outcome == 0
