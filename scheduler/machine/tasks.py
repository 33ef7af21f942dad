"""The table of a task's transitions, and the moves that tasks make. Pure."""

from collections.abc import Iterator
from enum import StrEnum
from itertools import count

from nasmesh import limits
from nasmesh.v1 import generate_service_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import OPEN_TASKS, Ask, Attempt, SearchRun, State, Task, TaskKind, TaskState
from scheduler.effects import Closed, Granted, IllegalTransitionError, Queued, Revoked, Work

# Losses that are nobody's fault are not counted, but a task that only ever gets lost must end some day: with back-off
# at its cap this is most of an hour of trying.
LOSSES = 60
_WORK = {TaskKind.GENERATE: "admit", TaskKind.TRAIN: "train", TaskKind.EVALUATE: "evaluate"}
# The reason of failures while the object store was taken for down: those are no losses either, however long it lasts.
STORE_OUTAGE = "STORE_OUTAGE"


class Trigger(StrEnum):
    """What moves a task."""

    LEASE = "lease"
    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY = "retry"
    GIVE_UP = "give up"
    CANCEL = "cancel"


TRANSITIONS: dict[tuple[TaskState, Trigger], TaskState] = {
    (TaskState.QUEUED, Trigger.LEASE): TaskState.RUNNING,
    (TaskState.RUNNING, Trigger.SUCCEED): TaskState.SUCCEEDED,
    (TaskState.RUNNING, Trigger.FAIL): TaskState.FAILED,
    (TaskState.RUNNING, Trigger.RETRY): TaskState.QUEUED,
    (TaskState.RUNNING, Trigger.GIVE_UP): TaskState.QUARANTINED,
    (TaskState.QUEUED, Trigger.CANCEL): TaskState.CANCELLED,
    (TaskState.RUNNING, Trigger.CANCEL): TaskState.CANCELLED,
}


def move(work: Work, task: Task, trigger: Trigger) -> None:
    """Move a task along the table; raises IllegalTransitionError with its story."""
    target = TRANSITIONS.get((task.state, trigger))
    if target is None:
        raise IllegalTransitionError(f"cannot {trigger.value}: {task.story()}")
    task.state = target
    work.state.dirty[f"task/{task.id}"] = None
    if target not in OPEN_TASKS:
        task.proposal = None
        run = work.state.searches[task.search]
        run.open_tasks.pop(task.id, None)
        if run.generate_task == task.id:
            run.generate_task = ""


def create(
    work: Work,
    run: SearchRun,
    kind: TaskKind,
    *,
    trial: int = 0,
    ask: Ask | None = None,
    proposal: generate_service_pb2.Proposal | None = None,
) -> Task:
    """Create a queued task; its id says what it is and is never used twice."""
    state = work.state
    rung = len(run.trials[trial - 1].rungs) if trial and run.ladder is not None else 0
    name = _name_question(state, run, ask) if ask is not None else name_of(run.id, trial, kind, rung)
    task = Task(name, kind, run.id, trial, state.tasks_created + 1, ask=ask, proposal=proposal)
    if rung and kind is TaskKind.TRAIN:  # what the training to the rung before needed, this one needs
        before = state.tasks.get(name_of(run.id, trial, kind, rung - 1))
        task.need_bytes = before.need_bytes if before is not None else 0
    _put(work, run, task)
    if ask is not None:
        run.generate_task = name
    return task


def create_profile(work: Work, run: SearchRun, trial: int) -> Task:
    """Create the task that measures what training does not change, before a trial's network is trained."""
    task = Task(profile_of(run.id, trial), TaskKind.EVALUATE, run.id, trial, work.state.tasks_created + 1)
    _put(work, run, task)
    return task


def _put(work: Work, run: SearchRun, task: Task) -> None:
    state, name = work.state, task.id
    if state.tasks.holds(name):  # what is frozen has ended with its trial, and questions are named past it
        raise IllegalTransitionError(f"cannot create twice: {state.tasks[name].story()}")
    state.tasks_created += 1
    state.tasks[name] = task
    state.dirty["task/" + name] = None
    run.open_tasks[name] = None
    work.effects.append(Queued(name, 0))


def name_of(search: str, trial: int, kind: TaskKind, rung: int = 0) -> str:
    """Return the id of a trial's task; one of kind GENERATE admits its network. `rung`: those it has passed."""
    return f"{search}-t{trial}-{_WORK[kind]}-r{rung}" if rung else f"{search}-t{trial}-{_WORK[kind]}"


def profile_of(search: str, trial: int) -> str:
    """Return the id of the task that measures a trial's network before it is trained."""
    return f"{search}-t{trial}-profile"


def is_profile(task: Task) -> bool:
    """Say whether a task measures an untrained network."""
    return task.kind is TaskKind.EVALUATE and task.id == profile_of(task.search, task.trial)


def _name_question(state: State, run: SearchRun, ask: Ask) -> str:
    """Return the id of a new question; a call of the generator that was withdrawn leaves its id behind."""
    if not ask.call:
        return f"{run.id}-final"
    name = f"{run.id}-g{ask.call}"
    again = renames(name)
    while name in state.tasks:
        name = next(again)
    return name


def renames(name: str) -> Iterator[str]:
    """Yield the ids that questions have whose number was taken, in order."""
    for number in count(2):
        yield f"{name}-{number}"


def spread(run: SearchRun, task: Task) -> tuple[int, int]:
    """Return how many agents a task is leased to, all at once or none, and how many slots an agent must have for it.

    The first is above 1 for a training over several servers, the second for one over several processes of a server.
    """
    if task.kind is not TaskKind.TRAIN:
        return 1, 1
    distribution = run.trials[task.trial - 1].train.distribution
    processes = max(1, distribution.processes)
    return (processes, 1) if distribution.across_hosts else (1, processes)


def gang_size(run: SearchRun, task: Task) -> int:
    """Return how many agents a task is leased to, as `spread` says."""
    return spread(run, task)[0]


def lease(work: Work, task: Task, agent: str, members: tuple[str, ...]) -> None:
    """Start the next attempt at a task, by as many agents as it needs."""
    size = gang_size(work.state.searches[task.search], task)
    if (members or size > 1) and (len(members) != size - 1 or len({agent, *members}) != size):
        raise IllegalTransitionError(f"{agent} with {list(members)} are not {size} agents: {task.story()}")
    move(work, task, Trigger.LEASE)
    task.attempts.append(Attempt(len(task.attempts) + 1, agent, work.state.epoch, work.time_us, members=members))
    work.effects.append(Granted(task.id))


def succeed(work: Work, task: Task, digest: bytes) -> None:
    """End a task with the outcome of its current attempt."""
    move(work, task, Trigger.SUCCEED)
    _close(work, task, digest, None)


def release(work: Work, task: Task, digest: bytes) -> None:
    """Queue a task again whose attempt was given back unharmed; neither counted nor delayed."""
    move(work, task, Trigger.RETRY)
    _close(work, task, digest, None)
    work.effects.append(Queued(task.id, 0))


def fail(work: Work, task: Task, digest: bytes, failure: pb.Failure) -> pb.Failure | None:
    """End the current attempt with a failure; returns why the task ended for good, or None where it is tried again."""
    if failure.retryable and failure.counted:
        task.counted += 1
    elif failure.retryable and failure.reason != STORE_OUTAGE:
        task.losses += 1
    if not failure.retryable:
        trigger, final = Trigger.FAIL, failure
    elif task.counted >= limits.ATTEMPTS:
        trigger, final = Trigger.GIVE_UP, _quarantine(task, failure)
    elif task.losses >= LOSSES:
        trigger, final = Trigger.FAIL, _lost(failure)
    else:
        move(work, task, Trigger.RETRY)
        _close(work, task, digest, failure)
        work.effects.append(Queued(task.id, task.counted + task.losses))
        return None
    move(work, task, trigger)
    _close(work, task, digest, failure)
    return final


def cancel(work: Work, task: Task, reason: str) -> None:
    """Cancel an open task; an agent at work on it is told."""
    running = task.state is TaskState.RUNNING
    move(work, task, Trigger.CANCEL)
    if running:
        _close(work, task, b"", None, reason)


def _close(work: Work, task: Task, digest: bytes, failure: pb.Failure | None, revoked: str = "") -> None:
    """End the current attempt. Agents are told to stop where it is `revoked`, and those of a gang in any case.

    Of those one has ended it itself, and knows nothing of the attempt any more.
    """
    attempt = task.current()
    attempt.ended = True
    attempt.digest = digest
    attempt.failure = failure
    agents = attempt.agents
    work.effects.append(Closed(task.id, attempt.number, agents))
    if attempt.members and not revoked:
        revoked = f"its gang has ended: {failure.reason}: {failure.message}" if failure else "its gang has ended"
    if revoked:
        for agent in agents:
            work.effects.append(Revoked(task.id, attempt.number, attempt.epoch, agent, revoked))


def _quarantine(task: Task, last: pb.Failure) -> pb.Failure:
    reasons = [a.failure for a in task.attempts if a.failure is not None and a.failure.counted] + [last]
    told = "; ".join(f"{f.reason}: {f.message}"[:300] for f in reasons[-limits.ATTEMPTS :])
    return pb.Failure(reason="QUARANTINED", message=f"{limits.ATTEMPTS} attempts failed: {told}", counted=True)


def _lost(last: pb.Failure) -> pb.Failure:
    message = f"given up after {LOSSES} losses that were not its fault; the last: {last.reason}: {last.message}"
    return pb.Failure(reason="LOST", message=message[:1000])
