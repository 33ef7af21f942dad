"""Trainings that need more memory than where they ran: who gives as much, and when nobody does. In memory only.

An agent gives what jobs on its server's device may hold together, as its server says; one that says nothing gives
nothing here. It is known while it is connected and for AGENT_KNOWN_S after that, and so is what a deployer offers. A
need is unmet when somebody is known who could train on the data, and nobody who gives as much. In a scheduler's first
lease, while agents find it, no need is judged; one from before its start has AGENT_KNOWN_S for whoever could meet it.
"""

from collections.abc import Callable, Iterable

from nasmesh.limits import AGENT_KNOWN_S
from nasmesh.memory import given_bytes, show_bytes
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2
from scheduler.agents import AgentEntry, Agents
from scheduler.domain import SearchRun, State, Task, TaskKind, TaskState
from scheduler.offers import has_data

# So often what waits is looked at again: agents that could do it may have been gone for too long.
LOOK_S = 30.0


class Needs:
    """Queued trainings with a need, with the data they read. The state says what they need."""

    def __init__(self, agents: Agents, lease_s: float) -> None:
        """Hold nothing."""
        self.offered: Callable[[TaskKind], Iterable[job_pb2.Server]] = _nobody
        """Servers of a kind that somebody would start."""
        self._agents = agents
        self._lease_s = lease_s
        self._began: float | None = None
        self._data: dict[str, str] = {}
        self._look_at = float("inf")

    def rebuilt(self, now: float) -> None:
        """Forget what waits; the first time is the scheduler's start."""
        self._data.clear()
        self._look_at = float("inf")
        if self._began is None:
            self._began = now

    def add(self, task: str, data: str) -> None:
        """Note a queued training with a need and the data set that its agent must have ("": any has it)."""
        self._data[task] = data
        self._look_at = float("-inf")

    def next_look(self) -> float:
        """Return the monotonic time at which `unmet` has something to do; infinity where nothing waits."""
        return self._look_at

    def unmet(self, state: State, now: float) -> list[tuple[str, int]]:
        """Return the tasks whose need nobody known meets, each with the most that anybody gives, in bytes."""
        if now < self._look_at:
            return []
        found: list[tuple[str, int]] = []
        given: dict[str, int] = {}
        self._look_at = float("inf")
        for name, data in list(self._data.items()):
            task = state.tasks.open(name)
            if task is None or task.state is not TaskState.QUEUED or state.searches[task.search].paused:
                del self._data[name]  # it is added again when it waits again
                continue
            judged_at = self._judged_at(state, task)
            if judged_at > now:
                self._look_at = min(self._look_at, judged_at)
                continue
            if data not in given:
                given[data] = self._largest(data, now)
            if 0 <= given[data] < task.need_bytes:
                found.append((name, given[data]))
            else:
                self._look_at = min(self._look_at, now + LOOK_S)
        return found

    def lacking(self, state: State, run: SearchRun) -> str:
        """Return which training of a search waits since no connected agent gives what it needs; "" for none."""
        for name, data in self._data.items():
            task = state.tasks.open(name)
            if task is None or task.search != run.id or task.state is not TaskState.QUEUED or run.paused:
                continue
            given = max([entry.gives_bytes for entry in self._agents.connected() if entry.can_train(data)], default=0)
            if given < task.need_bytes:
                return (
                    f"trial {task.trial} waits: its training needs {show_bytes(task.need_bytes)} of a device, and the "
                    f"connected train servers give {show_bytes(given)} at most; start one with more (--memory)"
                )
        return ""

    def _judged_at(self, state: State, task: Task) -> float:
        """Return the time before which a need is not judged."""
        is_new = bool(task.attempts) and task.attempts[-1].epoch == state.epoch
        return (self._began or 0.0) + (self._lease_s if is_new else AGENT_KNOWN_S)

    def _largest(self, data: str, now: float) -> int:
        """Return the most that anybody known gives a training on some data; -1 where nobody known trains on it."""
        known = [entry for entry in self._agents.known(now, AGENT_KNOWN_S) if entry.can_train(data)]
        offered = [server for server in self.offered(TaskKind.TRAIN) if not data or has_data(server, data)]
        return max([-1, *(entry.gives_bytes for entry in known), *map(given_bytes, offered)])


def beyond(outcome: pb.AttemptOutcome, agent: AgentEntry) -> pb.AttemptOutcome:
    """Return an outcome that says what its training needs with more than its agent gives, whatever the agent says.

    Else the same agent could be given it again and again.
    """
    if not 0 < outcome.infeasible.needed_memory_bytes <= agent.gives_bytes:
        return outcome
    more = pb.AttemptOutcome()
    more.CopyFrom(outcome)
    more.infeasible.needed_memory_bytes = agent.gives_bytes + 1
    return more


def _nobody(_kind: TaskKind) -> Iterable[job_pb2.Server]:
    """Offer no server."""
    return ()
