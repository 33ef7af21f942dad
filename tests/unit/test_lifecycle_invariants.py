"""The invariants of holding, changing, deleting and reusing catch what breaks them."""

from collections.abc import Callable

import pytest

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler import invariants
from scheduler.domain import State, TaskState
from scheduler.effects import IllegalTransitionError
from scheduler.facts import AttemptLeased, SearchCreated
from scheduler.wishes import SearchPaused, SearchResumed, SearchUpdated
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec


def reused() -> Play:
    """Return a play in which search "t" took over what search "s" measured."""
    wanted = spec(max_trials=1)
    wanted.train.seed, wanted.cache = 5, pb.CACHE_MODE_REUSE
    play = Play(wanted)
    for search in ("s", "t"):
        if search == "t":
            play.tell(SearchCreated("t", wanted))
        proposed = dispatch_pb.ProposedTrial(network=make.make_network("net"), train=wanted.train)
        play.do(f"{search}-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
        if search == "s":
            play.score(1, 0.75)
    return play


def another_value(state: State) -> None:
    state.searches["t"].trials[0].measurements[0].value += 1


def another_model(state: State) -> None:
    state.searches["t"].trials[0].model.CopyFrom(make.make_ref("other", "checkpoints"))


def time_spent(state: State) -> None:
    state.searches["t"].trials[0].device_time_s = 1.0


def saved_elsewhere(state: State) -> None:
    state.searches["t"].device_time_saved_s += 1.0


def source_forgotten(state: State) -> None:
    state.searches["t"].reused.clear()


def index_astray(state: State) -> None:
    (digest,) = state.measured
    state.measured[digest] = ("t", 1)


def index_lost(state: State) -> None:
    state.measured.clear()


def paused_at_the_end(state: State) -> None:
    state.searches["t"].paused = True


def deleted_and_there(state: State) -> None:
    state.deleted["t"] = None


def overspent(state: State) -> None:
    run = state.searches["t"]
    run.spec.budget.max_trials, run.overdrawn_trials = 1, 0
    run.results.append(1)
    run.outcomes[pb.TRIAL_OUTCOME_SUCCEEDED] += 1


@pytest.mark.parametrize(
    "spoil",
    [
        another_value,
        another_model,
        time_spent,
        saved_elsewhere,
        source_forgotten,
        index_astray,
        index_lost,
        paused_at_the_end,
        deleted_and_there,
        overspent,
    ],
)
def test_state_when_spoilt_then_an_invariant_says_so(spoil: Callable[[State], None]) -> None:
    play = reused()
    invariants.check(play.state)
    spoil(play.state)
    with pytest.raises(invariants.InvariantError):
        invariants.check(play.state)


def test_lease_when_the_search_is_paused_then_illegal_and_seen_between_two_states() -> None:
    play = Play(spec(max_trials=1))
    play.tell(SearchPaused("s"))
    before = invariants.remember(play.state)
    with pytest.raises(IllegalTransitionError, match="paused"):
        play.tell(AttemptLeased("s-g1", "agents/a"))
    with pytest.raises(IllegalTransitionError, match="paused already"):
        play.tell(SearchPaused("s"))
    play.tell(SearchResumed("s"))
    play.tell(AttemptLeased("s-g1", "agents/a"))
    play.run.paused = True
    with pytest.raises(invariants.InvariantError, match="leased while its search is paused"):
        invariants.check_step(before, 1, play.state)


def test_task_when_it_vanishes_without_its_search_being_deleted_then_seen() -> None:
    play = Play(spec(max_trials=1))
    before = invariants.remember(play.state)
    play.state.tasks.drop("s")
    with pytest.raises(invariants.InvariantError, match="is gone"):
        invariants.check_step(before, 1, play.state)


def test_budget_when_lowered_then_only_what_was_there_may_be_beyond_it() -> None:
    play = Play(spec(max_trials=4, parallelism=4))
    play.propose(3)
    lower = spec(max_trials=1, parallelism=4)
    play.tell(SearchUpdated("s", lower))
    assert play.run.overdrawn_trials == 2
    for number in (1, 2, 3):
        play.score(number, 0.5)
    assert play.run.state.name == "SUCCEEDED"
    assert "max_trials reached: 3 of 1" in play.run.reason
    play.run.overdrawn_trials = 1
    with pytest.raises(invariants.InvariantError, match="I6"):
        invariants.check(play.state)
    assert all(task.state is not TaskState.QUEUED for task in play.state.tasks.values())
