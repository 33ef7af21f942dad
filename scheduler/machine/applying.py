"""From a fact to its consequences: one function a fact, looked up in a table. Pure."""

from collections.abc import Callable
from typing import Any

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import OPEN_SEARCHES, SearchRun, SearchState, State, Task, TaskKind, TaskState
from scheduler.effects import Changed, Effect, IllegalTransitionError, Work
from scheduler.facts import (
    AttemptLeased,
    AttemptLost,
    Booted,
    CheckpointReported,
    Event,
    NeedUnmet,
    OutcomeReported,
    SearchCancelled,
    SearchCreated,
    SearchExpired,
)
from scheduler.machine import lifecycle, misfits, searching, tasks, trials, waiting
from scheduler.wishes import (
    AgentDrained,
    DatasetAdded,
    DatasetDeleted,
    SearchDeleted,
    SearchPaused,
    SearchResumed,
    SearchUpdated,
    TrialEnqueued,
)


def apply(state: State, event: Event) -> list[Effect]:
    """Apply one fact to the state, in place, and return what follows from it.

    Raises IllegalTransitionError, with the task's story, where the fact contradicts the state, which is unusable then.
    """
    if event.uptime_s < state.uptime_s:
        raise IllegalTransitionError(f"uptime went back from {state.uptime_s} to {event.uptime_s} s")
    state.sequence += 1
    state.uptime_s = event.uptime_s
    work = Work(state, event.time_us)
    change = event.change
    _RULES[type(change)](work, change)
    if work.settled:
        waiting.settle(work)
    touched = sorted(work.touched, key=_place) if len(work.touched) > 1 else work.touched
    for search, trial in touched:
        run = state.searches[search]
        run.sequence += 1
        state.dirty["search/" + search] = None
        work.effects.append(Changed(search, trial, run.sequence))
    return work.effects


def _place(touched: tuple[str, int]) -> tuple[str, bool, int]:
    """Return where a change comes: the trials of a search first, since its counts follow from them."""
    search, trial = touched
    return search, not trial, trial


def _booted(work: Work, change: Booted) -> None:
    if change.epoch <= work.state.epoch:
        raise IllegalTransitionError(f"epoch went from {work.state.epoch} to {change.epoch}")
    work.state.epoch, work.state.rules = change.epoch, change.rules


def _created(work: Work, change: SearchCreated) -> None:
    if change.search in work.state.searches or change.search in work.state.deleted:
        raise IllegalTransitionError(f"search {change.search} exists, or existed")
    run = SearchRun(change.search, change.spec, work.time_us, work.state.uptime_s)
    run.owner, run.traceparent = change.owner, change.traceparent
    searching.start(work, run)


def _cancelled(work: Work, change: SearchCancelled) -> None:
    searching.cancel(work, _open_search(work, change.search), "cancelled by request")


def _expired(work: Work, change: SearchExpired) -> None:
    run = _open_search(work, change.search)
    if run.state is not SearchState.RUNNING:
        raise IllegalTransitionError(f"search {run.id} is {run.state.name}: wall time counts in the search phase only")
    elapsed = work.state.uptime_s - run.start_uptime_s
    searching.halt(work, run, f"max_wall_time_s reached: {elapsed:.1f} of {run.spec.budget.max_wall_time_s:.1f} s")
    searching.advance(work, run)


def _paused(work: Work, change: SearchPaused) -> None:
    lifecycle.pause(work, _open_search(work, change.search))


def _resumed(work: Work, change: SearchResumed) -> None:
    lifecycle.resume(work, _open_search(work, change.search))


def _updated(work: Work, change: SearchUpdated) -> None:
    lifecycle.update(work, _open_search(work, change.search), change.spec)


def _deleted(work: Work, change: SearchDeleted) -> None:
    run = work.state.searches.get(change.search)
    if run is None:
        raise IllegalTransitionError(f"search {change.search} is unknown")
    lifecycle.delete(work, run)


def _enqueued(work: Work, change: TrialEnqueued) -> None:
    lifecycle.enqueue(work, _open_search(work, change.search), change.proposal)


def _drained(work: Work, change: AgentDrained) -> None:
    lifecycle.drain(work, change)


def _dataset_added(work: Work, change: DatasetAdded) -> None:
    lifecycle.add_dataset(work, change.dataset)


def _dataset_deleted(work: Work, change: DatasetDeleted) -> None:
    lifecycle.delete_dataset(work, change.dataset)


def _leased(work: Work, change: AttemptLeased) -> None:
    task = _task(work, change.task)
    if work.state.searches[task.search].paused:
        raise IllegalTransitionError(f"search {task.search} is paused: {task.story()}")
    tasks.lease(work, task, change.agent, change.members)
    _set_phase(work, task)


def _lost(work: Work, change: AttemptLost) -> None:
    task = _running(work, change.task, change.attempt)
    _fail(work, task, b"", change.failure)


def _checkpointed(work: Work, change: CheckpointReported) -> None:
    task = _running(work, change.task, change.attempt)
    task.checkpoint = change.checkpoint
    work.state.dirty[f"task/{task.id}"] = None


def _reported(work: Work, change: OutcomeReported) -> None:
    outcome = change.outcome
    task = _running(work, outcome.token.task, outcome.token.attempt)
    if outcome.HasField("failure"):
        _fail(work, task, change.digest, outcome.failure)
    elif outcome.HasField("released"):
        _release(work, task, change.digest, outcome.released)
    elif outcome.HasField("infeasible"):
        _outside(work, task, change.digest, outcome.infeasible)
    else:
        tasks.succeed(work, task, change.digest)
        run = work.state.searches[task.search]
        _record(work, run, task, outcome)
        if task.kind is not TaskKind.TRAIN:  # a trained network is scored first, even where the budget is used up
            searching.advance(work, run)


def _record(work: Work, run: SearchRun, task: Task, outcome: dispatch_pb.AttemptOutcome) -> None:
    if task.kind is TaskKind.TRAIN:
        trials.trained(work, run, run.trials[task.trial - 1], outcome.train)
    elif tasks.is_profile(task):
        trials.profiled(work, run, run.trials[task.trial - 1], outcome.evaluate)
    elif task.kind is TaskKind.EVALUATE:
        trials.scored(work, run, run.trials[task.trial - 1], outcome.evaluate)
    elif task.trial:
        trials.admitted(work, run, run.trials[task.trial - 1], outcome.generate.trials[0])
    elif task.ask is not None and task.ask.call:
        searching.record_proposals(work, run, task.ask, outcome.generate)
    else:
        searching.record_final(work, run, outcome.generate)


def _outside(work: Work, task: Task, digest: bytes, violation: pb.ConstraintViolation) -> None:
    if misfits.may_move(work.state.searches[task.search], task, violation):
        misfits.move(work, task, digest, violation)
        _set_phase(work, task)
    else:
        _exclude(work, task, digest, violation)


def _unmet(work: Work, change: NeedUnmet) -> None:
    misfits.give_up(work, _task(work, change.task), change)


def _exclude(work: Work, task: Task, digest: bytes, violation: pb.ConstraintViolation) -> None:
    """End the trial of a task that found its network outside a bound: the task has done its work, nothing failed."""
    tasks.succeed(work, task, digest)
    run = work.state.searches[task.search]
    trial = run.trials[task.trial - 1]
    trial.violation.CopyFrom(violation)
    trials.end(work, run, trial, pb.TRIAL_OUTCOME_INFEASIBLE)
    searching.advance(work, run)


def _release(work: Work, task: Task, digest: bytes, released: dispatch_pb.AttemptReleased) -> None:
    if released.HasField("checkpoint"):
        task.checkpoint = released.checkpoint
    tasks.release(work, task, digest)
    _set_phase(work, task)


def _fail(work: Work, task: Task, digest: bytes, failure: pb.Failure) -> None:
    final = tasks.fail(work, task, digest, failure)
    run = work.state.searches[task.search]
    if final is None:
        _set_phase(work, task)
    elif task.trial:
        trial = run.trials[task.trial - 1]
        trial.failure.CopyFrom(final)
        lost = final.reason == "LOST"
        trials.end(work, run, trial, pb.TRIAL_OUTCOME_LOST if lost else pb.TRIAL_OUTCOME_FAILED)
        searching.advance(work, run)
    else:
        searching.fail(work, run, final)


_PHASES = {
    (TaskKind.GENERATE, TaskState.QUEUED): pb.TRIAL_PHASE_ADMIT_QUEUED,
    (TaskKind.GENERATE, TaskState.RUNNING): pb.TRIAL_PHASE_ADMITTING,
    (TaskKind.TRAIN, TaskState.QUEUED): pb.TRIAL_PHASE_TRAIN_QUEUED,
    (TaskKind.TRAIN, TaskState.RUNNING): pb.TRIAL_PHASE_TRAINING,
    (TaskKind.EVALUATE, TaskState.QUEUED): pb.TRIAL_PHASE_EVALUATE_QUEUED,
    (TaskKind.EVALUATE, TaskState.RUNNING): pb.TRIAL_PHASE_EVALUATING,
}


def _set_phase(work: Work, task: Task) -> None:
    if task.trial:
        run = work.state.searches[task.search]
        run.trials[task.trial - 1].phase = _PHASES[task.kind, task.state]
        trials.mark(work, run, task.trial)


def _task(work: Work, task_id: str) -> Task:
    task = work.state.tasks.get(task_id)
    if task is None:
        raise IllegalTransitionError(f"there is no task {task_id}")
    return task


def _running(work: Work, task_id: str, attempt: int) -> Task:
    task = _task(work, task_id)
    if task.state is not TaskState.RUNNING or task.current().number != attempt:
        raise IllegalTransitionError(f"attempt {attempt} is not in work: {task.story()}")
    return task


def _open_search(work: Work, search: str) -> SearchRun:
    run = work.state.searches.get(search)
    if run is None or run.state not in OPEN_SEARCHES:
        raise IllegalTransitionError(f"search {search} is {run.state.name if run else 'unknown'}, not open")
    return run


_RULES: dict[type, Callable[[Work, Any], None]] = {
    Booted: _booted,
    SearchCreated: _created,
    SearchCancelled: _cancelled,
    SearchExpired: _expired,
    SearchPaused: _paused,
    SearchResumed: _resumed,
    SearchUpdated: _updated,
    SearchDeleted: _deleted,
    TrialEnqueued: _enqueued,
    AgentDrained: _drained,
    DatasetAdded: _dataset_added,
    DatasetDeleted: _dataset_deleted,
    AttemptLeased: _leased,
    AttemptLost: _lost,
    CheckpointReported: _checkpointed,
    NeedUnmet: _unmet,
    OutcomeReported: _reported,
}
