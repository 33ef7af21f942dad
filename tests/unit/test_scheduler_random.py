"""Random lives of whole searches: faults by chance, invariants after every step, an end for every search."""

import time

import pytest

from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.domain import OPEN_SEARCHES, TaskState
from tests.builders.scheduler_world import World
from tests.builders.scheduling import make_spec

SEEDS = range(320)


def live(seed: int) -> World:
    world = World(seed, kill_rate=(seed % 4) * 0.08)
    spec = make_spec(max_trials=2 + seed % 5, parallelism=1 + seed % 3, final=seed % 2 == 0)
    if spec.HasField("final"):
        spec.final.repeats = 1 + seed % 2
    if seed % 7 == 0:
        spec.budget.max_wall_time_s = 60.0
    world.faults = False
    for agent in world.agents:
        world.connect(agent)
    world.create("one", spec)
    if seed % 5 == 0:
        world.create("two", make_spec(max_trials=2))
    world.faults = True
    for turn in range(60):
        world.act()
        if seed % 15 == 0 and turn == 30:
            world.cancel("two")
    world.faults = False
    for _ in range(1500):
        if not world.open_searches():
            break
        world.act()
    return world


def check_end(world: World, seed: int) -> None:
    state = world.engine.state
    for run in state.searches.values():
        assert run.state not in OPEN_SEARCHES, f"seed {seed}: {run.state.name} {list(run.open_tasks)}"
        assert int(run.generator_state or b"0") == run.cursor, f"seed {seed}: results delivered twice or never"
        finals = [trial for trial in run.trials if trial.final]
        for trial in run.trials:
            splits = {m.split for m in trial.measurements if m.metric == "accuracy"}
            assert splits <= ({2, 3} if trial.final else {2}), f"seed {seed}: {trial.name} saw {splits}"
        assert len(finals) == len(run.final_trials)
    for task, attempt in world.acked.items():
        assert state.tasks[task].attempts[attempt - 1].ended, f"seed {seed}: acknowledged outcome of {task} is gone"
    assert world.replayed() == state, f"seed {seed}: replay differs"


def test_random_life_when_faults_come_and_go_then_invariants_hold_and_every_search_ends() -> None:
    started = time.perf_counter()
    kills = full = 0
    dispositions: dict[int, int] = {}
    ends: dict[str, int] = {}
    for seed in SEEDS:
        try:
            world = live(seed)
            check_end(world, seed)
        except Exception:
            print(f"failing seed: {seed}")  # noqa: T201
            raise
        kills += world.kills
        full += world.full_disks
        for key, count in world.dispositions.items():
            dispositions[key] = dispositions.get(key, 0) + count
        for run in world.engine.state.searches.values():
            ends[run.state.name] = ends.get(run.state.name, 0) + 1
    print(  # noqa: T201
        f"{len(SEEDS)} seeds, {kills} kills, {full} full disks, dispositions {dispositions}, ends {ends},"
        f" {time.perf_counter() - started:.1f} s"
    )
    assert kills >= 300
    assert full >= 20
    assert set(dispositions) == {
        pb.OUTCOME_DISPOSITION_RECORDED,
        pb.OUTCOME_DISPOSITION_DUPLICATE,
        pb.OUTCOME_DISPOSITION_SUPERSEDED,
        pb.OUTCOME_DISPOSITION_INVALID,
    }
    assert ends["SUCCEEDED"] >= len(SEEDS) // 2


@pytest.mark.parametrize("seed", range(5))
def test_same_seed_when_lived_twice_then_the_same_journal(seed: int) -> None:
    first, second = live(seed), live(seed)
    assert first.disk.events == second.disk.events


def test_snapshots_when_taken_often_then_recovery_gives_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 3)
    monkeypatch.setattr("scheduler.snapshots.RECENT", 1)
    for seed in range(40):
        world = live(seed)
        assert world.disk.snapshot_sequence > 0
        before = world.engine.state
        world.boot()
        after = world.engine.state
        assert after.epoch == before.epoch + 1
        assert world.replayed() == after, f"seed {seed}"
        assert all(task.state is not TaskState.RUNNING for task in after.tasks.values())
