"""Random lives in which people hold, change, delete and add: invariants after every step, an end for every search."""

import time

import pytest

from scheduler.domain import OPEN_SEARCHES
from tests.builders.scheduler_lifecycle import LifecycleWorld, delete

SEEDS = range(60)


def live(seed: int) -> LifecycleWorld:
    world = LifecycleWorld(seed, kill_rate=(seed % 3) * 0.05)
    world.faults = False
    for agent in world.agents:
        world.connect(agent)
    for name, spec in world.specs().items():
        world.create(name, spec)
    world.faults = True
    for _ in range(90):
        world.act()
    world.faults = False
    world.wishing = 0.0
    world.lift_all()
    for _ in range(2500):
        if world.all_ended():
            break
        world.act()
    return world


def delete_some(world: LifecycleWorld) -> None:
    """Delete searches in any order; one that another took measurements over from stays until that one is gone."""
    for name in world.rng.sample(sorted(world.engine.state.searches), world.rng.randrange(4)):
        world.wish(delete(name))


def test_random_life_when_people_wish_then_invariants_hold_and_every_search_ends() -> None:
    started = time.perf_counter()
    counts = dict.fromkeys(("kills", "wished", "granted", "recalled", "deleted", "reused", "waited", "enqueued"), 0)
    for seed in SEEDS:
        try:
            world = live(seed)
            state = world.engine.state
            for run in state.searches.values():
                assert run.state not in OPEN_SEARCHES, f"{run.id} {run.state.name} {list(run.open_tasks)}"
            trials = [trial for run in state.searches.values() for trial in run.trials]
            delete_some(world)
            assert world.replayed() == state, "replay differs"
        except Exception:
            print(f"failing seed: {seed}")  # noqa: T201
            raise
        for key, count in (
            ("kills", world.kills),
            ("wished", world.wished),
            ("granted", world.granted),
            ("recalled", world.recalled),
            ("deleted", len(state.deleted)),
            ("reused", sum(bool(trial.reused_from) for trial in trials)),
            ("waited", len(world.waited)),
            ("enqueued", sum(trial.enqueued for trial in trials)),
        ):
            counts[key] += count
    print(f"{len(SEEDS)} seeds, {counts}, {time.perf_counter() - started:.1f} s")  # noqa: T201
    floors = {"kills": 60, "granted": 800, "recalled": 10, "deleted": 40, "reused": 25, "waited": 15, "enqueued": 60}
    assert all(counts[key] >= floor for key, floor in floors.items()), counts


def test_snapshots_when_taken_often_then_recovery_gives_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 5)
    for seed in range(20):
        world = live(seed)
        assert world.disk.snapshot_sequence > 0
        delete_some(world)
        before = world.engine.state
        world.boot()
        assert world.engine.state.epoch == before.epoch + 1
        assert world.replayed() == world.engine.state, f"seed {seed}"
