"""Early stopping on a real journal: through restarts, in `nasmesh admin` and in what clients and agents are told."""

from functools import partial
from pathlib import Path

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import search_pb2
from scheduler import snapshots
from scheduler.admin.checking import check
from scheduler.admin.explaining import explain
from scheduler.domain import SearchState
from scheduler.ladder import ladder_of
from scheduler.listings import Listings
from tests.builders import scheduling as make
from tests.builders.journals import Past


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def stopping(**more: int) -> search_pb2.SearchSpec:
    spec = make.make_spec(**{"max_trials": 9, "parallelism": 3, **more})
    spec.train.steps = 90
    spec.early_stopping.asynchronous_halving.SetInParent()
    return spec


def wide(lease: pb.Lease) -> pb.AttemptOutcome:
    """Answer as a generator that wants as much in flight as there is room for."""
    outcome = make.make_outcome(lease)
    if lease.HasField("generate"):
        outcome.generate.next_call.in_flight_below = 100
    return outcome


def test_rungs_when_the_scheduler_is_restarted_at_every_few_answers_then_the_same_end(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "RECENT", 1)
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 5)
    whole = Past(tmp_path / "whole.db")
    whole.create("s", spec=stopping())
    whole.work("s", wide)
    restarts = 0
    past = Past(path)
    past.create("s", spec=stopping())
    while past.engine.state.searches["s"].state is SearchState.RUNNING:
        past.work("s", wide, until=4)
        past.close()
        past = Past(path)
        restarts += 1
        run = past.engine.state.searches["s"]
        wanted = ladder_of(run.spec, run.trials) if run.state is SearchState.RUNNING else None
        assert run.ladder == wanted
    assert restarts > 5
    run, other = past.engine.state.searches["s"], whole.engine.state.searches["s"]
    assert [trial.outcome for trial in run.trials] == [trial.outcome for trial in other.trials]
    assert [[r.reason for r in trial.rungs] for trial in run.trials] == [
        [r.reason for r in trial.rungs] for trial in other.trials
    ]
    assert run.outcomes == other.outcomes
    assert run.reason == other.reason
    past.close()
    whole.close()
    assert not check(path).violations


def test_parts_of_a_training_when_looked_at_afterwards_then_each_is_a_task_of_its_own(path: Path) -> None:
    past = Past(path)
    past.create("s", spec=stopping(max_trials=3))
    kept: dict[str, pb.Lease] = {}

    def answer(lease: pb.Lease) -> pb.AttemptOutcome:
        kept[lease.token.task] = lease
        return wide(lease)

    past.work("s", answer)
    best = next(trial for trial in past.engine.state.searches["s"].trials if len(trial.rungs) == 2)
    name = f"s-t{best.number}-train"
    assert [kept[task].train.until_step for task in (name, f"{name}-r1", f"{name}-r2")] == [10, 30, 0]
    assert not kept[name].train.HasField("resume_from")
    assert kept[f"{name}-r1"].train.resume_from == make.make_ref(make.train_text(kept[name]), "checkpoints")
    attempt = past.do(partial(past.desk.attempt, f"{name}-r1", 1))
    assert (attempt.task_state, attempt.trial) == (search_pb2.TASK_STATE_SUCCEEDED, best.name)
    listings = Listings(past.engine, past.searches, "memory")
    page = api.ListTrialsResponse.FromString(
        past.do(partial(listings.trials, api.ListTrialsRequest(parent="searches/s")))
    )
    assert [rung.step for rung in page.trials[best.number - 1].rungs] == [10, 30]
    counts = past.do(partial(past.searches.get, "searches/s")).trials
    assert (counts.succeeded, counts.stopped, counts.held) == (1, 2, 0)
    past.close()
    story = explain(path, best.name)
    assert f"rung 0, 10 updates: went on, {best.rungs[0].reason}" in story.stands
    assert [line.what for line in story.lines].count("trained") == 3


def test_search_when_its_rule_is_wrong_then_refused_with_its_field(path: Path) -> None:
    past = Past(path)
    spec = stopping()
    spec.early_stopping.asynchronous_halving.reduction = 1
    with pytest.raises(Invalid, match="must be 2 to 100, not 1") as refused:
        past.create("s", spec=spec)
    assert refused.value.violations[0].field == "spec.early_stopping.asynchronous_halving.reduction"
    spec = stopping()
    past.create("s", spec=spec)
    full = past.engine.state.searches["s"].spec.early_stopping
    assert full.asynchronous_halving.reduction == 3
    assert full.train_samples > 1000
    past.close()
