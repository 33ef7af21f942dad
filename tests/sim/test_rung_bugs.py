"""Bugs planted into early stopping: lives by seed must see each of them, and soon."""

from collections.abc import Callable
from typing import Any

import pytest

from scheduler.domain import SearchRun
from scheduler.ladder import Ladder, Verdict
from scheduler.machine import reuse, rungs
from tests.sim.bugs import Patch
from tests.sim.catching import caught

MOST_SEEDS = 200


def forgotten_checkpoint(patch: Patch) -> None:
    """A trial that goes on is trained from the beginning."""
    before = rungs._go_on

    def go_on(work: Any, run: SearchRun, ladder: Ladder, verdict: Verdict) -> None:
        before(work, run, ladder, verdict)
        for task_id in run.open_tasks:
            task = work.state.tasks[task_id]
            if task.trial == verdict.number:
                task.checkpoint = None

    patch.set(rungs, "_go_on", go_on)


def shared_checkpoint(patch: Patch) -> None:
    """A part's checkpoint is the trial's own message, which the next part overwrites: read back, it differs."""
    before = rungs._go_on

    def go_on(work: Any, run: SearchRun, ladder: Ladder, verdict: Verdict) -> None:
        before(work, run, ladder, verdict)
        for task_id in run.open_tasks:
            task = work.state.tasks[task_id]
            if task.trial == verdict.number:
                task.checkpoint = run.trials[verdict.number - 1].checkpoint

    patch.set(rungs, "_go_on", go_on)


def held_in_work(patch: Patch) -> None:
    """A held trial keeps its parallelism."""
    patch.set(SearchRun, "in_work", property(lambda run: run.active))


def held_is_waited_for(patch: Patch) -> None:
    """Equal trials wait for one that is held."""
    patch.set(rungs, "reuse", type("Other", (), {**vars(reuse), "leave": staticmethod(lambda *_: None)}))


def ended_stays_on_its_rung(patch: Patch) -> None:
    """Those that failed are compared with all the same."""
    patch.set(Ladder, "_forget", lambda _self, _number, _place: None)


BUGS = (
    forgotten_checkpoint,
    shared_checkpoint,
    held_in_work,
    held_is_waited_for,
    ended_stays_on_its_rung,
)


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_lives_when_early_stopping_has_a_bug_then_it_is_seen(
    plant: Callable[[Patch], None], record_property: Callable[[str, object], None]
) -> None:
    said = caught(plant, range(MOST_SEEDS))
    record_property("counts", f"rungs: {plant.__name__} caught by {said}")
    assert said, f"seen by none of {MOST_SEEDS} lives"
