"""Lives by seed: what `make sim` and the tests run, count, and print when one goes wrong."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nasmesh.v1 import search_pb2
from scheduler.domain import SearchRun, State, TaskState
from tests.sim import logged
from tests.sim.options import draw
from tests.sim.world import World

REGRESSIONS = Path(__file__).parent / "regressions.txt"
_GONE = ("LEASE_EXPIRED", "AGENT_FORGOT", "SCHEDULER_RESTARTED")
KILLS = ("kills", "power cuts", "services killed")
# Of so many seeds one writes its whole log, which is then searched for what must not be in it (I14).
LOGGED_EVERY = 50
SECRET = "nobody-may-read-this"


class LogError(AssertionError):
    """I14: a payload is in a log line."""


@dataclass(slots=True)
class Tally:
    """What happened in some lives."""

    seeds: int = 0
    kills: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    dispositions: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, world: World) -> None:
        self.seeds += 1
        self.kills += sum(world.counts.get(kind, 0) for kind in KILLS)
        _sum(self.counts, world.counts)
        _sum(self.counts, {"store faults": world.store.faults, "waited for equals": len(world.checks.waited)})
        _sum(self.dispositions, world.checks.dispositions)
        for run in world.checks.shadow.searches.values():
            _sum(self.counts, _rungs(run))
            _sum(self.ends, {run.state.name: 1})
        _sum(self.counts, _gangs(world.checks.shadow))
        _sum(self.counts, _needs(world.checks.shadow))

    def merge(self, other: "Tally") -> None:
        self.seeds += other.seeds
        self.kills += other.kills
        _sum(self.counts, other.counts)
        _sum(self.dispositions, other.dispositions)
        _sum(self.ends, other.ends)
        self.failed.update(other.failed)
        self.seconds = max(self.seconds, other.seconds)

    def told(self) -> str:
        counts = " ".join(f"{key.replace(' ', '-')}={count}" for key, count in sorted(self.counts.items()))
        told = f"T1: {self.seeds} seeds, {self.kills} kills, {self.seconds:.1f} s"
        return f"{told}; {counts}; outcomes {self.dispositions}; ends {self.ends}"


def _rungs(run: SearchRun) -> dict[str, int]:
    """Return how many trials a rule let go on at a rung, and how many it stopped."""
    rungs = [rung for trial in run.trials for rung in trial.rungs]
    stopped = sum(trial.failure.reason == "EARLY_STOPPED" for trial in run.trials)
    promoted = sum(rung.decision == search_pb2.RUNG_DECISION_PROMOTED for rung in rungs)
    return {"promoted": promoted, "stopped early": stopped}


def _gangs(state: State) -> dict[str, int]:
    """Return how many trainings several agents shared, and how many of those were lost with one of them."""
    shared = [attempt for task in state.tasks.values() for attempt in task.attempts if attempt.members]
    lost = [attempt for attempt in shared if attempt.failure is not None and attempt.failure.reason in _GONE]
    return {"gangs": len(shared), "gangs lost": len(lost)}


def _needs(state: State) -> dict[str, int]:
    """Return how many trainings ended well where there was more memory than at first, and how many nowhere."""
    needing = [task for task in state.tasks.values() if task.need_bytes]
    trials = [state.searches[task.search].trials[task.trial - 1] for task in needing]
    return {
        "trained elsewhere": sum(task.state is TaskState.SUCCEEDED for task in needing),
        "needs unmet": sum(trial.violation.needed_memory_bytes > 0 for trial in trials),
    }


def _sum(into: dict[str, int], more: dict[str, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count


def live(seed: int) -> World:
    """Live one life; raises what is wrong with it."""
    world = World(draw(seed))
    if seed % LOGGED_EVERY:
        with logged.quiet():
            world.live()
        return world
    for spec in world.client.specs.values():
        spec.labels["note"] = SECRET
    with logged.kept() as lines:
        world.live()
    for line in lines.getvalue().splitlines():
        if SECRET in line:
            raise LogError(f"I14: {line}")
    return world


def live_all(seeds: Iterable[int], *, most_failures: int = 3) -> Tally:
    """Live many lives and say what happened; stops after some that failed."""
    tally = Tally()
    began = time.process_time()
    for seed in seeds:
        try:
            tally.add(live(seed))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a life is told with its seed
            tally.failed[seed] = f"{type(error).__name__}: {str(error)[:2000]}\n  {replay_line(seed)}"
            if len(tally.failed) >= most_failures:
                break
    tally.seconds = time.process_time() - began
    return tally


def replay_line(seed: int) -> str:
    return f"replay: make sim SEED={seed}   # {draw(seed).told()}"


def regressions() -> list[int]:
    """Return the seeds that failed once; they are lived every time."""
    lines = REGRESSIONS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def remember(seed: int, why: str) -> None:
    """Add a seed to those that are lived every time."""
    if seed not in regressions():
        with REGRESSIONS.open("a") as file:
            file.write(f"{seed}  # {why.splitlines()[0][:100]}\n")
