"""What a person sees of a running search, live and in a pipe."""

import io

import pytest
from rich.console import Console

from clients.cli.display.lines import QUIET_S, PlainLines, describe
from clients.cli.display.render import render
from clients.cli.display.show import print_search
from clients.cli.display.view import (
    SearchView,
    duration_in_words,
    format_count,
    format_duration,
    format_metric,
    plural,
    score,
    short,
    stages,
    view_of,
)
from nasmesh.client import read_spec
from nasmesh.clock import ManualClock
from nasmesh.v1 import measurement_pb2, search_pb2, train_service_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.builders.fake_scheduler import EXAMPLES, START, FakeScheduler, make_trial


def played(iterations: int = 3) -> tuple[FakeScheduler, list[pb.WatchSearchResponse]]:
    fake = FakeScheduler()
    spec = read_spec(EXAMPLES / "digits.yaml")
    fake.CreateSearch(pb.CreateSearchRequest(search_id="one", spec=spec, request_id="r"), None)
    fake.play("searches/one", iterations=iterations)
    return fake, fake.history["searches/one"]


def drawn(view: SearchView, *, wall: float = START + 12, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(render(view, clock=ManualClock(wall=wall)))
    return capture.get()


def test_the_display_while_training() -> None:
    _, history = played()
    view = SearchView()
    for change in history[:18]:
        view.apply(change)
    text = drawn(view)
    assert "searches/one  nac on digits  running" in text
    assert "iteration 2 of 6   trials 1 scored   elapsed 12 s   about" in text
    assert "left of the search phase" in text
    assert "stage 1  ▦▦  2 cells  " in text
    assert "10 branches" in text
    assert "trial 2  ━" in text
    assert "41.5 step/s" in text
    assert "91.20%" in text


def test_the_display_of_the_final_phase_and_the_end() -> None:
    _, history = played()
    view = SearchView()
    ends = [index for index, change in enumerate(history) if change.search.state >= search_pb2.SEARCH_STATE_SUCCEEDED]
    for change in history[: ends[0] - 1]:
        view.apply(change)
    text = drawn(view)
    assert "finalizing" in text
    assert "final trial 4" in text
    assert "left of the final network" in text
    for change in history[ends[0] - 1 :]:
        view.apply(change)
    text = drawn(view)
    assert "succeeded" in text
    assert "elapsed 42 s" in text
    assert "left of" not in text
    assert "step/s" not in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_display_fits_any_width_and_an_empty_search(width: int) -> None:
    assert "elapsed" in drawn(SearchView(), width=width)
    _, history = played()
    view = SearchView()
    for change in history[:18]:
        view.apply(change)
        assert max(len(line) for line in drawn(view, width=width).splitlines()) <= width


def test_plain_lines_say_each_thing_once() -> None:
    _, history = played()
    view, lines = SearchView(), []
    for change in history:
        lines += describe(view, change, ManualClock(wall=START + 5))
        view.apply(change)
    assert lines[0].endswith("searches/one: nac on digits, seed 1")
    assert len(lines) == len(set(lines)) == 1 + 2 * 3 + 1 + 2 + 1
    assert any("stage 1: 2 cells, 10 branches" in line for line in lines)
    assert any("final trial 4 succeeded: test accuracy 97.80%" in line for line in lines)
    assert lines[-1].endswith("searches/one: succeeded: the generator is finished")


def test_plain_lines_that_come_late_say_when_it_was() -> None:
    search = search_pb2.Search(name="searches/one")
    search.create_time.FromSeconds(1000)
    change = pb.WatchSearchResponse(trial=make_trial("searches/one", 1))
    change.time.FromSeconds(1075)
    late = ManualClock(wall=90_000.0)
    assert {line[:7] for line in describe(view_of(search, []), change, late)} == {"   1:15"}


def test_plain_lines_say_why_a_trial_did_not_succeed() -> None:
    infeasible = make_trial("searches/one", 1, scored=False)
    infeasible.outcome = search_pb2.TRIAL_OUTCOME_INFEASIBLE
    infeasible.violation.constraint.metric = "parameters"
    infeasible.violation.value = 120000
    failed = make_trial("searches/one", 2, scored=False)
    failed.outcome = search_pb2.TRIAL_OUTCOME_FAILED
    failed.failure.message = "the loss is not finite; lower the learning rate"
    clock = ManualClock()
    lines = describe(SearchView(), pb.WatchSearchResponse(trial=infeasible), clock)
    lines += describe(SearchView(), pb.WatchSearchResponse(trial=failed), clock)
    assert any("infeasible: parameters is 120000" in line for line in lines)
    assert any("failed: the loss is not finite; lower" in line for line in lines)


def test_rungs_when_a_trial_is_held_then_goes_on_and_another_is_stopped_then_each_is_said_once() -> None:
    clock = ManualClock()
    held = make_trial("searches/one", 1)
    held.outcome = search_pb2.TRIAL_OUTCOME_UNSPECIFIED
    held.phase = search_pb2.TRIAL_PHASE_HELD
    held.rungs.add(step=10, values=[0.71], reason="2nd of 2 so far")
    search = search_pb2.Search(spec=read_spec(EXAMPLES / "digits.yaml"))
    view = view_of(search, [])
    lines = describe(view, pb.WatchSearchResponse(trial=held), clock)
    assert lines[-1].endswith("trial 1 is held after 10 updates, 0.71: 2nd of 2 so far")
    view.apply(pb.WatchSearchResponse(trial=held))
    assert view.leaderboard(3) == []
    assert describe(view, pb.WatchSearchResponse(trial=held), clock) == []
    gone = search_pb2.Trial()
    gone.CopyFrom(held)
    gone.phase = search_pb2.TRIAL_PHASE_TRAIN_QUEUED
    gone.rungs[0].decision = search_pb2.RUNG_DECISION_PROMOTED
    gone.rungs[0].reason = "1st of 3, the best one goes on"
    (line,) = describe(view, pb.WatchSearchResponse(trial=gone), clock)
    assert line.endswith("trial 1 goes on after 10 updates: 1st of 3, the best one goes on")
    stopped = search_pb2.Trial()
    stopped.CopyFrom(held)
    stopped.outcome = search_pb2.TRIAL_OUTCOME_STOPPED
    stopped.failure.message = "at rung 0, after 10 updates: 3rd of 3, the best one goes on"
    (line,) = describe(view, pb.WatchSearchResponse(trial=stopped), clock)
    assert line.endswith("trial 1 stopped: at rung 0, after 10 updates: 3rd of 3, the best one goes on")


def test_plain_lines_of_a_long_training_say_how_far_it_is_now_and_then() -> None:
    mark = pb.WatchSearchResponse()
    mark.progress.trial = "searches/one/trials/5"
    mark.progress.train.CopyFrom(
        train_service_pb2.TrainProgress(step=100, total_steps=300, steps_per_s=2, loss=0.5, accuracy=0.8)
    )
    view = view_of(search_pb2.Search(), [make_trial("searches/one", 5, final=True)])
    clock = ManualClock()
    plain = PlainLines(clock)
    assert plain.describe(view, mark) == []
    clock.advance(QUIET_S)
    [line] = plain.describe(view, mark)
    assert "final trial 5: step 100 of 300, 2 step/s, loss 0.500, training accuracy 80.00%, about 1:40 left" in line
    clock.advance(QUIET_S / 2)
    assert plain.describe(view, mark) == []


def test_the_leaderboard_follows_the_goal_and_leaves_final_trials_out() -> None:
    trials = [make_trial("searches/one", number) for number in range(1, 5)]
    final = make_trial("searches/one", 5, final=True)
    search = search_pb2.Search(spec=read_spec(EXAMPLES / "digits.yaml"))
    assert [t.number for t in view_of(search, [*trials, final]).leaderboard(3)] == [3, 4, 2]
    search.spec.objectives[0].metric = "parameters"
    search.spec.objectives[0].goal = search_pb2.GOAL_MINIMIZE
    assert [t.number for t in view_of(search, [*trials, final]).leaderboard(3)] == [1, 2, 3]


def test_scores_are_of_the_whole_network_and_the_split_asked_for() -> None:
    trial = make_trial("searches/one", 1)
    trial.measurements.add(metric="accuracy", value=0.1, element="s1_c1")
    assert score(trial, "accuracy", measurement_pb2.SPLIT_VALIDATION) == 0.912
    assert score(trial, "accuracy", measurement_pb2.SPLIT_TEST) is None
    assert score(trial, "parameters") == 21500


def test_other_summaries_are_no_stages() -> None:
    network = search_pb2.Network(summary={"layers": "4 layers", "stage_2": "1 cell, 1 branch"})
    assert [(size.name, str(size)) for size in stages(network)] == [("stage 2", "1 cell, 1 branch")]


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (999, "999"), (26_500, "26.5K"), (1_210_000, "1.21M"), (2.6e9, "2.6G")]
)
def test_counts_are_short(value: float, text: str) -> None:
    assert format_count(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "0.2 s"), (42.9, "42 s"), (187, "3:07"), (3753, "1:02:33")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (18.4, "18 s"),
        (99.6, "100 s"),
        (480, "8 min"),
        (270, "4.5 min"),
        (3599, "1 h"),
        (5400, "1 h 30 min"),
        (36000, "10 h"),
    ],
)
def test_durations_in_words_are_whole(seconds: float, text: str) -> None:
    assert duration_in_words(seconds) == text


def test_metrics_have_their_units() -> None:
    assert format_metric("accuracy", 0.9123) == "91.23%"
    assert format_metric("class_3_accuracy", 0.5) == "50.00%"
    assert format_metric("latency_p50", 0.31) == "0.31 ms"
    assert format_metric("loss", None) == "–"
    assert short("networks/" + "a" * 64) == "a" * 12
    assert plural(2, "branch", "branches") == "2 branches"


def test_what_a_trial_began_with_is_in_its_note(capsys: pytest.CaptureFixture[str]) -> None:
    trial = make_trial("searches/one", 1)
    trial.note = "as found"
    trial.inheritance.CopyFrom(search_pb2.InheritanceReport(taken=2, taken_share=0.0005, initialized=["a", "b", "c"]))
    found = search_pb2.Search(name="searches/one")
    found.spec.objectives.add(metric="accuracy", goal=search_pb2.GOAL_MAXIMIZE)
    print_search(found, [trial])
    told = "as found; began with 0.05% of its weights from another network, 2 of 5 parameters"
    assert told in capsys.readouterr().out
