"""The rules as a pure machine: facts in, effects out."""

import pytest

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler import invariants, lease_invariants
from scheduler.domain import SearchState, TaskState
from scheduler.effects import Closed, Granted, IllegalTransitionError, Queued, Revoked
from scheduler.facts import (
    AttemptLeased,
    AttemptLost,
    Booted,
    CheckpointReported,
    Event,
    SearchCancelled,
    SearchCreated,
)
from scheduler.machine import apply
from scheduler.machine.tasks import LOSSES, TRANSITIONS, Trigger
from tests.builders import scheduling as make
from tests.builders.scheduler_play import (
    Play,
    failure,
    spec,
    spoil_counts,
    spoil_end,
    spoil_epoch,
    spoil_idle,
    spoil_open_attempt,
    spoil_parent,
    spoil_quarantine,
    spoil_two_outcomes,
)


def test_search_when_created_then_one_generate_task_waits() -> None:
    play = Play()
    effects = play.tell(SearchCreated("s", spec()))
    assert [effect for effect in effects if isinstance(effect, Queued)] == [Queued("s-g1", 0)]
    with pytest.raises(IllegalTransitionError, match="exists"):
        play.tell(SearchCreated("s", spec()))


def test_proposals_when_recorded_then_train_tasks_in_order_and_no_second_call() -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    effects = play.propose(2)
    assert [e.task for e in effects if isinstance(e, Queued)] == ["s-t1-train", "s-t2-train"]
    assert play.run.generate_task == ""
    assert play.run.iterations == 1


def test_next_call_when_nothing_is_wished_then_after_all_results() -> None:
    play = Play(spec(max_trials=8, parallelism=2))
    play.propose(2)
    play.score(1, 0.5)
    assert play.run.generate_task == ""
    play.score(2, 0.6)
    task = play.state.tasks["s-g2"]
    assert task.ask is not None
    assert (task.ask.results_from, task.ask.results_to, task.ask.count, task.ask.in_flight) == (0, 2, 2, 0)


def test_next_call_when_wished_after_results_or_below_in_flight_then_so() -> None:
    play = Play(spec(max_trials=8, parallelism=3))
    play.propose(3, next_call={"after_results": 1})
    play.score(2, 0.5)
    task = play.state.tasks["s-g2"]
    assert task.ask is not None
    assert (task.ask.results_to, task.ask.count, task.ask.in_flight) == (1, 1, 2)
    play.propose(1, call=2, next_call={"in_flight_below": 2})
    play.score(1, 0.5)
    assert play.run.generate_task == ""
    play.score(3, 0.5)
    assert play.run.generate_task == "s-g3"
    asked = play.state.tasks["s-g3"].ask
    assert asked is not None
    assert (asked.results_from, asked.results_to) == (1, 3)


def test_results_when_the_generate_attempt_fails_then_asked_again_with_the_same() -> None:
    play = Play(spec(max_trials=8, parallelism=1))
    play.propose(1)
    play.score(1, 0.5)
    before = play.state.tasks["s-g2"].ask
    effects = play.do("s-g2", failure=failure())
    assert Queued("s-g2", 1) in effects
    assert play.state.tasks["s-g2"].ask == before
    assert play.run.cursor == 0
    play.propose(1, call=2)
    assert play.run.cursor == 1


def test_generator_when_it_answers_nothing_three_times_then_the_search_ends() -> None:
    play = Play(spec())
    for call in (1, 2, 3):
        play.propose(0, call=call)
    assert play.run.state is SearchState.FAILED
    assert "proposed nothing in 3 calls" in play.run.reason


def test_generator_when_done_then_work_in_flight_ends_first() -> None:
    play = Play(spec(max_trials=8, parallelism=2))
    play.propose(2, done=True, note="converged")
    play.score(1, 0.5)
    assert play.run.state is SearchState.RUNNING
    play.score(2, 0.7)
    assert play.run.state is SearchState.SUCCEEDED
    assert play.run.reason == "the generator finished: converged; best is trial 2 with accuracy 0.7"


def test_budget_when_iterations_are_used_then_no_further_call() -> None:
    asked = spec(max_trials=0, parallelism=1)
    asked.budget.max_iterations = 1
    play = Play(asked)
    play.propose(1)
    play.score(1, 0.5)
    assert play.run.state is SearchState.SUCCEEDED
    assert "max_iterations" in play.run.reason


def test_budget_when_target_is_reached_then_work_in_hand_is_stopped() -> None:
    asked = spec(max_trials=8, parallelism=2)
    asked.budget.target = 0.9
    play = Play(asked)
    play.propose(2)
    play.tell(AttemptLeased("s-t2-train", "agents/b"))
    effects = play.score(1, 0.95)
    assert [e.agent for e in effects if isinstance(e, Revoked)] == ["agents/b"]
    assert play.run.trials[1].outcome == pb.TRIAL_OUTCOME_STOPPED
    assert play.run.state is SearchState.SUCCEEDED
    assert "target reached" in play.run.reason


def test_budget_when_device_time_is_used_then_the_phase_ends() -> None:
    asked = spec(max_trials=8, parallelism=2)
    asked.budget.max_device_time_s = 1.0
    play = Play(asked)
    play.propose(2)
    play.score(1, 0.5)
    assert play.run.state is SearchState.SUCCEEDED
    assert "max_device_time_s" in play.run.reason


def test_task_when_three_counted_attempts_fail_then_quarantined_with_three_reasons() -> None:
    play = Play(spec(max_trials=1, parallelism=1))
    play.propose(1)
    for attempt in (1, 2, 3):
        play.tell(AttemptLeased("s-t1-train", "agents/a"))
        effects = play.tell(AttemptLost("s-t1-train", attempt, failure()))
        assert Closed("s-t1-train", attempt, ("agents/a",)) in effects
    assert play.state.tasks["s-t1-train"].state is TaskState.QUARANTINED
    trial = play.run.trials[0]
    assert trial.outcome == pb.TRIAL_OUTCOME_FAILED
    assert trial.failure.message.count("CHILD_CRASHED") == 3
    assert play.run.state is SearchState.FAILED


def test_task_when_only_lost_then_given_up_as_lost_in_the_end() -> None:
    play = Play(spec(max_trials=1, parallelism=1))
    play.propose(1)
    for attempt in range(1, LOSSES + 1):
        play.tell(AttemptLeased("s-t1-train", "agents/a"))
        play.tell(AttemptLost("s-t1-train", attempt, failure(counted=False)))
    assert play.state.tasks["s-t1-train"].counted == 0
    assert play.run.trials[0].outcome == pb.TRIAL_OUTCOME_LOST


def test_task_when_a_failure_cannot_be_mended_then_failed_at_once() -> None:
    play = Play(spec(max_trials=1, parallelism=1))
    play.propose(1)
    play.do("s-t1-train", failure=failure(retryable=False))
    assert play.state.tasks["s-t1-train"].state is TaskState.FAILED


def test_trial_when_measured_outside_a_constraint_then_infeasible_not_failed() -> None:
    asked = spec(max_trials=1, parallelism=1)
    asked.constraints.add(metric="accuracy", min=0.6)
    play = Play(asked)
    play.propose(1)
    play.score(1, 0.5)
    trial = play.run.trials[0]
    assert trial.outcome == pb.TRIAL_OUTCOME_INFEASIBLE
    assert trial.violation.value == 0.5
    assert play.run.leaders == []


def test_inheritance_when_the_parent_is_trained_then_its_checkpoint_else_failed() -> None:
    play = Play(spec(max_trials=9, parallelism=1))
    play.propose(1)
    play.score(1, 0.5)
    good = {"network": make.make_network("child"), "inherit_from": "searches/s/trials/1"}
    play.do("s-g2", generate=dispatch_pb.GenerateResult(trials=[good]))
    assert play.run.trials[1].initial_weights == play.run.trials[0].checkpoint
    play.do("s-t2-train", failure=failure(retryable=False))
    bad = {"network": make.make_network("orphan"), "inherit_from": "searches/s/trials/2"}
    play.do("s-g3", generate=dispatch_pb.GenerateResult(trials=[bad]))
    assert play.run.trials[2].failure.reason == "INHERIT_UNTRAINED"


def test_cancel_when_work_runs_then_agents_are_told_and_results_stay() -> None:
    play = Play(spec(max_trials=8, parallelism=2))
    play.propose(2)
    play.score(1, 0.5)
    play.tell(AttemptLeased("s-t2-train", "agents/b"))
    effects = play.tell(SearchCancelled("s"))
    assert Revoked("s-t2-train", 1, 1, "agents/b", "cancelled by request") in effects
    assert play.run.state is SearchState.CANCELLED
    assert play.run.trials[0].outcome == pb.TRIAL_OUTCOME_SUCCEEDED
    with pytest.raises(IllegalTransitionError, match="not open"):
        play.tell(SearchCancelled("s"))


def test_lease_when_granted_then_numbered_and_fenced_by_epoch() -> None:
    play = Play(spec())
    effects = play.tell(AttemptLeased("s-g1", "agents/a"))
    assert Granted("s-g1") in effects
    play.tell(Booted(2))
    play.tell(AttemptLost("s-g1", 1, failure()))
    play.tell(AttemptLeased("s-g1", "agents/b"))
    attempt = play.state.tasks["s-g1"].current()
    assert (attempt.number, attempt.epoch, attempt.agent) == (2, 2, "agents/b")


def test_checkpoint_when_reported_then_kept_for_the_next_attempt() -> None:
    play = Play(spec())
    play.propose(1)
    play.tell(AttemptLeased("s-t1-train", "agents/a"))
    ref = make.make_ref("half", "checkpoints")
    play.tell(CheckpointReported("s-t1-train", 1, ref))
    play.tell(AttemptLost("s-t1-train", 1, failure()))
    assert play.state.tasks["s-t1-train"].checkpoint == ref


def test_every_pair_when_not_in_the_table_then_illegal_with_the_story() -> None:
    legal = set(TRANSITIONS)
    changes = {
        Trigger.LEASE: AttemptLeased("s-g1", "agents/a"),
        Trigger.RETRY: AttemptLost("s-g1", 1, failure()),
    }
    for state in TaskState:
        for trigger, change in changes.items():
            play = Play(spec())
            task = play.state.tasks["s-g1"]
            if state is not TaskState.QUEUED:
                play.tell(AttemptLeased("s-g1", "agents/z"))
            task.state = state
            if (state, trigger) in legal:
                continue
            with pytest.raises(IllegalTransitionError, match="s-g1"):
                apply(play.state, Event(99, 0.0, change))


def test_epoch_when_it_does_not_grow_then_illegal() -> None:
    with pytest.raises(IllegalTransitionError, match="epoch"):
        Play().tell(Booted(1))


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_two_outcomes,
        spoil_open_attempt,
        spoil_counts,
        spoil_quarantine,
        spoil_epoch,
        spoil_parent,
        spoil_end,
        spoil_idle,
    ],
)
def test_invariants_when_a_violation_is_planted_then_found(spoil) -> None:  # type: ignore[no-untyped-def]
    play = Play(spec(max_trials=4, parallelism=1))
    play.propose(1)
    play.tell(AttemptLeased("s-t1-train", "agents/a"))
    invariants.check(play.state)
    spoil(play.state)
    with pytest.raises(invariants.InvariantError):
        invariants.check(play.state)


def test_lease_invariants_when_broken_then_found() -> None:
    play = Play(spec())
    play.tell(AttemptLeased("s-g1", "agents/a"))
    task = play.state.tasks["s-g1"]
    held = {("s-g1", "agents/a"): 1}
    lease_invariants.check_leases([task], held, {("agents/a", task.kind): 1})
    with pytest.raises(invariants.InvariantError, match="I7"):
        lease_invariants.check_leases([task], {}, {})
    with pytest.raises(invariants.InvariantError, match="I8"):
        lease_invariants.check_leases([task], held, {("agents/a", task.kind): 0})
