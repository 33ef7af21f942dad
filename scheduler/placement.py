"""Which task goes to which agent: by priority, then first in, first out. Pure bookkeeping in memory."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.agents import AgentEntry
from scheduler.domain import TaskKind

# The order in which kinds are served; scoring first, since it frees results that generators wait for.
_KINDS = (TaskKind.EVALUATE, TaskKind.GENERATE, TaskKind.TRAIN)
Row = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued task. `need` is the generator or data set that its agent must serve."""

    task: str
    kind: TaskKind
    need: str
    priority: int
    order: int


class Placement:
    """Queued tasks by what they need, and agents with room by kind. Adding and taking cost no more than a heap's."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._queues: dict[TaskKind, dict[str, list[Row]]] = {kind: {} for kind in _KINDS}
        self._hungry: dict[TaskKind, dict[str, AgentEntry]] = {kind: {} for kind in _KINDS}

    def add(self, waiting: Waiting) -> None:
        """Queue a task."""
        queue = self._queues[waiting.kind].setdefault(waiting.need, [])
        heapq.heappush(queue, (-waiting.priority, waiting.order, waiting.task))

    def offer(self, agent: AgentEntry) -> None:
        """Note that an agent may have room now."""
        for kind in _KINDS:
            if agent.room(kind) > 0:
                self._hungry[kind][agent.name] = agent

    def match(
        self, is_queued: Callable[[str], bool], lease: Callable[[str, AgentEntry], None], *, most: int | None = None
    ) -> None:
        """Call `lease` for every queued task that some agent can take now; it must take up the agent's room.

        `most`: for no more tasks than that.
        """
        left = most
        for kind in _KINDS:
            queues, hungry = self._queues[kind], self._hungry[kind]
            blocked: set[str] = set()
            while hungry and left != 0:
                need = self._best(queues, blocked, is_queued)
                if need is None:
                    break
                agent = self._agent(hungry, kind, need)
                if agent is None:
                    blocked.add(need)
                    continue
                _, _, task = heapq.heappop(queues[need])
                lease(task, agent)
                left = None if left is None else left - 1
                # To the end of the line, so that work spreads over agents.
                hungry.pop(agent.name)
                if agent.room(kind) > 0:
                    hungry[agent.name] = agent

    def clear(self) -> None:
        """Forget all tasks and agents."""
        for kind in _KINDS:
            self._queues[kind].clear()
            self._hungry[kind].clear()

    @staticmethod
    def _best(queues: dict[str, list[Row]], blocked: set[str], is_queued: Callable[[str], bool]) -> str | None:
        """Return the need whose first task comes first; tasks that are not queued any more are dropped on the way."""
        best: tuple[Row, str] | None = None
        for need in list(queues):
            queue = queues[need]
            while queue and not is_queued(queue[0][2]):
                heapq.heappop(queue)
            if not queue:
                del queues[need]
            elif need not in blocked and (best is None or queue[0] < best[0]):
                best = (queue[0], need)
        return best[1] if best else None

    @staticmethod
    def _agent(hungry: dict[str, AgentEntry], kind: TaskKind, need: str) -> AgentEntry | None:
        """Return the first agent in line that can do it; agents without room leave the line."""
        full = []
        found = None
        for name, agent in hungry.items():
            if agent.room(kind) <= 0:
                full.append(name)
            elif agent.can_do(kind, need):
                found = agent
                break
        for name in full:
            del hungry[name]
        return found
