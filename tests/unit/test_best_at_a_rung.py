"""Where no trial was trained to its end, the best that was scored at a rung is the search's best, and told as such."""

import json
from pathlib import Path

import pytest

from clients.cli.display.show import print_search
from clients.cli.display.summary import summary_lines
from clients.cli.display.view import view_of
from clients.cli.report import artefacts
from clients.cli.report.folder import write_report
from nasmesh.client.best import best_trial
from nasmesh.errors import Stale
from nasmesh.v1 import measurement_pb2, search_pb2
from tests.builders.fake_scheduler import make_trial, played_search

NAME = "searches/one"


def at_rung(number: int, accuracy: float, *, steps: int = 34, outcome: int = search_pb2.TRIAL_OUTCOME_STOPPED):
    """A trial that was scored at a rung."""
    trial = make_trial(NAME, number)
    trial.outcome = outcome
    trial.evaluate.split = measurement_pb2.SPLIT_VALIDATION
    trial.measurements[0].value = accuracy
    trial.steps = steps
    trial.rungs.add(index=0, step=steps, values=[accuracy])
    return trial


def search() -> search_pb2.Search:
    found = search_pb2.Search(name=NAME, state=search_pb2.SEARCH_STATE_SUCCEEDED)
    found.spec.objectives.add(metric="accuracy", goal=search_pb2.GOAL_MAXIMIZE)
    return found


def test_best_when_some_were_scored_at_a_rung_then_by_the_objective_and_then_by_length() -> None:
    trials = [at_rung(1, 0.8), at_rung(2, 0.9), at_rung(3, 0.9, steps=68), at_rung(4, 0.7)]
    found = search()
    assert best_trial(found, trials) is trials[2]
    found.spec.objectives[0].goal = search_pb2.GOAL_MINIMIZE
    assert best_trial(found, trials) is trials[3]
    held = at_rung(5, 0.1, outcome=search_pb2.TRIAL_OUTCOME_UNSPECIFIED)
    assert best_trial(found, [*trials, held]) is held


def test_best_when_one_was_trained_to_its_end_then_it_whatever_rungs_say() -> None:
    whole, found = make_trial(NAME, 2), search()
    found.best_trial = whole.name
    assert best_trial(found, [at_rung(1, 0.999), whole]) is whole


@pytest.mark.parametrize(
    "why",
    ["infeasible", "failed", "no rung", "no model", "not scored since", "only seen while training", "out of bounds"],
)
def test_best_when_what_was_scored_is_no_network_to_have_then_none(why: str) -> None:
    trial, found = at_rung(1, 0.9), search()
    if why == "infeasible":
        trial.outcome = search_pb2.TRIAL_OUTCOME_INFEASIBLE
    elif why == "failed":
        trial.outcome = search_pb2.TRIAL_OUTCOME_FAILED
    elif why == "no rung":
        del trial.rungs[:]
    elif why == "no model":
        trial.ClearField("model")
    elif why == "not scored since":
        del trial.measurements[:]
    elif why == "out of bounds":
        found.spec.constraints.add(metric="accuracy", min=0.95)
    else:
        trial.measurements[0].split = measurement_pb2.SPLIT_TRAIN
    assert best_trial(found, [trial]) is None


def test_best_when_the_search_names_one_that_was_scored_at_a_rung_then_it() -> None:
    named, found = at_rung(1, 0.8), search()
    found.best_trial = named.name
    assert best_trial(found, [at_rung(2, 0.9), named]) is named


def test_report_when_no_trial_was_trained_to_its_end_then_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "written_out", lambda _content, _facts, _name: artefacts.WrittenOut({}, ""))
    with played_search() as (fake, client):
        found = fake.searches[NAME]
        found.best_trial = ""
        del found.final_trials[:]
        fake.trials[NAME].clear()
        with pytest.raises(Stale, match="without a scored network"):
            client.best("one")
        fake.trials[NAME].update({1: at_rung(1, 0.85), 2: at_rung(2, 0.75)})
        with pytest.raises(Stale):
            client.best("one")  # nothing can have been at a rung
        found.spec.early_stopping.asynchronous_halving.reduction = 3
        written = write_report(client, "one", tmp_path / "out", force=False)
        told = summary_lines(found, view_of(found, fake.trials[NAME].values()), written)
    sentence = "not to its end: scored at rung 0, after 34 updates"
    assert f"  training       {sentence}" in told
    assert f"trained {sentence}, and no other to its end" in (tmp_path / "out" / "report.md").read_text()
    assert f"**trained {sentence}**" in (tmp_path / "out" / "card.md").read_text()
    best = json.loads((tmp_path / "out" / "report.json").read_text())["best"]
    assert (best["trial"], best["partlyTrained"], best["steps"]) == (f"{NAME}/trials/1", True, 34)


def test_show_when_the_search_runs_then_its_best_so_far_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = search()
    found.state = search_pb2.SEARCH_STATE_RUNNING
    held = at_rung(1, 0.8, outcome=search_pb2.TRIAL_OUTCOME_UNSPECIFIED)
    print_search(found, [held])
    told = "best so far: trial 1, accuracy 80.00%; trained not to its end: scored at rung 0, after 34 updates"
    assert told in capsys.readouterr().out
    whole = make_trial(NAME, 2)
    found.best_trial = whole.name
    print_search(found, [held, whole])
    assert "best so far: trial 2, accuracy 93.50%\n" in capsys.readouterr().out
    found.state = search_pb2.SEARCH_STATE_SUCCEEDED
    print_search(found, [held, whole])
    assert "best so far" not in capsys.readouterr().out
