"""Where the time of train slots goes, at work or idle for one of four reasons, and what holds a search up meanwhile."""

from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.domain import SearchRun, SearchState, State, TaskKind, TaskState


class Idle(StrEnum):
    """Why a train slot has nothing to do."""

    GENERATOR = "generator"
    """Networks are being proposed, built and admitted."""
    PARALLELISM = "parallelism"
    """As many trials as the specification allows are in flight."""
    BARRIER = "barrier"
    """The generator waits for results before it proposes more."""
    END = "end"
    """The budget is used up; the last trials and the final phase run out."""


AGENTS = "agents"
"""Work waits for a slot."""


@dataclass(slots=True)
class Usage:
    """Slot seconds of all hosts' train slots, and seconds by what would have to grow for more to be in work."""

    hosts: int
    total_s: float = 0.0
    busy_s: float = 0.0
    idle_s: dict[Idle, float] = field(default_factory=lambda: dict.fromkeys(Idle, 0.0))
    bound_s: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys([AGENTS, *(why.value for why in Idle)], 0.0)
    )

    def pass_time(self, seconds: float, run: SearchRun, state: State) -> None:
        """Book an interval in which nothing changes."""
        tasks = [state.tasks[task] for task in run.open_tasks]
        kinds = [(task.kind, task.state) for task in tasks]
        training = [task for task in tasks if (task.kind, task.state) == (TaskKind.TRAIN, TaskState.RUNNING)]
        busy = min(self.hosts, sum(len(task.current().agents) for task in training))
        waits = any(stands is TaskState.QUEUED and kind is not TaskKind.GENERATE for kind, stands in kinds)
        why = _why(run)
        self.total_s += seconds * self.hosts
        self.busy_s += seconds * busy
        self.idle_s[why] += seconds * (self.hosts - busy)
        # Slots that are all at work hold up nobody unless somebody waits for one.
        self.bound_s[AGENTS if waits else why.value] += seconds

    @property
    def utilisation(self) -> float:
        """Share of the slots' time at work."""
        return self.busy_s / self.total_s if self.total_s else 0.0

    def limit(self) -> str:
        """Return what more of would shorten the search most: what held it up the longest."""
        return max(self.bound_s, key=lambda what: self.bound_s[what])


def _why(run: SearchRun) -> Idle:
    if run.state is not SearchState.RUNNING or run.stop_reason:
        return Idle.END
    if run.generate_task:
        return Idle.GENERATOR
    budget = run.spec.budget.max_trials
    if 0 < budget <= len(run.results) + run.active:
        return Idle.END
    return Idle.PARALLELISM if run.in_work >= max(1, run.spec.parallelism) else Idle.BARRIER
