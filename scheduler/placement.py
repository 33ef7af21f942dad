"""Which task goes to which agent: by priority, fair between searches, first in first out within one. Pure bookkeeping.

Nothing here looks at all searches, tasks or agents: only at the needs that tasks have (generators and data sets) and
at the sorts of agents there are.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scheduler.agents import AgentEntry
from scheduler.domain import TaskKind
from scheduler.fair_queue import FairQueue, Place
from scheduler.waiting_line import WaitingLine

# The order in which kinds are served; scoring first, since it frees results that generators wait for.
_KINDS = (TaskKind.EVALUATE, TaskKind.GENERATE, TaskKind.TRAIN)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued task. `need` is the generator or data set that its agent must serve."""

    task: str
    search: str
    kind: TaskKind
    need: str
    priority: int
    order: int


class Placement:
    """Queued tasks by what they need, running ones by search, and agents with room by kind."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._queues: dict[TaskKind, dict[str, FairQueue]] = {kind: {} for kind in _KINDS}
        self._lines = {kind: WaitingLine(kind, AgentEntry.room) for kind in _KINDS}
        # Behind them: those that work already, and would have the next lease at hand.
        self._ahead = {kind: WaitingLine(kind, AgentEntry.room_ahead) for kind in _KINDS}
        self._running: dict[TaskKind, Counter[str]] = {kind: Counter() for kind in _KINDS}
        self._at_work: dict[str, tuple[TaskKind, str]] = {}
        self._needs: dict[str, dict[tuple[TaskKind, str], None]] = {}

    def add(self, waiting: Waiting) -> None:
        """Queue a task; one that waits already is left as it is."""
        queues = self._queues[waiting.kind]
        queue = queues.get(waiting.need)
        if queue is None:
            queue = queues[waiting.need] = FairQueue(self._running[waiting.kind].__getitem__)
        self._needs.setdefault(waiting.search, {})[(waiting.kind, waiting.need)] = None
        queue.add(waiting.search, waiting.priority, waiting.order, waiting.task)

    def offer(self, agent: AgentEntry, kind: TaskKind | None = None) -> None:
        """Note that an agent may have room now, for one kind or for any."""
        for one in agent.slots if kind is None else (kind,):
            self._join(agent, one)

    def started(self, task: str, kind: TaskKind, search: str) -> None:
        """Count a running task towards its search's share."""
        self._at_work[task] = (kind, search)
        self._running[kind][search] += 1
        self._moved(search, kind)

    def ended(self, task: str) -> None:
        """Count a task that runs no more."""
        kind, search = self._at_work.pop(task, (None, ""))
        if kind is not None:
            self._running[kind][search] -= 1
            if not self._running[kind][search]:
                del self._running[kind][search]
            self._moved(search, kind)

    def reprioritise(self, search: str, priority: int) -> None:
        """Give the waiting tasks of a search another priority."""
        for queue in self._of(search):
            queue.move(search, priority)

    def forget(self, search: str) -> None:
        """Drop the waiting tasks of a search; running ones still count."""
        for queue in self._of(search):
            queue.forget(search)
        self._needs.pop(search, None)

    def match(
        self, is_queued: Callable[[str], bool], lease: Callable[[str, AgentEntry], None], *, most: int | None = None
    ) -> None:
        """Call `lease` for every queued task that some agent can take now; it must take up the agent's room.

        `most`: for no more tasks than that. `lease` must lead to `started`.
        """
        left = most
        for kind in _KINDS:
            line, ahead = self._lines[kind], self._ahead[kind]
            unserved: set[str] = set()
            while (line or ahead) and left != 0 and (found := self._best(kind, unserved, is_queued)) is not None:
                need, place = found
                agent = line.first(need) or ahead.first(need)
                if agent is None:
                    unserved.add(need)
                    continue
                task = self._queues[kind][need].take(place[3])
                # To the end of the line, so that work spreads over agents.
                line.leave(agent.name)
                ahead.leave(agent.name)
                lease(task, agent)
                left = None if left is None else left - 1
                self._join(agent, kind)

    def clear(self) -> None:
        """Forget all tasks and agents."""
        for kind in _KINDS:
            self._queues[kind].clear()
            self._lines[kind].clear()
            self._ahead[kind].clear()
            self._running[kind].clear()
        self._at_work.clear()
        self._needs.clear()

    def _join(self, agent: AgentEntry, kind: TaskKind) -> None:
        if agent.room(kind) > 0:
            self._lines[kind].join(agent)
        elif agent.room_ahead(kind) > 0:
            self._ahead[kind].join(agent)

    def _best(self, kind: TaskKind, unserved: set[str], is_queued: Callable[[str], bool]) -> tuple[str, Place] | None:
        """Return the need whose first search comes first, with that search's place."""
        best: tuple[str, Place] | None = None
        queues = self._queues[kind]
        for need in list(queues):
            if need in unserved:
                continue
            place = queues[need].first(is_queued)
            if place is None:
                del queues[need]
            elif best is None or place < best[1]:
                best = (need, place)
        return best

    def _moved(self, search: str, kind: TaskKind) -> None:
        queues = self._queues[kind]
        for of_kind, need in self._needs.get(search, ()) if queues else ():
            if of_kind is kind and need in queues:
                queues[need].move(search)

    def _of(self, search: str) -> Iterator[FairQueue]:
        for kind, need in self._needs.get(search, ()):
            queue = self._queues[kind].get(need)
            if queue is not None:
                yield queue
