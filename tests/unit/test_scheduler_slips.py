"""Rules of the machine that only a mutant of it had shown to be untested."""

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import generate_service_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import SearchState
from scheduler.effects import Changed
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec


def test_changes_when_one_fact_makes_several_then_the_trials_come_before_their_search() -> None:
    play = Play(spec(max_trials=3, parallelism=3))
    effects = play.propose(3)
    changed = [effect.trial for effect in effects if isinstance(effect, Changed)]
    assert changed == [1, 2, 3, 0]


def test_proposal_when_refused_then_its_trial_fails_and_nothing_is_trained() -> None:
    play = Play(spec(max_trials=3, parallelism=2))
    refusal = pb.Failure(reason="TOO_LARGE", message="too large")
    result = dispatch_pb.GenerateResult(state=b"1")
    result.trials.add(refusal=refusal)
    result.trials.add(network=make.make_network("good"))
    play.do("s-g1", generate=result)
    refused, good = play.run.trials
    assert refused.outcome == pb.TRIAL_OUTCOME_FAILED
    assert refused.failure.reason == "TOO_LARGE"
    assert good.phase == pb.TRIAL_PHASE_TRAIN_QUEUED
    assert "s-t1-train" not in play.state.tasks


def test_generator_when_it_waits_for_results_then_those_it_has_seen_do_not_count() -> None:
    play = Play(spec(max_trials=6, parallelism=4))
    play.propose(2, next_call=generate_service_pb2.NextCall(after_results=1))
    play.score(1, 0.5)
    assert play.run.generate_task == "s-g2"
    play.propose(2, call=2, next_call=generate_service_pb2.NextCall(after_results=2))
    assert play.run.cursor == 1
    play.score(2, 0.5)
    assert play.run.generate_task == "", "one result is new, two were asked for"
    play.score(3, 0.5)
    assert play.run.generate_task == "s-g3"


def test_final_when_repeated_with_a_seed_of_its_own_then_each_repeat_has_another() -> None:
    wanted = spec(max_trials=1, parallelism=1, final=True)
    wanted.final.repeats = 3
    wanted.final.train.seed = 11
    play = Play(wanted)
    play.propose(1)
    play.score(1, 0.5)
    result = dispatch_pb.GenerateResult()
    result.trials.add(network=make.make_network("grown"))
    play.do("s-final", generate=result)
    seeds = [trial.train.seed for trial in play.run.trials if trial.final]
    assert seeds[0] == 11
    assert len(set(seeds)) == 3


def test_search_when_its_budget_is_spent_then_it_says_of_how_many_trials() -> None:
    play = Play(spec(max_trials=2, parallelism=2))
    play.propose(2)
    play.score(1, 0.5)
    assert play.run.stop_reason == "", "one of two trials has a result, the other is in work"
    play.score(2, 0.6)
    assert play.run.state is SearchState.SUCCEEDED
    assert play.run.stop_reason == "max_trials reached: 2 of 2 trials have a result"
