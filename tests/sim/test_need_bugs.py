"""Bugs planted into where trainings go that need more memory: lives by seed must see each of them, and soon."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import pytest

from scheduler.agents import Agents
from scheduler.journal import codec, ended, records
from scheduler.machine import misfits
from scheduler.placement import Placement
from tests.sim.bugs import Patch
from tests.sim.catching import caught
from tests.sim.options import draw

FIRST, MOST_LIVES = 700, 300


def goes_to_anybody(patch: Patch) -> None:
    """Whoever has room gets it, whatever it gives."""
    patch.set(Placement, "_roomy", lambda self, kind, need: self._lines[kind].first(need.partition(" within ")[0]))


def forgotten_by_a_snapshot(patch: Patch) -> None:
    """What a task needs is in no row."""
    before = records.fill_task_record

    def fill(record: Any, task: Any) -> None:
        before(record, task)
        record.ClearField("needed_memory_bytes")

    def one(task: Any) -> Any:
        record = records.pb.TaskRecord()
        fill(record, task)
        return record

    patch.set(codec, "task_record", one)
    patch.set(ended, "fill_task_record", fill)


def counts_as_failed(patch: Patch) -> None:
    """A training that did not fit has used up one of its attempts."""
    before = misfits.move

    def move(work: Any, task: Any, digest: bytes, violation: Any) -> None:
        before(work, task, digest, violation)
        task.counted += 1

    patch.set(misfits, "move", move)


def away_is_gone(patch: Patch) -> None:
    """Who is not connected at this moment does not count."""
    patch.set(Agents, "known", lambda self, _now, _keep_s: self.connected())


BUGS = (goes_to_anybody, forgotten_by_a_snapshot, counts_as_failed, away_is_gone)


def seeds() -> Iterator[int]:
    """Yield seeds of lives with agents that give this much and that, and come and go."""
    for seed in count(FIRST):
        options = draw(seed)
        if options.needs and options.agents > 1 and (options.breaks or options.kill_agent):
            yield seed


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_lives_when_needs_have_a_bug_then_it_is_seen(
    plant: Callable[[Patch], None], record_property: Callable[[str, object], None]
) -> None:
    said = caught(plant, islice(seeds(), MOST_LIVES))
    record_property("counts", f"needs: {plant.__name__} caught by {said}")
    assert said, f"seen by none of {MOST_LIVES} lives"
