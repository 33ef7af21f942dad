"""Work that waits, work that is out, and its times: the state's open tasks, arranged to be found fast."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scheduler.agents import AgentEntry, Agents
from scheduler.domain import OPEN_SEARCHES, SearchRun, SearchState, State, Task, TaskKind, TaskState
from scheduler.facts import Change, NeedUnmet, SearchExpired
from scheduler.machine.tasks import is_profile, spread
from scheduler.needs import Needs
from scheduler.placement import Placement, Waiting
from scheduler.timers import Alarms, Leases, backoff_s

# Tasks leased in one step: what a generator proposes at once must not hold up everybody else. The next step follows.
LEASES_A_STEP = 64


@dataclass(frozen=True, slots=True)
class Due:
    """What time brought: tasks whose lease ran out at an agent, searches whose wall time may be used up.

    `unmet` are trainings that need more memory than any known agent gives, with the most that one gives.
    """

    expired: list[tuple[str, str]]
    walls: list[str]
    unmet: list[tuple[str, int]]

    def changes(self, state: State) -> Iterator[Change]:
        """Yield what follows, each where the ones before it have left something to it."""
        for search in self.walls:
            if state.searches[search].state is SearchState.RUNNING:
                yield SearchExpired(search)
        for task, largest_bytes in self.unmet:
            if state.tasks[task].state is TaskState.QUEUED:
                yield NeedUnmet(task, largest_bytes)


class Workload:
    """Queues, leases, back-offs and wall times. Rebuilt from the state at a start; never stored."""

    def __init__(self, agents: Agents, *, seed: int, lease_s: float) -> None:
        """Hold nothing yet; `seed` varies the back-off."""
        self.leases = Leases(lease_s)
        self.needs = Needs(agents, lease_s)
        self._agents = agents
        self._seed = seed
        self._placement = Placement()
        self._delayed = Alarms()
        self._resting: set[str] = set()
        self._walls = Alarms()

    def rebuild(self, state: State, now: float) -> None:
        """Queue what the state says is queued, and give what it says is running a full lease."""
        self._placement.clear()
        self._delayed.clear()
        self._resting.clear()
        self._walls.clear()
        self.leases.clear()
        self.needs.rebuilt(now)
        self._agents.forget_held()
        for run in state.searches.values():
            if run.state in OPEN_SEARCHES:
                self.watch_wall(run)
                for task_id in run.open_tasks:
                    self._restore(run, state.tasks[task_id], now)
        for entry in self._agents.connected():
            self.offer(entry)

    def _restore(self, run: SearchRun, task: Task, now: float) -> None:
        if task.state is TaskState.QUEUED:
            self._enqueue(run, task)
        else:
            self.granted(task, now)

    def queued(self, run: SearchRun, task: Task, failures: int, now: float) -> None:
        """Queue a task, after a back-off where it failed before."""
        delay = backoff_s(self._seed, task.id, failures)
        if delay > 0:
            self._resting.add(task.id)
            self._delayed.set(task.id, now + delay)
        else:
            self._enqueue(run, task)

    def granted(self, task: Task, now: float) -> None:
        """Arm the leases of a task's attempt."""
        attempt = task.current()
        for agent in attempt.agents:
            self.leases.arm(task.id, agent, attempt.number, now)
            self._agents.grant(agent, task.id, task.kind)
        self._placement.started(task.id, task.kind, task.search, attempt.agents)

    def closed(self, task: str, agents: tuple[str, ...]) -> None:
        """Disarm the leases of an attempt and offer its slots again."""
        self._placement.ended(task)
        for agent in agents:
            self.leases.disarm(task, agent)
            released = self._agents.release(agent, task)
            if released is not None:
                self.offer(*released)

    def offer(self, entry: AgentEntry, kind: TaskKind | None = None) -> None:
        """Consider an agent for work, of one kind or of any."""
        self._placement.offer(entry, kind)

    def rearranged(self, state: State, run: SearchRun) -> None:
        """Follow what a person changed: a held search waits for nobody, others stand by their priority."""
        self.watch_wall(run)
        if run.paused:
            self._placement.forget(run.id)
            return
        self._placement.reprioritise(run.id, run.spec.priority)
        for task_id in run.open_tasks:
            if state.tasks[task_id].state is TaskState.QUEUED and task_id not in self._resting:
                self._enqueue(run, state.tasks[task_id])

    def forget(self, search: str) -> None:
        """Drop what waits of a search that has ended."""
        self._placement.forget(search)

    def watch_wall(self, run: SearchRun) -> None:
        """Set the alarm of a search's wall time."""
        most = run.spec.budget.max_wall_time_s
        if most > 0 and run.state is SearchState.RUNNING:
            self._walls.set(run.id, run.start_uptime_s + most)

    def due(self, state: State, now: float, uptime_s: float) -> Due:
        """Queue tasks whose back-off ended, and return what else time brought."""
        for task_id in self._delayed.due(now):
            self._resting.discard(task_id)
            task = state.tasks.get(task_id)
            if task is not None and task.state is TaskState.QUEUED:
                self._enqueue(state.searches[task.search], task)
        walls = [search for search in self._walls.due(uptime_s) if _is_over(state.searches.get(search), uptime_s)]
        return Due(self.leases.expired(now), walls, self.needs.unmet(state, now))

    def lacking(self, state: State, run: SearchRun) -> str:
        """Return which work of a search waits because the agents that it needs are not connected; "" for none."""
        for task_id, why in self._placement.lacking(run.id):
            task = state.tasks.open(task_id)
            if task is not None and task.state is TaskState.QUEUED:
                return f"trial {task.trial} waits: {why}"
        return self.needs.lacking(state, run) or self._short_of_slots(state, run)

    def _short_of_slots(self, state: State, run: SearchRun) -> str:
        """Return which training of a search waits since no connected agent has as many slots; "" for none."""
        for task_id, slots in self._placement.over_processes(run.id):
            task = state.tasks.open(task_id)
            if task is None or task.state is not TaskState.QUEUED:
                continue
            need, most = need_of(run, task), 0
            for entry in self._agents.connected():
                if entry.can_train(need):
                    most = max(most, entry.slots[TaskKind.TRAIN])
            if 0 < most < slots:
                return (
                    f"trial {task.trial} waits: a training over {slots} processes takes as many slots of one train "
                    f"server, and the connected ones have {most} at most; start one with more (--slots)"
                )
        return ""

    def match(self, state: State, lease: Callable[[str, list[AgentEntry]], None], *, most: int) -> bool:
        """Call `lease` for queued tasks that agents can take now, rank 0 first; returns whether `most` cut it short."""
        return self._placement.match(lambda task: state.tasks[task].state is TaskState.QUEUED, lease, most=most)

    def next_deadline(self, uptime_offset_s: float) -> float:
        """Return the monotonic time at which `due` has something to say; uptime is monotonic plus the offset."""
        wall = self._walls.next_deadline() - uptime_offset_s
        return min(self.leases.next_deadline(), self._delayed.next_deadline(), wall, self.needs.next_look())

    def _enqueue(self, run: SearchRun, task: Task) -> None:
        if run.paused:
            return
        need, memory = need_of(run, task), task.need_bytes
        size, slots = spread(run, task)
        self._placement.add(
            Waiting(task.id, run.id, task.kind, need, run.spec.priority, task.order, size, memory, slots)
        )
        if memory:
            self.needs.add(task.id, need)


def need_of(run: SearchRun, task: Task) -> str:
    """Return the generator or data set that a server must have for a task; "" for any."""
    if task.kind is TaskKind.GENERATE:
        return run.spec.generator.generator if task.ask and task.ask.call else ""
    # What was added is in the object store: every server can fetch it. A table reads no data, and neither does who
    # measures an untrained network.
    reads = not run.spec.evaluate.table and not is_profile(task)
    return run.spec.data.dataset if reads and not run.spec.data.HasField("manifest") else ""


def _is_over(run: SearchRun | None, uptime_s: float) -> bool:
    """Say whether a search's wall time is used up; the alarm may be one of an earlier budget."""
    most = run.spec.budget.max_wall_time_s if run is not None and run.state is SearchState.RUNNING else 0.0
    return run is not None and most > 0 and run.start_uptime_s + most <= uptime_s
