"""Why nothing of a search is at work, in words for people: which servers are not there, or have no room. Reads only."""

from scheduler.agents import AgentEntry, Agents
from scheduler.domain import SearchRun, State, Task, TaskKind, TaskState
from scheduler.offers import Offers
from scheduler.workload import need_of

_WORDS = {TaskKind.GENERATE: "generate", TaskKind.TRAIN: "train", TaskKind.EVALUATE: "evaluate"}


def why_idle(state: State, run: SearchRun, agents: Agents, offers: Offers) -> str:
    """Return why no task of an open search is leased; "" where one is, or will be at once.

    One cause for each kind of work that waits.
    """
    if run.paused:
        return ""
    waiting: dict[tuple[TaskKind, str], Task] = {}
    for task_id in run.open_tasks:
        task = state.tasks.open(task_id)
        if task is None or task.state is TaskState.RUNNING:
            return ""
        waiting.setdefault((task.kind, need_of(run, task)), task)
    found, connected = [], agents.connected()
    for (kind, need), task in waiting.items():
        why = _why(kind, need, [entry for entry in connected if entry.slots.get(kind)], offers)
        if why:
            found.append(f"{f'trial {task.trial} waits' if task.trial else 'the next networks wait'}: {why}")
    return "; ".join(found)


def _why(kind: TaskKind, need: str, servers: list[AgentEntry], offers: Offers) -> str:
    word = _WORDS[kind]
    if not servers:
        if next(iter(offers.servers(kind)), None) is not None:
            return f"no {word} server is connected yet; a deployer starts them"
        return f"no {word} server is connected; start one: nasmesh serve {word}"
    able = [entry for entry in servers if entry.can_do(kind, need)]
    if not able:
        return f"none of the connected {word} servers ({len(servers)}) has {need}"
    open_ones = [entry for entry in able if not (entry.draining or entry.drained)]
    if not open_ones:
        return f"all {word} servers that could do it ({len(able)}) are drained"
    slots = sum(entry.slots[kind] for entry in open_ones)
    if sum(entry.used.get(kind, 0) for entry in open_ones) >= slots:
        return f"all slots of the {word} servers that could do it ({slots}) are taken"
    return ""
