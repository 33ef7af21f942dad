"""What must hold between the attempts that run and what is kept beside the state: leases, and slots of agents."""

from collections.abc import Iterable, Mapping

from scheduler.domain import State, Task, TaskKind, TaskState
from scheduler.invariants import InvariantError


def check_leases(
    running: Iterable[Task], leased: Mapping[tuple[str, str], int], slots: Mapping[tuple[str, TaskKind], int]
) -> None:
    """Check what runs against what is armed: I7 (a lease for every holder of an attempt), I8 (slots of known agents).

    The places of a gang count like any other: one slot of each of its agents. An agent leads one gang at a time, as its
    address serves one.
    """
    held: dict[tuple[str, str], int] = {}
    used: dict[tuple[str, TaskKind], int] = {}
    leading: dict[str, str] = {}
    for task in running:
        attempt = task.current()
        if attempt.members and leading.setdefault(attempt.agent, task.id) != task.id:
            raise InvariantError(f"I8: {attempt.agent} leads {leading[attempt.agent]} too: {task.story()}")
        for agent in attempt.agents:
            held[task.id, agent] = attempt.number
            used[agent, task.kind] = used.get((agent, task.kind), 0) + 1
    if held != dict(leased):
        raise InvariantError(f"I7: running {held}, leased {dict(leased)}")
    for key, count in used.items():
        if key in slots and count > slots[key]:
            raise InvariantError(f"I8: {key[0]} runs {count} {key[1].name} in {slots[key]} slots")


def running_tasks(state: State) -> list[Task]:
    """Return the tasks that run."""
    return [task for task in state.tasks.values() if task.state is TaskState.RUNNING]
