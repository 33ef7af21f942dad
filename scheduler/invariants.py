"""What must hold after every event of any search; tests check it each time."""

from collections.abc import Iterator, Mapping

from nasmesh import limits
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import OPEN_SEARCHES, OPEN_TASKS, SearchRun, SearchState, State, Task, TaskKind, TaskState
from scheduler.ladder import ladder_of
from scheduler.machine import reuse
from scheduler.machine.tasks import gang_size, name_of, profile_of


class InvariantError(Exception):
    """A promise does not hold; a fault in this program."""


_ENDED_OUTCOMES = {
    TaskState.SUCCEEDED: None,
    TaskState.CANCELLED: pb.TRIAL_OUTCOME_STOPPED,
    TaskState.QUARANTINED: pb.TRIAL_OUTCOME_FAILED,
}

_OPEN_PHASES = {
    (TaskKind.TRAIN, TaskState.QUEUED): pb.TRIAL_PHASE_TRAIN_QUEUED,
    (TaskKind.TRAIN, TaskState.RUNNING): pb.TRIAL_PHASE_TRAINING,
    (TaskKind.EVALUATE, TaskState.QUEUED): pb.TRIAL_PHASE_EVALUATE_QUEUED,
    (TaskKind.EVALUATE, TaskState.RUNNING): pb.TRIAL_PHASE_EVALUATING,
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
        yield from rung_faults(run)
    yield from reuse_faults(state)
    yield from waiting_faults(state)


def check_task(state: State, task: Task) -> None:
    """Check one task against its search and trial: what a fact about it can have broken."""
    _raise_first(_task_faults(state, task))


def check_search(state: State, run: SearchRun) -> None:
    """Check one search's counts against its trials and tasks."""
    _raise_first(_search_faults(state, run))
    _raise_first(rung_faults(run))


def check_waiting(state: State) -> None:
    """Check who waits for whom, across searches."""
    _raise_first(waiting_faults(state))


def check_step(before: Mapping[str, tuple[TaskState, int]], epoch: int, state: State) -> None:
    """Check what must hold between two states: no change out of an end (I4), numbers only grow (I5)."""
    if state.epoch < epoch:
        raise InvariantError(f"I5: epoch fell from {epoch} to {state.epoch}")
    for task_id, (old, attempts) in before.items():
        task = state.tasks.get(task_id)
        if task is None:
            if old in OPEN_TASKS or not any(task_id.startswith(f"{search}-") for search in state.deleted):
                raise InvariantError(f"I4: task {task_id} was {old.name} and is gone")
            continue
        if old not in OPEN_TASKS and task.state is not old:
            raise InvariantError(f"I4: was {old.name}: {task.story()}")
        if len(task.attempts) < attempts:
            raise InvariantError(f"I5: had {attempts} attempts: {task.story()}")
        if len(task.attempts) > attempts and state.searches[task.search].paused:
            raise InvariantError(f"leased while its search is paused: {task.story()}")


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
    yield from _gang_faults(run, task)
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
    if task.need_bytes < 0 or (task.need_bytes and (task.kind is not TaskKind.TRAIN or gang_size(run, task) > 1)):
        yield f"needs {task.need_bytes} bytes of a device, as no such task does: {task.story()}"
    if task.trial:
        yield from _link_faults(run, task)


def _gang_faults(run: SearchRun, task: Task) -> Iterator[str]:
    """Yield where an attempt has not as many agents as its training needs, or one of them twice: all or none."""
    size = gang_size(run, task)
    for attempt in task.attempts:
        if not len(attempt.agents) == len(set(attempt.agents)) == size:
            yield f"I8: attempt {attempt.number} has {list(attempt.agents)} where {size} are needed: {task.story()}"


def _link_faults(run: SearchRun, task: Task) -> Iterator[str]:
    trial = run.trials[task.trial - 1]
    if task.state in OPEN_TASKS and trial.outcome:
        yield f"trial {trial.number} has ended with open work: {task.story()}"
    wanted = _ENDED_OUTCOMES.get(task.state)
    unmet = task.state is TaskState.CANCELLED and trial.violation.needed_memory_bytes == task.need_bytes > 0
    if wanted is not None and trial.outcome != (pb.TRIAL_OUTCOME_INFEASIBLE if unmet else wanted):
        yield f"trial {trial.number} has outcome {trial.outcome}: {task.story()}"
    phase = _OPEN_PHASES.get((task.kind, task.state))
    if phase is not None and trial.phase != phase:
        yield f"trial {trial.number} is in phase {trial.phase}: {task.story()}"
    passed = task.id != name_of(run.id, trial.number, task.kind, len(trial.rungs))
    if task.kind is TaskKind.EVALUATE and task.state is TaskState.SUCCEEDED and not (trial.outcome or passed):
        yield f"I2: trial {trial.number} is scored without outcome: {task.story()}"
    infeasible = trial.outcome == pb.TRIAL_OUTCOME_INFEASIBLE
    if infeasible != trial.HasField("violation"):
        yield f"trial {trial.number} has outcome {trial.outcome}, violation {trial.violation}: {task.story()}"


def _search_faults(state: State, run: SearchRun) -> Iterator[str]:
    ended = [trial for trial in run.trials if trial.outcome]
    if run.active != len(run.trials) - len(ended) or sum(run.outcomes.values()) != len(ended):
        yield f"I6: {run.id} counts {run.active} active and {run.outcomes}, of {len(run.trials)} trials"
    if sorted(run.results) != [trial.number for trial in ended if not trial.final]:
        yield f"I2: {run.id} has results {run.results}"
    budget = run.spec.budget
    scored = len(run.results) - run.outcomes.get(pb.TRIAL_OUTCOME_LOST, 0)
    too_many = 0 < budget.max_trials < scored - run.overdrawn_trials
    if too_many or 0 < budget.max_iterations < run.iterations - run.overdrawn_iterations:
        yield f"I6: {run.id} spent {scored} trials, {run.iterations} iterations of {budget}"
    if not run.cursor <= len(run.results):
        yield f"{run.id} delivered {run.cursor} of {len(run.results)} results"
    generating = [t for t in run.open_tasks if state.tasks[t].ask is not None]
    if generating != ([run.generate_task] if run.generate_task else []):
        yield f"{run.id} asks by {run.generate_task!r} and {generating}"
    waiting = [number for places in state.waiting.values() for search, number in places if search == run.id]
    if run.state in OPEN_SEARCHES and not run.open_tasks and not waiting:
        yield f"I15: {run.id} is {run.state.name} with no open task: it would never end"
    if run.state not in OPEN_SEARCHES and (run.open_tasks or run.active):
        yield f"I4: {run.id} is {run.state.name} with open tasks {list(run.open_tasks)}"
    if run.paused and run.state not in OPEN_SEARCHES:
        yield f"{run.id} is paused and {run.state.name}"
    if run.id in state.deleted:
        yield f"{run.id} is deleted and there"
    if run.state is SearchState.RUNNING and run.final_trials:
        yield f"{run.id} has final trials in its search phase"
    if (run.state in OPEN_SEARCHES) != (run.end_time_us == 0):
        yield f"I4: {run.id} is {run.state.name} and ended at {run.end_time_us}"
    names = {trial.name: trial for trial in run.trials}
    for trial in run.trials:
        if bool(trial.outcome) != (trial.phase == pb.TRIAL_PHASE_UNSPECIFIED) or bool(trial.outcome) != trial.HasField(
            "end_time"
        ):
            yield f"I4: {trial.name} has outcome {trial.outcome}, phase {trial.phase}, end {trial.end_time.seconds}"
        if trial.network.name and trial.network.name not in state.networks:
            yield f"{trial.name} has {trial.network.name}, which is not listed"
        if not trial.train.HasField("seed"):
            yield f"{trial.name} has no seed"
        if any(parent not in names or names[parent].number >= trial.number for parent in trial.parents):
            yield f"I13: {trial.name} descends from {list(trial.parents)}"


def rung_faults(run: SearchRun) -> Iterator[str]:
    """Yield where the rungs are not as the trials say, or where a held trial has work, or none ever had its say."""
    wanted = ladder_of(run.spec, run.trials) if run.state is SearchState.RUNNING else None
    if run.ladder != wanted:
        yield f"{run.id} has rungs {run.ladder}, its trials say {wanted}"
    at_work = {task.rpartition("-t")[2].partition("-")[0] for task in run.open_tasks}
    for trial in run.trials:
        decisions = [rung.decision for rung in trial.rungs]
        told = all(decision == pb.RUNG_DECISION_PROMOTED for decision in decisions[:-1])
        is_held = trial.phase == pb.TRIAL_PHASE_HELD
        if [rung.index for rung in trial.rungs] != list(range(len(decisions))) or not told:
            yield f"{trial.name} has passed rungs {list(trial.rungs)}"
        if is_held and (str(trial.number) in at_work or trial.number in run.digests):
            yield f"{trial.name} is held, and at work or waited for"
        if is_held != (not trial.outcome and decisions[-1:] == [pb.RUNG_DECISION_UNSPECIFIED]):
            yield f"{trial.name} is in phase {trial.phase} at rungs {list(trial.rungs)}"
        succeeded = trial.outcome == pb.TRIAL_OUTCOME_SUCCEEDED
        if succeeded and any(decision != pb.RUNG_DECISION_PROMOTED for decision in decisions):
            yield f"{trial.name} succeeded from rungs {list(trial.rungs)}"
    whole = [trial.number for trial in run.trials if trial.outcome == pb.TRIAL_OUTCOME_SUCCEEDED and not trial.final]
    partly = [number for _, number in run.leaders if number not in whole]
    if partly and (whole or run.state is SearchState.RUNNING or not all(run.trials[n - 1].rungs for n in partly)):
        yield f"{run.id} is led by {partly}, of which none was trained to its end, where {len(whole)} were"


def reuse_faults(state: State) -> Iterator[str]:
    """Yield where the index of what was measured, or what a trial took over, is not what its source measured."""
    kept = {digest: place for run in state.searches.values() for digest, place in reuse.index(run).items()}
    if kept != state.measured:
        yield f"the searches keep {len(kept)} measured trials, the index {len(state.measured)}"
    held = [(digest, *place) for digest, place in state.measured.items()]
    again = [(digest, *place) for digest, places in state.repeats.items() for place in places.items()]
    if sorted(again) != sorted(
        (d, run.id, n) for run in state.searches.values() for d, n in reuse.repeats(run).items()
    ):
        yield f"the index has {len(again)} trials that measured again, the searches keep others"
    for digest, search, _ in again:
        if state.measured.get(digest, (search,))[0] == search:
            yield f"search {search} measured again what no other one stands for: {state.measured.get(digest)}"
    for digest, search, number in held + again:
        run = state.searches[search]
        trial = run.trials[number - 1]
        if not trial.outcome or trial.reused_from or not trial.checkpoint.key or reuse.digest_of(run, trial) != digest:
            yield f"{trial.name} stands in the index for what it did not measure"
    for run in state.searches.values():
        saved = 0.0
        for trial in run.trials:
            saved += trial.device_time_saved_s
            if trial.reused_from:
                yield from _reused_faults(state, run, trial)
        if abs(saved - run.device_time_saved_s) > 1e-6 * (1 + saved):
            yield f"{run.id} saved {run.device_time_saved_s} s, its trials {saved} s"


def waiting_faults(state: State) -> Iterator[str]:
    """Yield where a trial waits for one that is not at work on the same, or that would let it wait for ever."""
    leaders = {digest: (run.id, number) for run in state.searches.values() for number, digest in run.digests.items()}
    if leaders != state.measuring:
        yield f"the searches measure {leaders}, the index says {state.measuring}"
    for digest, (search, number) in state.measuring.items():
        run = state.searches[search]
        rungs = len(run.trials[number - 1].rungs)
        names = [name_of(search, number, kind, rungs) for kind in (TaskKind.TRAIN, TaskKind.EVALUATE)]
        if not any(name in run.open_tasks for name in (*names, profile_of(search, number))):
            yield f"{run.trial_name(number)} is waited for and has no work"
        if digest not in state.waiting:
            continue
        if digest in state.measured or reuse.digest_of(run, run.trials[number - 1]) != digest:
            yield f"{run.trial_name(number)} is waited for, and measured already or another"
    wait = {place for places in state.waiting.values() for place in places}
    for run in state.searches.values():
        open_trials = (trial for _, trial in run.trials.values_by_number() if not trial.outcome)
        told = {trial.number for trial in open_trials if trial.phase == pb.TRIAL_PHASE_AWAITS_EQUAL}
        if told != {number for search, number in wait if search == run.id}:
            yield f"trials {told} of {run.id} wait, the index says {wait}"
    for digest, places in state.waiting.items():
        for search, number in places:
            yield from _waiter_faults(state, digest, state.searches[search], number)


def _waiter_faults(state: State, digest: bytes, run: SearchRun, number: int) -> Iterator[str]:
    name, leader = run.trial_name(number), state.measuring.get(digest)
    if leader is None:
        yield f"I15: {name} waits for nobody"
    elif not reuse.serves(state.searches[leader[0]], run):
        yield f"I15: {name} waits for {leader}, which is held or comes after it"
    if run.spec.cache != pb.CACHE_MODE_REUSE or reuse.digest_of(run, run.trials[number - 1]) != digest:
        yield f"{name} waits for what it would not measure"
    if any(name_of(run.id, number, kind) in run.open_tasks for kind in TaskKind):
        yield f"{name} waits and is at work"


def _reused_faults(state: State, run: SearchRun, trial: pb.Trial) -> Iterator[str]:
    name = trial.reused_from.split("/")
    source_run = state.searches.get(name[1])
    if source_run is None or (source_run is not run and source_run.id not in run.reused):
        yield f"{trial.name} took over from {trial.reused_from}, which is not held"
        return
    source = source_run.trials[int(name[3]) - 1]
    same = (
        list(trial.measurements) == list(source.measurements)
        and (trial.checkpoint, trial.model, trial.data_digest) == (source.checkpoint, source.model, source.data_digest)
        and (trial.report, trial.quantized) == (source.report, source.quantized)
        and dict(trial.environment) == dict(source.environment)
        and reuse.digest_of(run, trial) == reuse.digest_of(source_run, source)
    )
    if state.tasks.get(name_of(run.id, trial.number, TaskKind.TRAIN)) is not None:
        yield f"{trial.name} took over from {source.name}, and has a training"
    if not same or trial.device_time_s or trial.device_time_saved_s != source.device_time_s:
        yield f"{trial.name} is not what {source.name} measured"
