"""A search that ranks by a zero-cost proxy, on real servers: one update a network, and the best are then trained."""

import json
from pathlib import Path

from nasmesh.v1 import measurement_pb2, search_pb2
from tests.e2e.mesh import Mesh
from tests.e2e.test_bad_input import check_refused

FLAGS = ("search", "create", "-f", "examples/zero-cost.yaml", "--set", "train.compute.threads=1")
SHORT = ("--set", "budget.maxTrials=5", "--set", "final.topK=2", "--set", "final.train={epochs: 1}")


def test_search_when_its_objective_is_a_proxy_then_that_ranks_and_a_score_chooses_the_final_one(
    mesh: Mesh, tmp_path: Path
) -> None:
    done = mesh.nasmesh(*FLAGS, *SHORT, "--id", "zero", "--wait", "--out", str(tmp_path / "out"), timeout_s=120)
    assert done.code == 0, done.stderr
    with mesh.client() as client:
        search, trials = client.get_search("zero"), list(client.list_trials("zero"))
    assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
    searched = [trial for trial in trials if not trial.final]
    values = {trial.name: _value(trial, "naswot") for trial in searched}
    known = {name: value for name, value in values.items() if value is not None}
    assert len(searched) == 5
    assert len(known) >= 2
    assert all(trial.steps == 1 for trial in searched)
    for trial in searched:  # a network without an activation has none, and says so
        assert (trial.failure.reason == "PROXY_UNDEFINED") == (trial.name not in known)
    ranked = sorted(known, key=lambda name: -known[name])
    assert search.best_trial == ranked[0]
    finals = [trial for trial in trials if trial.final]
    assert sorted(trial.parents[0] for trial in finals) == sorted(ranked[:2])
    chosen = max(finals, key=lambda trial: _value(trial, "accuracy", measurement_pb2.SPLIT_VALIDATION) or 0)
    assert search.final_trials[0] == chosen.name
    assert f"final trial {chosen.number} has accuracy" in search.reason
    shown = mesh.nasmesh("search", "show", "zero").stdout.splitlines()
    header = next(line for line in shown if line.startswith("trial"))
    assert header.split()[3:8] == ["parameters", "MACs", "naswot", "validation", "test"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| MACs | naswot | validation |" in report
    assert "## Time to naswot" in report


def test_search_when_its_plan_does_not_measure_the_proxy_then_refused_with_the_field_and_the_fix(mesh: Mesh) -> None:
    words = ["objectives[0].metric", "instrumentation.proxies: [ZERO_COST_PROXY_NASWOT]"]
    check_refused(mesh.nasmesh(*FLAGS, "--set", "instrumentation={}"), 2, words)
    words = ["objectives", "add an objective that is no proxy"]
    only = "objectives=[{metric: naswot, goal: GOAL_MAXIMIZE}]"
    check_refused(mesh.nasmesh(*FLAGS, "--set", only), 2, words)


def test_rehearsal_when_a_proxy_is_the_objective_then_its_time_is_foretold(mesh: Mesh) -> None:
    flags = ("rehearse", "-f", "examples/zero-cost.yaml", *SHORT, "--agents", "2", "--json")
    done = mesh.nasmesh(*flags, timeout_s=120)
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)["rehearsals"][0]
    assert (found["state"], found["trials"]) == ("SUCCEEDED", 5 + 2), found  # with the final ones


def _value(trial: search_pb2.Trial, metric: str, split: int = 0) -> float | None:
    found = [m.value for m in trial.measurements if (m.metric, m.split, m.element) == (metric, split, "")]
    return found[0] if found else None
