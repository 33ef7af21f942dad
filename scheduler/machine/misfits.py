"""Trainings that did not fit where they ran: queued for a device that gives more, or given up where none does. Pure."""

from nasmesh.memory import METRIC
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import SearchRun, Task, TaskKind, TaskState
from scheduler.effects import IllegalTransitionError, Work
from scheduler.facts import NeedUnmet
from scheduler.machine import searching, tasks, trials


def may_move(run: SearchRun, task: Task, violation: pb.ConstraintViolation) -> bool:
    """Say whether an attempt that found its network outside a bound is one that another device may do.

    Trainings on one server alone: evaluate servers do not say what they give, and all of a gang would have to give it.
    """
    wanted = violation.needed_memory_bytes > task.need_bytes
    return wanted and task.kind is TaskKind.TRAIN and tasks.gang_size(run, task) == 1


def move(work: Work, task: Task, digest: bytes, violation: pb.ConstraintViolation) -> None:
    """Queue a training again, for an agent that gives what it needs; neither counted as failed nor delayed."""
    task.need_bytes = violation.needed_memory_bytes
    tasks.release(work, task, digest)


def give_up(work: Work, task: Task, change: NeedUnmet) -> None:
    """End the trial of a queued training that no known device gives enough: it is outside a bound, nothing failed."""
    if task.state is not TaskState.QUEUED or not task.need_bytes > change.largest_bytes >= 0:
        raise IllegalTransitionError(
            f"{task.need_bytes} bytes are needed, {change.largest_bytes} are given: {task.story()}"
        )
    tasks.cancel(work, task, "no device gives the memory that it needs")
    run = work.state.searches[task.search]
    trial = run.trials[task.trial - 1]
    trial.violation.constraint.metric = METRIC
    trial.violation.constraint.max = change.largest_bytes
    trial.violation.value = task.need_bytes
    trial.violation.needed_memory_bytes = task.need_bytes
    trials.end(work, run, trial, pb.TRIAL_OUTCOME_INFEASIBLE)
    searching.advance(work, run)
