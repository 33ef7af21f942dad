"""Trials that wait for an equal one that is being measured: what they get, and what lets them go."""

from collections.abc import Callable

import pytest

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import generate_service_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler import invariants
from scheduler.domain import SearchRun, SearchState, State, TaskState
from scheduler.facts import AttemptLeased, AttemptLost, SearchCancelled, SearchCreated
from scheduler.journal import codec
from scheduler.machine.tasks import LOSSES
from scheduler.wishes import SearchDeleted, SearchPaused, SearchResumed, SearchUpdated, TrialEnqueued
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, failure, spec

QUEUED, WAITS = pb.TRIAL_PHASE_TRAIN_QUEUED, pb.TRIAL_PHASE_AWAITS_EQUAL
SUCCEEDED, STOPPED = pb.TRIAL_OUTCOME_SUCCEEDED, pb.TRIAL_OUTCOME_STOPPED


def same(*, cache: pb.CacheMode.ValueType = pb.CACHE_MODE_REUSE, priority: int = 0, **more: object) -> pb.SearchSpec:
    result = spec(max_trials=1, **more)
    result.train.seed, result.cache, result.priority = 5, cache, priority
    return result


def begin(play: Play, search: str, wanted: pb.SearchSpec | None = None, network: str = "net") -> pb.Trial:
    """Create a search and have its generator propose the network; returns its trial."""
    play.tell(SearchCreated(search, wanted or same()))
    run = play.state.searches[search]
    proposed = dispatch_pb.ProposedTrial(network=make.make_network(network), train=run.spec.train)
    play.do(f"{search}-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
    return run.trials[0]


def together(*searches: str) -> tuple[Play, list[pb.Trial]]:
    """Return searches with one equal trial each, all begun before any is measured."""
    play = Play()
    return play, [begin(play, search) for search in searches]


def finish(play: Play, search: str, accuracy: float = 0.75) -> None:
    """Train and score the trial of a search."""
    lease = dispatch_pb.Lease(trial=f"searches/{search}/trials/1")
    play.do(f"{search}-t1-train", train=make.train_result(lease))
    lease.evaluate.config.CopyFrom(play.state.searches[search].trials[0].evaluate)
    play.do(f"{search}-t1-evaluate", evaluate=make.evaluate_result(lease, accuracy))


def run_of(play: Play, search: str) -> SearchRun:
    return play.state.searches[search]


def kept(state: State) -> State:
    """Return what the rows of a snapshot give."""
    rows = [(key, body) for key in {*state.dirty, "state"} if (body := codec.encode_row(state, key))]
    return codec.decode_rows(rows)


def test_equal_trials_when_begun_together_then_one_is_trained_and_all_end_with_what_it_measured() -> None:
    play, (first, *others) = together("s", "t", "u")
    assert [trial.phase for trial in (first, *others)] == [QUEUED, WAITS, WAITS]
    assert [task.id for task in play.state.tasks.values() if task.state is TaskState.QUEUED] == ["s-t1-train"]
    assert [run_of(play, search).active for search in "stu"] == [1, 1, 1]
    finish(play, "s")
    for search, trial in zip("tu", others, strict=True):
        run = run_of(play, search)
        assert (trial.outcome, trial.reused_from, trial.phase) == (SUCCEEDED, "searches/s/trials/1", 0)
        assert list(trial.measurements) == list(first.measurements)
        assert (trial.device_time_s, trial.device_time_saved_s) == (0.0, first.device_time_s)
        assert (run.device_time_saved_s, run.device_time_s) == (first.device_time_s, 0.0)
        assert (run.state, run.leaders, run.reused) == (SearchState.SUCCEEDED, [(-0.75, 1)], {"s": None})
    assert (play.state.measuring, play.state.waiting) == ({}, {})
    assert begin(play, "v").reused_from == "searches/s/trials/1"


def test_equal_trials_of_one_search_when_proposed_together_then_one_waits_and_the_generator_gets_both() -> None:
    play = Play()
    wanted = same(parallelism=2)
    wanted.budget.max_trials = 2
    play.tell(SearchCreated("s", wanted))
    proposed = dispatch_pb.ProposedTrial(network=make.make_network("net"), train=wanted.train)
    play.do("s-g1", generate=dispatch_pb.GenerateResult(trials=[proposed, proposed]))
    assert [trial.phase for trial in play.run.trials] == [QUEUED, WAITS]
    play.score(1, 0.5)
    assert (play.run.results, play.run.state, play.run.reused) == ([1, 2], SearchState.SUCCEEDED, {})


def fails(play: Play) -> None:
    play.do("s-t1-train", failure=failure(retryable=False, counted=False))


def is_quarantined(play: Play) -> None:
    for _ in range(3):
        play.do("s-t1-train", failure=failure())


def is_lost(play: Play) -> None:
    for number in range(1, LOSSES + 1):
        play.tell(AttemptLeased("s-t1-train", "agents/a"))
        play.tell(AttemptLost("s-t1-train", number, failure(counted=False)))


def is_cancelled(play: Play) -> None:
    play.tell(SearchCancelled("s"))


def fails_to_be_scored(play: Play) -> None:
    play.do("s-t1-train", train=make.train_result(dispatch_pb.Lease(trial="searches/s/trials/1")))
    play.do("s-t1-evaluate", failure=failure(retryable=False, counted=False))


@pytest.mark.parametrize("end", [fails, is_quarantined, is_lost, is_cancelled, fails_to_be_scored])
def test_first_when_it_ends_without_measurements_then_the_next_is_trained_and_the_others_wait_for_it(
    end: Callable[[Play], None],
) -> None:
    play, (first, second, third) = together("s", "t", "u")
    end(play)
    assert first.outcome not in (0, SUCCEEDED)
    assert [trial.phase for trial in (second, third)] == [QUEUED, WAITS]
    finish(play, "t")
    assert (second.outcome, second.reused_from) == (SUCCEEDED, "")
    assert (third.outcome, third.reused_from) == (SUCCEEDED, "searches/t/trials/1")


def test_first_when_outside_its_searchs_constraint_then_what_it_measured_counts_for_the_others() -> None:
    play, strict = Play(), same()
    strict.constraints.add(metric="accuracy", min=0.9)
    first, second = begin(play, "s", strict), begin(play, "t")
    finish(play, "s")
    assert (first.outcome, second.outcome) == (pb.TRIAL_OUTCOME_INFEASIBLE, SUCCEEDED)
    assert second.reused_from == "searches/s/trials/1"


def test_objective_when_the_first_does_not_measure_it_then_the_others_are_trained_at_once() -> None:
    play, other = Play(), same()
    other.objectives[0].metric = "latency_p50"
    begin(play, "s")
    waiters = [begin(play, search, other) for search in "tu"]
    assert [trial.phase for trial in waiters] == [WAITS, WAITS]
    finish(play, "s")
    assert [trial.phase for trial in waiters] == [QUEUED, QUEUED]


def test_search_of_the_first_when_held_then_another_is_trained_and_whoever_ends_first_serves_all() -> None:
    play, (first, second, third) = together("s", "t", "u")
    play.tell(AttemptLeased("s-t1-train", "agents/a"))
    play.tell(SearchPaused("s"))
    assert [trial.phase for trial in (first, second, third)] == [pb.TRIAL_PHASE_TRAINING, QUEUED, WAITS]
    play.tell(SearchResumed("s"))
    play.report("s-t1-train", train=make.train_result(dispatch_pb.Lease(trial=first.name)))
    lease = dispatch_pb.Lease(trial=first.name)
    lease.evaluate.config.CopyFrom(first.evaluate)
    play.do("s-t1-evaluate", evaluate=make.evaluate_result(lease, 0.5))
    assert (third.outcome, third.reused_from) == (SUCCEEDED, "searches/s/trials/1")
    finish(play, "t")
    assert (second.outcome, second.reused_from) == (SUCCEEDED, "")


def test_search_that_waits_when_held_then_it_ends_all_the_same() -> None:
    play, (_, second) = together("s", "t")
    play.tell(SearchPaused("t"))
    finish(play, "s")
    assert (second.outcome, run_of(play, "t").state) == (SUCCEEDED, SearchState.SUCCEEDED)


def test_both_when_held_then_the_one_that_goes_on_is_trained() -> None:
    play, (first, second) = together("s", "t")
    play.tell(SearchPaused("t"))
    play.tell(SearchPaused("s"))
    assert (first.phase, second.phase) == (QUEUED, WAITS)
    play.tell(SearchResumed("t"))
    assert (first.phase, second.phase) == (QUEUED, QUEUED)
    finish(play, "t")
    assert (first.outcome, run_of(play, "t").state) == (0, SearchState.SUCCEEDED)


def test_priority_when_higher_then_it_waits_for_none_below_and_those_below_wait_for_it() -> None:
    play = Play()
    low, high, lower = begin(play, "s"), begin(play, "t", same(priority=5)), begin(play, "u", same(priority=-5))
    assert [trial.phase for trial in (low, high, lower)] == [QUEUED, QUEUED, WAITS]
    assert list(play.state.measuring.values()) == [("t", 1)]
    finish(play, "t")
    assert (low.outcome, lower.reused_from) == (0, "searches/t/trials/1")


def test_priority_when_raised_above_the_first_then_trained_itself() -> None:
    play, (first, second, third) = together("s", "t", "u")
    play.tell(SearchUpdated("u", same(priority=1)))
    assert [trial.phase for trial in (first, second, third)] == [QUEUED, WAITS, QUEUED]
    finish(play, "u")
    assert second.reused_from == "searches/u/trials/1"


def test_search_that_waits_when_cancelled_then_stopped_and_the_first_goes_on() -> None:
    play, (first, second) = together("s", "t")
    play.tell(SearchCancelled("t"))
    assert (second.outcome, second.failure.reason, play.state.waiting) == (STOPPED, "SEARCH_CANCELLED", {})
    play.tell(SearchDeleted("t"))
    finish(play, "s")
    assert (first.outcome, run_of(play, "s").state) == (SUCCEEDED, SearchState.SUCCEEDED)


def test_search_when_first_and_waiting_are_both_its_own_then_cancelling_trains_neither() -> None:
    play, (first,) = together("s")
    enqueued = pb.SearchSpec()
    enqueued.CopyFrom(same())
    enqueued.budget.max_trials = 3
    play.tell(SearchUpdated("s", enqueued))
    play.tell(TrialEnqueued("s", generate_service_pb2.Proposal(train=enqueued.train)))
    admitted = dispatch_pb.ProposedTrial(network=make.make_network("net"))
    play.do("s-t2-admit", generate=dispatch_pb.GenerateResult(trials=[admitted]))
    assert play.run.trials[1].phase == WAITS
    play.tell(SearchCancelled("s"))
    assert [trial.outcome for trial in play.run.trials] == [STOPPED, STOPPED]
    assert first.reused_from == ""
    assert (play.state.measuring, play.state.waiting) == ({}, {})


def two_of_a_kind(play: Play, search: str, networks: tuple[str, str], *, target: float | None = None) -> list[pb.Trial]:
    """Create a search whose generator proposes two networks at once; returns its trials."""
    wanted = same(parallelism=2)
    wanted.budget.max_trials = 2
    if target is not None:
        wanted.budget.target = target
    play.tell(SearchCreated(search, wanted))
    proposed = [dispatch_pb.ProposedTrial(network=make.make_network(name), train=wanted.train) for name in networks]
    play.do(f"{search}-g1", generate=dispatch_pb.GenerateResult(trials=proposed))
    return list(run_of(play, search).trials)


def test_search_that_measures_two_when_cancelled_then_both_that_wait_are_trained() -> None:
    play = Play()
    two_of_a_kind(play, "s", ("a", "b"))
    waiters = two_of_a_kind(play, "t", ("a", "b"))
    assert [trial.phase for trial in waiters] == [WAITS, WAITS]
    play.tell(SearchCancelled("s"))
    assert [trial.phase for trial in waiters] == [QUEUED, QUEUED]


def test_target_when_reached_by_the_first_that_waited_then_the_second_is_stopped() -> None:
    play, _ = together("s")
    waiters = two_of_a_kind(play, "t", ("net", "net"), target=0.7)
    finish(play, "s")
    assert [trial.outcome for trial in waiters] == [SUCCEEDED, STOPPED]
    assert run_of(play, "t").state is SearchState.SUCCEEDED


def test_repetition_when_asked_for_then_it_waits_for_none_and_others_wait_for_it() -> None:
    play = Play()
    first, repeated = begin(play, "s"), begin(play, "t", same(cache=pb.CACHE_MODE_REPEAT))
    assert (first.phase, repeated.phase) == (QUEUED, QUEUED)
    again = Play()
    begin(again, "s", same(cache=pb.CACHE_MODE_REPEAT))
    assert begin(again, "t").phase == WAITS


def test_final_trials_when_another_search_is_training_the_same_then_they_wait_too() -> None:
    play = Play()
    for search in "st":
        begin(play, search, same(final=True))
    finish(play, "s")
    final = dispatch_pb.GenerateResult(trials=[dispatch_pb.ProposedTrial(network=make.make_network("big"))])
    for search in "st":
        play.do(f"{search}-final", generate=final)
    waiter = run_of(play, "t").trials[1]
    assert waiter.phase == WAITS
    play.score(2, 0.8)
    assert waiter.reused_from == "searches/s/trials/2"
    assert run_of(play, "t").state is SearchState.SUCCEEDED


def test_rows_when_read_back_then_who_waits_for_whom_is_the_same() -> None:
    play, _ = together("s", "t", "u")
    begin(play, "v", same(priority=3))
    assert play.state.waiting
    found = kept(play.state)
    assert found == play.state
    assert (found.measuring, found.waiting) == (play.state.measuring, play.state.waiting)


def nobody_measures(state: State) -> None:
    state.measuring.clear()
    state.searches["s"].digests.clear()


def index_astray(state: State) -> None:
    (digest,) = state.measuring
    state.measuring[digest] = ("t", 1)


def waits_for_another(state: State) -> None:
    (places,) = state.waiting.values()
    state.waiting[b"another"] = dict(places)
    state.waiting = {b"another": state.waiting[b"another"]}


def waits_in_no_index(state: State) -> None:
    state.waiting.clear()


def waits_for_the_held(state: State) -> None:
    state.searches["s"].paused = True


def waits_below(state: State) -> None:
    state.searches["t"].spec.priority = 9


def waits_for_the_idle(state: State) -> None:
    state.searches["s"].open_tasks.clear()


def waits_though_measured(state: State) -> None:
    (digest,) = state.measuring
    state.measured[digest] = ("s", 1)


def is_at_work_too(state: State) -> None:
    state.searches["t"].open_tasks["t-t1-train"] = None


def wants_repetition(state: State) -> None:
    state.searches["t"].spec.cache = pb.CACHE_MODE_REPEAT


@pytest.mark.parametrize(
    "spoil",
    [
        nobody_measures,
        index_astray,
        waits_for_another,
        waits_in_no_index,
        waits_for_the_held,
        waits_below,
        waits_for_the_idle,
        waits_though_measured,
        is_at_work_too,
        wants_repetition,
    ],
)
def test_wait_when_spoilt_then_an_invariant_says_so(spoil: Callable[[State], None]) -> None:
    play, _ = together("s", "t")
    invariants.check_waiting(play.state)
    spoil(play.state)
    with pytest.raises(invariants.InvariantError):
        invariants.check_waiting(play.state)
