"""Trainings that need more memory than where they ran, in the pure machine: moved, or outside a bound with numbers."""

import pytest

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler import invariants
from scheduler.domain import State, Task, TaskState
from scheduler.early_stopping import stopping_faults
from scheduler.effects import IllegalTransitionError, Queued
from scheduler.facts import AttemptLeased, AttemptLost, Event, NeedUnmet
from scheduler.journal import codec
from scheduler.journal.records import task_of, task_record
from scheduler.wishes import SearchPaused, SearchResumed
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, failure, spec

GIB = 2**30
TASK = "s-t1-train"


def too_large(needed: int = 3 * GIB, *, given: int = GIB) -> pb.ConstraintViolation:
    return make.make_infeasible(dispatch_pb.Lease(), given=given, needed=needed).infeasible


def refused(trials: int = 2, **more: object) -> Play:
    """Return a search whose first training did not fit where it ran."""
    play = Play(spec(max_trials=4, parallelism=trials))
    play.propose(trials)
    play.do(TASK, infeasible=too_large(**more))  # type: ignore[arg-type]
    return play


def task_in(play: Play) -> Task:
    return play.state.tasks[TASK]


def test_training_when_it_says_what_it_needs_then_queued_again_at_once_and_not_counted() -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    play.propose(2)
    effects = play.do(TASK, infeasible=too_large())
    task, trial = task_in(play), play.run.trials[0]
    assert (task.state, task.need_bytes, task.counted, task.losses) == (TaskState.QUEUED, 3 * GIB, 0, 0)
    assert (task.attempts[0].ended, task.attempts[0].digest, task.attempts[0].failure) == (True, b"digest", None)
    assert (trial.phase, trial.outcome) == (pb.TRIAL_PHASE_TRAIN_QUEUED, 0)
    assert not trial.HasField("violation")
    assert [effect for effect in effects if isinstance(effect, Queued)] == [Queued(TASK, 0)]
    play.score(1, 0.5)
    assert trial.outcome == play.run.trials[0].outcome == pb.TRIAL_OUTCOME_SUCCEEDED


def test_need_when_nobody_meets_it_then_infeasible_with_both_numbers_and_the_search_goes_on() -> None:
    play = refused()
    play.tell(NeedUnmet(TASK, 2 * GIB))
    trial, violation = play.run.trials[0], play.run.trials[0].violation
    assert trial.outcome == pb.TRIAL_OUTCOME_INFEASIBLE
    assert (violation.constraint.metric, violation.constraint.max) == ("train_memory_bytes", 2 * GIB)
    assert (violation.value, violation.needed_memory_bytes) == (3 * GIB, 3 * GIB)
    assert not trial.HasField("failure")
    assert play.run.results == [1]
    play.score(2, 0.5)
    assert play.run.generate_task == "s-g2"


def test_need_when_its_second_attempt_was_lost_then_still_judged_without_it() -> None:
    play = refused()
    play.tell(AttemptLeased(TASK, "agents/b"))
    play.tell(AttemptLost(TASK, 2, failure()))
    play.tell(NeedUnmet(TASK, GIB))
    assert play.run.trials[0].outcome == pb.TRIAL_OUTCOME_INFEASIBLE


def test_need_when_a_larger_device_is_too_small_as_well_then_it_grows() -> None:
    play = refused()
    play.do(TASK, infeasible=too_large(5 * GIB, given=4 * GIB))
    assert (task_in(play).need_bytes, task_in(play).state) == (5 * GIB, TaskState.QUEUED)


@pytest.mark.parametrize("needed", [0, GIB, 3 * GIB])
def test_need_when_an_outcome_says_no_more_than_was_known_then_no_other_attempt_is_made(needed: int) -> None:
    play = refused()
    play.do(TASK, infeasible=too_large(needed))
    assert play.run.trials[0].outcome == pb.TRIAL_OUTCOME_INFEASIBLE
    assert task_in(play).state is TaskState.SUCCEEDED


def test_scoring_when_it_does_not_fit_then_infeasible_at_once_whatever_it_needs() -> None:
    play = Play(spec(max_trials=4, parallelism=1))
    play.propose(1)
    play.do(TASK, train=make.train_result(dispatch_pb.Lease(trial="searches/s/trials/1")))
    play.do("s-t1-evaluate", infeasible=too_large())
    assert play.run.trials[0].outcome == pb.TRIAL_OUTCOME_INFEASIBLE


def test_gang_when_its_training_does_not_fit_then_infeasible_at_once_whatever_it_needs() -> None:
    wanted = spec(max_trials=4, parallelism=1)
    wanted.train.distribution.processes, wanted.train.distribution.across_hosts = 2, True
    wanted.train.batch_size = 12
    play = Play(wanted)
    result = dispatch_pb.GenerateResult(state=b"1")
    result.trials.add(network=make.make_network("one"), train=wanted.train)
    play.do("s-g1", generate=result)
    play.tell(AttemptLeased(TASK, "agents/a", ("agents/b",)))
    play.report(TASK, infeasible=too_large())
    assert play.run.trials[0].outcome == pb.TRIAL_OUTCOME_INFEASIBLE
    assert task_in(play).need_bytes == 0


@pytest.mark.parametrize("largest", [3 * GIB, 4 * GIB, -1])
def test_need_when_somebody_meets_it_then_the_fact_contradicts_the_state(largest: int) -> None:
    play = refused()
    with pytest.raises(IllegalTransitionError, match="are given"):
        play.tell(NeedUnmet(TASK, largest))


def test_need_when_the_task_is_at_work_or_has_none_then_the_fact_contradicts_the_state() -> None:
    play = refused()
    with pytest.raises(IllegalTransitionError, match="are given"):
        play.tell(NeedUnmet("s-t2-train", 0))
    play = refused()
    play.tell(AttemptLeased(TASK, "agents/b"))
    with pytest.raises(IllegalTransitionError, match="are given"):
        play.tell(NeedUnmet(TASK, GIB))


def test_search_when_paused_meanwhile_then_the_training_waits_with_its_need() -> None:
    play = Play(spec(max_trials=4, parallelism=2))
    play.propose(2)
    play.tell(AttemptLeased(TASK, "agents/a"))
    play.tell(SearchPaused("s"))
    play.report(TASK, infeasible=too_large())
    assert task_in(play).need_bytes == 3 * GIB
    play.tell(SearchResumed("s"))
    play.score(1, 0.5)


def test_last_trial_when_nobody_meets_its_need_then_the_search_ends() -> None:
    play = Play(spec(max_trials=1, parallelism=1))
    play.propose(1)
    play.do(TASK, infeasible=too_large())
    play.tell(NeedUnmet(TASK, 0))
    assert play.run.end_time_us


def test_training_when_it_goes_on_after_a_rung_then_it_needs_what_it_needed_before() -> None:
    wanted = spec(max_trials=9, parallelism=3)
    wanted.train.steps = 90
    wanted.early_stopping.asynchronous_halving.SetInParent()
    assert list(stopping_faults(wanted, 1000)) == []
    play = Play(wanted)
    result = dispatch_pb.GenerateResult(state=b"1")
    for index in range(3):
        result.trials.add(network=make.make_network(f"{index}"), train=wanted.train)
    play.do("s-g1", generate=result)
    play.do("s-t3-train", infeasible=too_large())
    for number in (1, 2, 3):
        trial = play.run.trials[number - 1]
        lease = dispatch_pb.Lease(trial=trial.name)
        trained = make.train_result(lease)
        trained.steps = play.run.ladder.until_step(trial)
        play.do(f"s-t{number}-train", train=trained)
        lease.evaluate.config.CopyFrom(trial.evaluate)
        play.do(f"s-t{number}-evaluate", evaluate=make.evaluate_result(lease, number / 10))
    assert play.state.tasks["s-t3-train-r1"].need_bytes == 3 * GIB


def test_fact_and_row_when_written_and_read_then_the_same() -> None:
    event = Event(7, 1.5, NeedUnmet(TASK, 2 * GIB))
    assert codec.decode_event(1, codec.encode_event(event)) == event
    task = task_in(refused())
    assert task_of(task_record(task)) == task


def _of_a_scoring(state: State) -> None:
    state.tasks["s-g1"].need_bytes = 1


def _below_nothing(state: State) -> None:
    state.tasks[TASK].need_bytes = -1


@pytest.mark.parametrize("spoil", [_of_a_scoring, _below_nothing])
def test_invariants_when_a_task_needs_what_none_can_then_noticed(spoil) -> None:  # type: ignore[no-untyped-def]
    play = refused()
    spoil(play.state)
    with pytest.raises(invariants.InvariantError, match="of a device"):
        invariants.check(play.state)


def test_invariants_when_a_cancelled_training_was_no_misfit_then_its_trial_may_not_be_infeasible() -> None:
    play = refused()
    play.tell(NeedUnmet(TASK, GIB))
    play.state.tasks[TASK].need_bytes += 1
    with pytest.raises(invariants.InvariantError, match="has outcome"):
        invariants.check(play.state)
