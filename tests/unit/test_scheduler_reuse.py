"""Taking measurements over: what must be equal, what is booked, what stays apart."""

from collections.abc import Callable

import pytest

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import MEASURED_CHUNK, SearchRun, SearchState
from scheduler.effects import IllegalTransitionError
from scheduler.facts import SearchCreated
from scheduler.journal import codec
from scheduler.machine import reuse
from scheduler.wishes import SearchDeleted
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec

SUCCEEDED = pb.TRIAL_OUTCOME_SUCCEEDED


def same(**more: object) -> pb.SearchSpec:
    result = spec(**more)
    result.train.seed = 5
    result.cache = pb.CACHE_MODE_REUSE
    return result


def propose(play: Play, search: str, network: str = "net", *, call: int = 1, **more: object) -> pb.Trial:
    proposed = dispatch_pb.ProposedTrial(network=make.make_network(network), **more)  # type: ignore[arg-type]
    proposed.train.CopyFrom(play.state.searches[search].spec.train)
    play.do(f"{search}-g{call}", generate=dispatch_pb.GenerateResult(trials=[proposed]))
    run = play.state.searches[search]
    return run.trials[len(run.trials) - 1]


def measured(play: Play) -> None:
    """Have the one trial of search "s" measured."""
    propose(play, "s")
    play.score(1, 0.75)


def test_equal_trial_when_measured_before_then_it_succeeds_at_once_and_costs_nothing() -> None:
    play = Play(same(max_trials=1))
    measured(play)
    source = play.run.trials[0]
    source.steps = 7
    play.tell(SearchCreated("t", same(max_trials=1)))
    trial = propose(play, "t")
    run = play.state.searches["t"]
    assert (trial.outcome, trial.reused_from) == (SUCCEEDED, "searches/s/trials/1")
    assert list(trial.measurements) == list(source.measurements)
    assert (trial.checkpoint, trial.model) == (source.checkpoint, source.model)
    assert trial.steps == 7
    assert (trial.device_time_s, trial.device_time_saved_s) == (0.0, source.device_time_s)
    assert (run.device_time_s, run.device_time_saved_s) == (0.0, source.device_time_s)
    assert run.state is SearchState.SUCCEEDED
    assert run.leaders == [(-0.75, 1)]
    assert run.reused == {"s": None}
    assert not [task for task in play.state.tasks.values() if task.id.startswith("t-t1")]


def other_seed(wanted: pb.SearchSpec, _: dispatch_pb.ProposedTrial) -> None:
    wanted.train.seed = 6


def other_steps(wanted: pb.SearchSpec, _: dispatch_pb.ProposedTrial) -> None:
    wanted.train.steps = 11


def other_data(wanted: pb.SearchSpec, _: dispatch_pb.ProposedTrial) -> None:
    wanted.data.dataset = "datasets/fashion-mnist"


def other_scoring(wanted: pb.SearchSpec, _: dispatch_pb.ProposedTrial) -> None:
    wanted.evaluate.threads = 3


def other_network(_: pb.SearchSpec, proposed: dispatch_pb.ProposedTrial) -> None:
    proposed.network.CopyFrom(make.make_network("another"))


def statistics(_: pb.SearchSpec, proposed: dispatch_pb.ProposedTrial) -> None:
    proposed.instrumentation.probes.add()


def repetition(wanted: pb.SearchSpec, _: dispatch_pb.ProposedTrial) -> None:
    wanted.cache = pb.CACHE_MODE_REPEAT


def other_objective(wanted: pb.SearchSpec, _: dispatch_pb.ProposedTrial) -> None:
    wanted.objectives[0].metric = "latency_p50"


@pytest.mark.parametrize(
    "change",
    [
        other_seed,
        other_steps,
        other_data,
        other_scoring,
        other_network,
        statistics,
        repetition,
        other_objective,
    ],
)
def test_trial_when_anything_that_decides_differs_then_trained(
    change: Callable[[pb.SearchSpec, dispatch_pb.ProposedTrial], None],
) -> None:
    play = Play(same(max_trials=1))
    measured(play)
    wanted, proposed = same(max_trials=1), dispatch_pb.ProposedTrial(network=make.make_network("net"))
    change(wanted, proposed)
    proposed.train.CopyFrom(wanted.train)
    play.tell(SearchCreated("t", wanted))
    play.do("t-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
    trial = play.state.searches["t"].trials[0]
    assert (trial.reused_from, trial.phase) == ("", pb.TRIAL_PHASE_TRAIN_QUEUED)


def test_network_when_only_its_names_differ_then_taken_over_unless_statistics_are_read() -> None:
    renamed = make.make_network("net")
    renamed.object.CopyFrom(make.make_ref("the same with other names"))
    for probes, expected in ((0, "searches/s/trials/1"), (1, "")):
        play = Play(same(max_trials=1))
        proposed = dispatch_pb.ProposedTrial(network=make.make_network("net"), train=same().train)
        for _ in range(probes):
            proposed.instrumentation.probes.add()
        play.do("s-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
        play.score(1, 0.5)
        play.tell(SearchCreated("t", same(max_trials=1)))
        proposed.network.CopyFrom(renamed)
        play.do("t-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
        assert play.state.searches["t"].trials[0].reused_from == expected


def test_constraint_when_the_reused_measurement_violates_it_then_infeasible() -> None:
    play = Play(same(max_trials=1))
    measured(play)
    strict = same(max_trials=1)
    strict.constraints.add(metric="accuracy", min=0.9)
    play.tell(SearchCreated("t", strict))
    trial = propose(play, "t")
    assert (trial.outcome, trial.violation.value) == (pb.TRIAL_OUTCOME_INFEASIBLE, 0.75)
    play.tell(SearchCreated("u", same(max_trials=1)))
    assert propose(play, "u").outcome == SUCCEEDED


def test_final_trials_when_measured_before_then_taken_over_too() -> None:
    play = Play(same(max_trials=1, final=True))
    measured(play)
    for search in ("s", "t"):
        if search == "t":
            play.tell(SearchCreated("t", same(max_trials=1, final=True)))
            propose(play, "t")
        final = dispatch_pb.GenerateResult(trials=[dispatch_pb.ProposedTrial(network=make.make_network("big"))])
        play.do(f"{search}-final", generate=final)
        if search == "s":
            play.score(2, 0.8)
    run = play.state.searches["t"]
    assert [trial.reused_from for trial in run.trials] == ["searches/s/trials/1", "searches/s/trials/2"]
    assert run.state is SearchState.SUCCEEDED
    assert (run.final_device_time_s, run.device_time_saved_s) == (0.0, 3.5)


def test_delete_when_others_took_over_then_refused_until_they_are_gone() -> None:
    play = Play(same(max_trials=1))
    measured(play)
    play.tell(SearchCreated("t", same(max_trials=1)))
    propose(play, "t")
    with pytest.raises(IllegalTransitionError, match="took measurements over"):
        Play.tell(play, SearchDeleted("s"))
    play.state.sequence -= 1
    play.tell(SearchDeleted("t"))
    play.tell(SearchDeleted("s"))
    state = play.state
    assert (list(state.searches), list(state.tasks), list(state.networks), state.measured) == ([], [], [], {})
    assert list(state.deleted) == ["t", "s"]
    rows = [(key, body) for key in {*state.dirty, "state"} if (body := codec.encode_row(state, key))]
    assert [key for key, _ in rows] == ["state"]
    assert codec.decode_rows(rows) == state
    play.tell(SearchCreated("u", same(max_trials=1)))
    assert propose(play, "u").reused_from == ""


def test_index_when_kept_in_rows_then_read_back_equal_across_chunks() -> None:
    run = SearchRun("s", pb.SearchSpec(), 0, 0.0)
    wanted = {bytes([number % 251 + 1] * 8 + [number // 251] * 8): ("s", number) for number in (1, 2, 1024, 1025, 3000)}
    for digest, (_, number) in wanted.items():
        chunk, place = divmod(number - 1, MEASURED_CHUNK)
        row = run.measured.setdefault(chunk, bytearray())
        row.extend(bytes(max(0, (place + 1) * 16 - len(row))))
        row[place * 16 : place * 16 + 16] = digest
    assert reuse.index(run) == wanted
    assert sorted(run.measured) == [0, 1, 2]
