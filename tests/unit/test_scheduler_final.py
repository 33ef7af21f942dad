"""The final phase: which networks enter it, and what becomes of the search."""

import pytest

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
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
