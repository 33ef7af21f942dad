"""Which agents train one network together: as many as its training asks for, leased at one instant or not at all.

The gang that comes first in the order of fairness is waited for, if the connected agents could form it: from then on,
whoever comes after it gets no slot of theirs, until as many are free at once as it needs. A gang holds nothing while it
waits, so that no two gangs ever wait for each other; one that too few agents are there for keeps nothing from anybody.
"""

from collections import Counter

from nasmesh.settings import is_loopback, parse_address
from scheduler.agents import AgentEntry
from scheduler.domain import TaskKind

_TRAIN = TaskKind.TRAIN


class Gangs:
    """Agents that can take part in gangs, those of them that have room, and what gangs need. In memory only.

    Agents whose address is one of loopback meet each other only, and so do the others.
    """

    def __init__(self) -> None:
        """Know nobody."""
        self._able: dict[str, AgentEntry] = {}
        self._ready: dict[str, AgentEntry] = {}
        self._near: dict[str, bool] = {}
        self._wanted: dict[str, tuple[str, int]] = {}
        self._leading: Counter[str] = Counter()
        self._awaited: tuple[str, list[bool]] | None = None

    def need(self, data: str, size: int) -> str:
        """Return the name of what a gang needs: so many agents with a data set ("": any)."""
        name = f"{data} by {size}"
        self._wanted[name] = (data, size)
        return name

    def is_need(self, name: str) -> bool:
        """Say whether this is a need of a gang."""
        return name in self._wanted

    def join(self, agent: AgentEntry) -> None:
        """Consider an agent that may have room for a training now."""
        name = agent.name
        if agent.session is None:  # the last words of a stream that another has replaced
            return
        if not (agent.gang_address and agent.slots.get(_TRAIN)):
            if name in self._able:  # its server was started anew, without an address
                del self._able[name]
                self._ready.pop(name, None)
            return
        if self._able.get(name) is not agent:
            self._able[name] = agent
            self._near[name] = is_loopback(parse_address(agent.gang_address)[0])
        if agent.room(_TRAIN) > 0:
            self._ready[name] = agent

    def leave(self, name: str) -> None:
        """Put an agent last when it joins again."""
        self._ready.pop(name, None)

    def begin(self) -> None:
        """Begin a round of matching: no slot is kept for anybody yet."""
        self._awaited = None

    @property
    def awaits(self) -> bool:
        """Whether slots are kept for a gang in this round."""
        return self._awaited is not None

    def crew(self, need: str) -> list[AgentEntry]:
        """Return the agents that can begin a gang's training now, rank 0 first, or none.

        Where too few have room, but enough are there, slots are kept for it for the rest of the round.
        """
        data, size = self._wanted[need]
        possible = self._possible(data, size)
        if not possible:
            return []
        ready: list[AgentEntry] = []
        for name, agent in list(self._ready.items()):
            if agent.room(_TRAIN) <= 0:
                del self._ready[name]
            elif agent.can_do(_TRAIN, data) and not self.keeps(agent):
                ready.append(agent)
        for near in possible:
            alike = [agent for agent in ready if self._near[agent.name] == near]
            leaders = [agent for agent in alike if not self._leading[agent.name]]
            if len(alike) >= size and leaders:
                first = leaders[0]
                return [first, *[agent for agent in alike if agent is not first][: size - 1]]
        if self._awaited is None:
            self._awaited = data, possible
        return []

    def keeps(self, agent: AgentEntry) -> bool:
        """Say whether the last slot that an agent has free is kept for the gang that is waited for."""
        if self._awaited is None or not agent.gang_address or agent.room(_TRAIN) > 1:
            return False
        data, possible = self._awaited
        return agent.can_do(_TRAIN, data) and self._near[agent.name] in possible

    def started(self, leader: str) -> None:
        """Note that an agent leads a gang: its address serves one at a time."""
        self._leading[leader] += 1

    def ended(self, leader: str) -> None:
        """Note that a gang has ended."""
        self._leading[leader] -= 1
        if self._leading[leader] <= 0:
            del self._leading[leader]

    def lacking(self, need: str) -> str:
        """Return why a gang can not be formed of the agents that are connected; nothing where it can."""
        data, size = self._wanted[need]
        if self._possible(data, size):
            return ""
        found = max(len(self._suited(data, near, size)) for near in (False, True))
        having = f" with {data}" if data else ""
        return (
            f"a training over {size} servers waits for agents: {found or 'none'} of the connected train servers{having}"
            f" {'takes' if found == 1 else 'take'} part in such trainings; start more with --gang-listen"
        )

    def clear(self) -> None:
        """Forget all."""
        self._able.clear()
        self._ready.clear()
        self._near.clear()
        self._wanted.clear()
        self._leading.clear()
        self._awaited = None

    def _possible(self, data: str, size: int) -> list[bool]:
        """Return whether agents on several hosts are enough (False), and those that are reached from their own only."""
        return [near for near in (False, True) if len(self._suited(data, near, size)) >= size]

    def _suited(self, data: str, near: bool, most: int) -> list[str]:
        """Return up to so many connected agents that could take part, with or without room."""
        found: list[str] = []
        away: list[str] = []
        for name, agent in self._able.items():
            if len(found) == most:
                break
            if agent.session is None:
                away.append(name)
            elif not (agent.draining or agent.drained) and self._near[name] == near and agent.can_do(_TRAIN, data):
                found.append(name)
        for name in away:  # it joins again when it is back
            del self._able[name]
            self._ready.pop(name, None)
        return found
