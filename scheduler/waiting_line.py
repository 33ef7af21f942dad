"""Agents with room for one kind of task, in the order in which they asked. Pure bookkeeping in memory.

Agents that can do the same stand in one line, so that finding the first one for a need looks at each *sort* of agent
once, however many agents there are.
"""

from collections.abc import Callable
from itertools import count

from scheduler.agents import AgentEntry
from scheduler.domain import TaskKind

# What an agent can do: names of generators or data sets; None: anything.
Sort = frozenset[str] | None


class WaitingLine:
    """Agents that may have room for a kind."""

    def __init__(self, kind: TaskKind, room: Callable[[AgentEntry, TaskKind], int]) -> None:
        """Hold nobody; `room` tells how many leases of the kind an agent takes here."""
        self._kind = kind
        self._room = room
        self._lines: dict[Sort, dict[str, tuple[int, AgentEntry]]] = {}
        self._sorts: dict[str, Sort] = {}
        self._numbers = count()

    def join(self, agent: AgentEntry) -> None:
        """Put an agent at the end, or leave it where it stands; a new entry takes the place of the old one."""
        sort = agent.sort(self._kind)
        if self._sorts.get(agent.name, sort) != sort:
            self.leave(agent.name)
        line = self._lines.setdefault(sort, {})
        number = line[agent.name][0] if agent.name in line else next(self._numbers)
        line[agent.name] = (number, agent)
        self._sorts[agent.name] = sort

    def leave(self, name: str) -> None:
        """Take an agent out."""
        sort = self._sorts.pop(name, None)
        line = self._lines.get(sort)
        if line is not None:
            line.pop(name, None)
            if not line:
                del self._lines[sort]

    def first(self, need: str, but: Callable[[AgentEntry], bool] | None = None) -> AgentEntry | None:
        """Return the agent that has waited longest of those that can do what is needed ("": any can).

        Agents without room leave the line when they come up. `but`: agents that stay in line and are passed over.
        """
        best: tuple[int, AgentEntry] | None = None
        for sort in [sort for sort in self._lines if not need or sort is None or need in sort]:
            found = self._first_with_room(sort) if but is None else self._first_other(sort, but)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        return best[1] if best else None

    def __bool__(self) -> bool:
        """Say whether anybody stands here."""
        return bool(self._lines)

    def clear(self) -> None:
        """Send everybody away."""
        self._lines.clear()
        self._sorts.clear()

    def _first_with_room(self, sort: Sort) -> tuple[int, AgentEntry] | None:
        while line := self._lines.get(sort):
            number, agent = next(iter(line.values()))
            if self._room(agent, self._kind) > 0:
                return number, agent
            self.leave(agent.name)
        return None

    def _first_other(self, sort: Sort, but: Callable[[AgentEntry], bool]) -> tuple[int, AgentEntry] | None:
        for number, agent in list(self._lines[sort].values()):
            if self._room(agent, self._kind) <= 0:
                self.leave(agent.name)
            elif not but(agent):
                return number, agent
        return None
