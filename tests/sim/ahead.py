"""Leases that wait at an agent for a slot: none is given while another agent could begin that work at once."""

from collections import Counter
from collections.abc import Iterable

from scheduler.agents import AgentEntry
from scheduler.domain import TaskKind
from scheduler.invariants import InvariantError
from scheduler.step import Step


def check(step: Step, agents: Iterable[AgentEntry]) -> int:
    """Check the leases of a step that was just prepared, before anybody hears of them; returns how many wait.

    The last thing that a step does is to give leases: what each agent had room for at every one of them follows from
    what is left at the end. Who takes the same sort of work, on as much memory, could have had the lease; who is kept
    for a gang could not, but then no lease of that kind waits anywhere either.
    """
    others = list(agents)
    given: Counter[tuple[str, TaskKind]] = Counter()
    begun: Counter[tuple[str, TaskKind]] = Counter()

    def room(agent: AgentEntry, kind: TaskKind) -> int:
        if agent.session is None or agent.draining or agent.drained:
            return 0
        free = agent.free.get(kind, 0) + begun[agent.name, kind]
        return min(free, agent.slots.get(kind, 0) - agent.used.get(kind, 0) + given[agent.name, kind])

    waiting = 0
    for entry, kind, ahead in reversed(step.given):
        given[entry.name, kind] += 1
        begun[entry.name, kind] += not ahead
        if room(entry, kind) > 0:
            continue
        waiting += 1
        for other in others:
            alike = other.sort(kind) == entry.sort(kind) and other.gives_bytes >= entry.gives_bytes
            if other.name != entry.name and alike and room(other, kind) > 0:
                raise InvariantError(
                    f"ahead: {entry.name} was leased {kind.name} that waits there, and {other.name} has a free slot"
                )
    return waiting
