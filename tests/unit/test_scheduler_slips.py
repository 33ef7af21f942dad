"""Rules of the machine that only a mutant of it had shown to be untested."""

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import generate_service_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import SearchState
from scheduler.effects import Changed
from scheduler.wishes import SearchUpdated, TrialEnqueued
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


def test_release_when_it_names_a_checkpoint_then_the_next_attempt_has_it() -> None:
    play = Play(spec(max_trials=1, parallelism=1))
    play.propose(1)
    kept = make.make_ref("as far as it came", "checkpoints")
    play.do("s-t1-train", released=dispatch_pb.AttemptReleased(checkpoint=kept))
    assert play.state.tasks["s-t1-train"].checkpoint == kept
    play.do("s-t1-train", released=dispatch_pb.AttemptReleased())
    assert play.state.tasks["s-t1-train"].checkpoint == kept, "a release without one takes nothing away"


def test_proposals_when_recorded_then_what_the_generator_calls_them_is_kept() -> None:
    play = Play(spec(max_trials=2, parallelism=2))
    result = dispatch_pb.GenerateResult(state=b"1")
    for name in ("first", "second"):
        result.trials.add(network=make.make_network(name), proposal_id=f"my-{name}")
    play.do("s-g1", generate=result)
    assert [trial.proposal_id for trial in play.run.trials] == ["my-first", "my-second"]
    assert {trial.network.name for trial in play.run.trials} == set(play.state.networks)
    assert len({trial.train.seed for trial in play.run.trials}) == 2


def test_network_when_enqueued_then_its_choices_are_kept() -> None:
    play = Play(spec(max_trials=3, parallelism=1))
    proposal = generate_service_pb2.Proposal(note="mine")
    proposal.choices.values["network"] = "wide"
    play.tell(TrialEnqueued("s", proposal))
    (trial,) = play.run.trials
    assert trial.choices == proposal.choices
    assert (trial.note, trial.enqueued) == ("mine", True)


def test_search_when_it_may_do_more_at_once_then_its_generator_is_asked_at_once() -> None:
    play = Play(spec(max_trials=6, parallelism=1))
    play.propose(1)
    assert play.run.generate_task == ""
    wider = spec(max_trials=6, parallelism=3)
    play.tell(SearchUpdated("s", wider))
    assert play.run.generate_task == "s-g2"
    assert play.state.tasks["s-g2"].ask is not None
    assert (play.run.overdrawn_trials, play.run.overdrawn_iterations) == (0, 0)
    wider.budget.max_iterations = 9
    play.tell(SearchUpdated("s", wider))
    assert (play.run.overdrawn_trials, play.run.overdrawn_iterations) == (0, 0)


def test_final_when_its_network_is_refused_then_the_search_fails_and_says_why() -> None:
    play = Play(spec(max_trials=1, parallelism=1, final=True))
    play.propose(1)
    play.score(1, 0.5)
    result = dispatch_pb.GenerateResult()
    result.trials.add(refusal=pb.Failure(reason="TOO_LARGE", message="too large when enlarged"))
    play.do("s-final", generate=result)
    assert play.run.state is SearchState.FAILED
    assert "too large when enlarged" in play.run.reason


def test_generator_when_work_in_hand_leaves_room_in_the_budget_then_asked_for_the_rest() -> None:
    play = Play(spec(max_trials=4, parallelism=3))
    play.propose(2, next_call=generate_service_pb2.NextCall(in_flight_below=3))
    assert play.run.generate_task == "s-g2", "two are in work, two more are in the budget, one fits beside them"
    assert play.state.tasks["s-g2"].ask is not None
    assert play.state.tasks["s-g2"].ask.count == 1


def test_budget_when_lowered_below_what_there_is_then_the_rest_is_noted_and_watchers_are_told() -> None:
    play = Play(spec(max_trials=6, parallelism=1))
    for call in (1, 2, 3):
        play.propose(1, call=call)
        if call < 3:
            play.score(call, 0.5)
    lower = spec(max_trials=1, parallelism=1)
    lower.budget.max_iterations = 1
    effects = play.tell(SearchUpdated("s", lower))
    assert (play.run.overdrawn_trials, play.run.overdrawn_iterations) == (2, 2)
    assert [effect.trial for effect in effects if isinstance(effect, Changed)] == [0]
    endless = spec(max_trials=0, parallelism=1)
    endless.budget.max_wall_time_s = 60
    play.tell(SearchUpdated("s", endless))
    assert (play.run.overdrawn_trials, play.run.overdrawn_iterations) == (0, 0)
