"""What must hold after every event of any search; tests check it each time."""

from collections.abc import Iterator, Mapping

from nasmesh import limits
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import OPEN_SEARCHES, OPEN_TASKS, SearchRun, SearchState, State, Task, TaskKind, TaskState


class InvariantError(Exception):
    """A promise does not hold; a fault in this program."""


_ENDED_OUTCOMES = {
    TaskState.SUCCEEDED: None,
    TaskState.CANCELLED: pb.TRIAL_OUTCOME_STOPPED,
    TaskState.QUARANTINED: pb.TRIAL_OUTCOME_FAILED,
}


def check(state: State) -> None:
    """Check everything that one state must satisfy by itself: I2, I3, I5, I6, I12, I13 and the links between rows."""
    _raise_first(faults(state))


def faults(state: State) -> Iterator[str]:
    """Yield everything that one state violates by itself, each with its story; `check` raises the first."""
    for task in state.tasks.values():
        yield from _task_faults(state, task)
    for run in state.searches.values():
        yield from _search_faults(state, run)


def check_task(state: State, task: Task) -> None:
    """Check one task against its search and trial: what a fact about it can have broken."""
    _raise_first(_task_faults(state, task))


def check_search(state: State, run: SearchRun) -> None:
    """Check one search's counts against its trials and tasks."""
    _raise_first(_search_faults(state, run))


def check_step(before: Mapping[str, tuple[TaskState, int]], epoch: int, state: State) -> None:
    """Check what must hold between two states: no change out of an end (I4), numbers only grow (I5)."""
    if state.epoch < epoch:
        raise InvariantError(f"I5: epoch fell from {epoch} to {state.epoch}")
    for task_id, (old, attempts) in before.items():
        task = state.tasks[task_id]
        if old not in OPEN_TASKS and task.state is not old:
            raise InvariantError(f"I4: was {old.name}: {task.story()}")
        if len(task.attempts) < attempts:
            raise InvariantError(f"I5: had {attempts} attempts: {task.story()}")


def check_leases(state: State, leased: Mapping[str, int], slots: Mapping[tuple[str, TaskKind], int]) -> None:
    """Check what runs against what is armed: I7 (a lease for every running attempt), I8 (slots of known agents)."""
    running = {t.id: t.current().number for t in state.tasks.values() if t.state is TaskState.RUNNING}
    if running != dict(leased):
        raise InvariantError(f"I7: running {running}, leased {dict(leased)}")
    used: dict[tuple[str, TaskKind], int] = {}
    for task_id in running:
        task = state.tasks[task_id]
        key = (task.current().agent, task.kind)
        used[key] = used.get(key, 0) + 1
    for key, count in used.items():
        if key in slots and count > slots[key]:
            raise InvariantError(f"I8: {key[0]} runs {count} {key[1].name} in {slots[key]} slots")


def remember(state: State) -> dict[str, tuple[TaskState, int]]:
    """Return what check_step compares with."""
    return {task.id: (task.state, len(task.attempts)) for task in state.tasks.values()}


def _raise_first(faults: Iterator[str]) -> None:
    fault = next(faults, None)
    if fault is not None:
        raise InvariantError(fault)


def _task_faults(state: State, task: Task) -> Iterator[str]:
    run = state.searches.get(task.search)
    if run is None:
        yield f"task of no search: {task.story()}"
        return
    numbers = [attempt.number for attempt in task.attempts]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"I5: attempt numbers {numbers}: {task.story()}"
    epochs = [attempt.epoch for attempt in task.attempts]
    if epochs != sorted(epochs) or (epochs and epochs[-1] > state.epoch):
        yield f"I5: epochs {epochs} under {state.epoch}: {task.story()}"
    open_attempts = [attempt for attempt in task.attempts if not attempt.ended]
    if (task.state is TaskState.RUNNING) != (open_attempts == task.attempts[-1:] and bool(open_attempts)):
        yield f"I3: open attempts {[a.number for a in open_attempts]}: {task.story()}"
    recorded = [a for a in task.attempts if a.ended and a.digest and a.failure is None]
    if task.state is TaskState.SUCCEEDED and recorded[-1:] != task.attempts[-1:]:
        yield f"I2: succeeded without its last attempt's outcome: {task.story()}"
    counted = sum(1 for a in task.attempts if a.failure and a.failure.counted and a.failure.retryable)
    if counted != task.counted or (task.state is TaskState.QUARANTINED) != (counted >= limits.ATTEMPTS):
        yield f"I12: {counted} counted failures: {task.story()}"
    if (task.state in OPEN_TASKS) != (task.id in run.open_tasks):
        yield f"open tasks of {run.id} are {list(run.open_tasks)}: {task.story()}"
    if task.trial:
        yield from _link_faults(run, task)


def _link_faults(run: SearchRun, task: Task) -> Iterator[str]:
    trial = run.trials[task.trial - 1]
    if task.state in OPEN_TASKS and trial.outcome:
        yield f"trial {trial.number} has ended with open work: {task.story()}"
    wanted = _ENDED_OUTCOMES.get(task.state)
    if wanted is not None and trial.outcome != wanted:
        yield f"trial {trial.number} has outcome {trial.outcome}: {task.story()}"
    if task.kind is TaskKind.EVALUATE and task.state is TaskState.SUCCEEDED and not trial.outcome:
        yield f"I2: trial {trial.number} is scored without outcome: {task.story()}"


def _search_faults(state: State, run: SearchRun) -> Iterator[str]:
    ended = [trial for trial in run.trials if trial.outcome]
    if run.active != len(run.trials) - len(ended) or sum(run.outcomes.values()) != len(ended):
        yield f"I6: {run.id} counts {run.active} active and {run.outcomes}, of {len(run.trials)} trials"
    if sorted(run.results) != [trial.number for trial in ended if not trial.final]:
        yield f"I2: {run.id} has results {run.results}"
    budget = run.spec.budget
    scored = len(run.results) - run.outcomes.get(pb.TRIAL_OUTCOME_LOST, 0)
    if 0 < budget.max_trials < scored or 0 < budget.max_iterations < run.iterations:
        yield f"I6: {run.id} spent {scored} trials, {run.iterations} iterations of {budget}"
    if not run.cursor <= len(run.results):
        yield f"{run.id} delivered {run.cursor} of {len(run.results)} results"
    generating = [t for t in run.open_tasks if state.tasks[t].kind is TaskKind.GENERATE]
    if generating != ([run.generate_task] if run.generate_task else []):
        yield f"{run.id} asks by {run.generate_task!r} and {generating}"
    if run.state in OPEN_SEARCHES and not run.open_tasks:
        yield f"I15: {run.id} is {run.state.name} with no open task: it would never end"
    if run.state not in OPEN_SEARCHES and (run.open_tasks or run.active):
        yield f"I4: {run.id} is {run.state.name} with open tasks {list(run.open_tasks)}"
    if run.state is SearchState.RUNNING and run.final_trials:
        yield f"{run.id} has final trials in its search phase"
    names = {trial.name: trial for trial in run.trials}
    for trial in run.trials:
        if any(parent not in names or names[parent].number >= trial.number for parent in trial.parents):
            yield f"I13: {trial.name} descends from {list(trial.parents)}"
