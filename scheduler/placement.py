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
from scheduler.gangs import Gangs
from scheduler.waiting_line import WaitingLine

# Stands in a need between the data set and what an agent must have of memory and slots; data sets have no spaces.
_ROOMY = " within "
# The order in which kinds are served; scoring first, since it frees results that generators wait for.
_KINDS = (TaskKind.EVALUATE, TaskKind.GENERATE, TaskKind.TRAIN)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued task. `need` is the generator or data set that its agent must serve, `size` how many agents it needs.

    `memory`: bytes that the device of the one that it needs must give, at least; 0: anything. `slots`: how many that
    one must have, whether they are free or not: its server waits for them.
    """

    task: str
    search: str
    kind: TaskKind
    need: str
    priority: int
    order: int
    size: int = 1
    memory: int = 0
    slots: int = 1


class Placement:
    """Queued tasks by what they need, running ones by search, and agents with room by kind."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._queues: dict[TaskKind, dict[str, FairQueue]] = {kind: {} for kind in _KINDS}
        self._lines = {kind: WaitingLine(kind, AgentEntry.room) for kind in _KINDS}
        # Behind them: those that work already, and would have the next lease at hand.
        self._ahead = {kind: WaitingLine(kind, AgentEntry.room_ahead) for kind in _KINDS}
        self._running: dict[TaskKind, Counter[str]] = {kind: Counter() for kind in _KINDS}
        # The turn at which each search was served last, or first waited; turns are counted over all kinds.
        self._served: dict[TaskKind, Counter[str]] = {kind: Counter() for kind in _KINDS}
        self._turn = 0
        self._gangs = Gangs()
        self._at_work: dict[str, tuple[TaskKind, str, tuple[str, ...]]] = {}
        self._needs: dict[str, dict[tuple[TaskKind, str], None]] = {}

    def add(self, waiting: Waiting) -> None:
        """Queue a task; one that waits already is left as it is."""
        need = waiting.need
        if waiting.size != 1:
            need = self._gangs.need(need, waiting.size)
        elif waiting.memory or waiting.slots != 1:
            need = roomy_need(need, waiting.memory, waiting.slots)
        queues = self._queues[waiting.kind]
        queue = queues.get(need)
        if queue is None:
            kind = waiting.kind
            queue = queues[need] = FairQueue(self._running[kind].__getitem__, self._served[kind].__getitem__)
        self._needs.setdefault(waiting.search, {})[(waiting.kind, need)] = None
        self._served[waiting.kind].setdefault(waiting.search, self._turn)
        queue.add(waiting.search, waiting.priority, waiting.order, waiting.task)

    def offer(self, agent: AgentEntry, kind: TaskKind | None = None) -> None:
        """Note that an agent may have room now, for one kind or for any."""
        for one in agent.slots if kind is None else (kind,):
            self._join(agent, one)

    def started(self, task: str, kind: TaskKind, search: str, agents: tuple[str, ...] = ("",)) -> None:
        """Count a running task towards its search's share, once for each agent that holds it."""
        self._at_work[task] = (kind, search, agents)
        self._running[kind][search] += len(agents)
        self._turn += 1
        self._served[kind][search] = self._turn
        if len(agents) > 1:
            self._gangs.started(agents[0])
        self._moved(search, kind)

    def ended(self, task: str) -> None:
        """Count a task that runs no more."""
        kind, search, agents = self._at_work.pop(task, (None, "", ()))
        if kind is not None:
            self._running[kind][search] -= len(agents)
            if len(agents) > 1:
                self._gangs.ended(agents[0])
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
        for served in self._served.values():
            served.pop(search, None)

    def lacking(self, search: str) -> Iterator[tuple[str, str]]:
        """Yield tasks of a search that too few agents are connected for, with how many there are; one for each need."""
        for kind, need in self._needs.get(search, ()):
            task = self._queues[kind][need].head(search) if need in self._queues[kind] else ""
            why = self._gangs.lacking(need) if task and self._gangs.is_need(need) else ""
            if why:
                yield task, why

    def over_processes(self, search: str) -> Iterator[tuple[str, int]]:
        """Yield tasks of a search that take several slots of one agent, with how many; one for each need."""
        for kind, need in self._needs.get(search, ()):
            slots = int(need.rpartition(" ")[2]) if _ROOMY in need else 1
            task = self._queues[kind][need].head(search) if slots > 1 and need in self._queues[kind] else ""
            if task:
                yield task, slots

    def match(
        self,
        is_queued: Callable[[str], bool],
        lease: Callable[[str, list[AgentEntry]], None],
        *,
        most: int,
    ) -> bool:
        """Call `lease` for every queued task that agents can take now, rank 0 first; it must take up their room.

        For no more tasks than `most`; returns whether there may be more. `lease` must lead to `started`.
        """
        left = most
        self._gangs.begin()
        for kind in _KINDS:
            line, ahead = self._lines[kind], self._ahead[kind]
            unserved: set[str] = set()
            while (line or ahead) and left != 0 and (found := self._best(kind, unserved, is_queued)) is not None:
                need, place = found
                agents = self._takers(kind, need)
                if not agents:
                    unserved.add(need)
                    continue
                task = self._queues[kind][need].take(place[4])
                if _ROOMY in need:
                    self._leave(kind, need, place[4])
                # To the end of the line, so that work spreads over agents.
                for agent in agents:
                    line.leave(agent.name)
                    ahead.leave(agent.name)
                    if kind is TaskKind.TRAIN:
                        self._gangs.leave(agent.name)
                lease(task, agents)
                left -= 1
                for agent in agents:
                    self._join(agent, kind)
        return left == 0

    def clear(self) -> None:
        """Forget all tasks and agents."""
        for kind in _KINDS:
            self._queues[kind].clear()
            self._lines[kind].clear()
            self._ahead[kind].clear()
            self._running[kind].clear()
            self._served[kind].clear()
        self._gangs.clear()
        self._at_work.clear()
        self._needs.clear()

    def _takers(self, kind: TaskKind, need: str) -> list[AgentEntry]:
        """Return the agents that can take the next task with this need, rank 0 first, or none."""
        if self._gangs.is_need(need):
            return self._gangs.crew(need)
        if _ROOMY in need:
            agent = self._roomy(kind, need)
        elif kind is TaskKind.TRAIN and self._gangs.awaits:
            # A lease that waits at an agent would have the next slot there: none is given while a gang is waited for.
            agent = self._lines[kind].first(need, self._gangs.keeps)
        else:
            agent = self._lines[kind].first(need) or self._ahead[kind].first(need)
        return [] if agent is None else [agent]

    def _roomy(self, kind: TaskKind, need: str) -> AgentEntry | None:
        """Return the agent that can take the next task that needs so much of one, which is looked for one by one."""
        data, _, least = need.partition(_ROOMY)
        memory, _, slots = least.partition(" ")
        least_bytes, least_slots = int(memory), int(slots)

        def is_passed(agent: AgentEntry) -> bool:
            is_small = agent.gives_bytes < least_bytes or agent.slots.get(kind, 0) < least_slots
            return is_small or self._gangs.keeps(agent)

        found = self._lines[kind].first(data, is_passed)
        return found if found is not None or self._gangs.awaits else self._ahead[kind].first(data, is_passed)

    def _leave(self, kind: TaskKind, need: str, search: str) -> None:
        """Forget that a search has tasks of a need where it has no more: hardly two need the same number of bytes."""
        if not self._queues[kind][need].head(search):
            self._needs[search].pop((kind, need), None)

    def _join(self, agent: AgentEntry, kind: TaskKind) -> None:
        if kind is TaskKind.TRAIN:
            self._gangs.join(agent)
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


def roomy_need(data: str, memory: int, slots: int = 1) -> str:
    """Return the name of a need: an agent with a data set ("": any) and so many slots, whose device gives so much."""
    return f"{data}{_ROOMY}{memory} {slots}"
