"""Where the time of train slots goes: at work, or idle for one of four reasons."""

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


@dataclass(slots=True)
class Usage:
    """Slot seconds of all hosts' train slots."""

    hosts: int
    total_s: float = 0.0
    busy_s: float = 0.0
    idle_s: dict[Idle, float] = field(default_factory=lambda: dict.fromkeys(Idle, 0.0))

    def pass_time(self, seconds: float, run: SearchRun, state: State) -> None:
        """Book an interval in which nothing changes."""
        kinds = [(state.tasks[task].kind, state.tasks[task].state) for task in run.open_tasks]
        busy = min(self.hosts, kinds.count((TaskKind.TRAIN, TaskState.RUNNING)))
        self.total_s += seconds * self.hosts
        self.busy_s += seconds * busy
        if busy < self.hosts:
            self.idle_s[_why(run)] += seconds * (self.hosts - busy)

    @property
    def utilisation(self) -> float:
        """Share of the slots' time at work."""
        return self.busy_s / self.total_s if self.total_s else 0.0

    def limit(self) -> str:
        """Return what more of would shorten the search most: "agents", or why slots are idle."""
        worst = max(self.idle_s, key=lambda why: self.idle_s[why])
        return "agents" if self.busy_s >= self.idle_s[worst] else worst.value


def _why(run: SearchRun) -> Idle:
    if run.state is not SearchState.RUNNING or run.stop_reason:
        return Idle.END
    if run.generate_task:
        return Idle.GENERATOR
    budget = run.spec.budget.max_trials
    if 0 < budget <= len(run.results) + run.active:
        return Idle.END
    return Idle.PARALLELISM if run.active >= max(1, run.spec.parallelism) else Idle.BARRIER
