"""When a search asks its generator again, when its phases end, and how it ends. Pure."""

import math

from nasmesh import limits, metrics
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import OPEN_SEARCHES, OPEN_TASKS, Ask, SearchRun, SearchState, TaskKind
from scheduler.effects import Work
from scheduler.ladder import Ladder, ladder_of
from scheduler.machine import reuse, rungs, tasks, trials

# A generator that answers with nothing, with nothing in flight, is asked this often before the search moves on.
EMPTY_CALLS = 3
# A call with more results could outgrow a message; the rest comes with the next call.
RESULTS_PER_CALL = 200


def start(work: Work, run: SearchRun) -> None:
    """Begin a new search: its generator is asked for the first time."""
    work.state.searches[run.id] = run
    run.ladder = ladder_of(run.spec)
    trials.mark(work, run)
    advance(work, run)


def record_proposals(work: Work, run: SearchRun, ask: Ask, result: dispatch_pb.GenerateResult) -> None:
    """Record an answer of the generator: trials, new state and results cursor together."""
    run.cursor = ask.results_to
    run.calls = ask.call
    run.generator_state = result.state
    run.generator_version = result.generator_version
    run.after_results = result.next_call.after_results
    run.in_flight_below = result.next_call.in_flight_below
    run.empty_calls = 0 if result.trials else run.empty_calls + 1
    if result.trials:
        run.iterations += 1
    for proposed in result.trials:
        trials.propose(work, run, proposed)
    if result.done:
        run.stop_reason = f"the generator finished: {result.note}" if result.note else "the generator finished"
    trials.mark(work, run)


def record_final(work: Work, run: SearchRun, result: dispatch_pb.GenerateResult) -> None:
    """Record the enlarged networks: each is trained with every seed asked for."""
    for source, proposed in zip(run.final_sources(), result.trials, strict=True):
        for repeat in range(max(1, run.spec.final.repeats)):
            trials.propose_final(work, run, proposed, source, repeat)
    trials.mark(work, run)


def advance(work: Work, run: SearchRun) -> None:
    """Do whatever follows from the facts so far: stop, ask the generator, finalise, finish."""
    if run.state is SearchState.RUNNING:
        if run.ladder is None:
            _advance_search(work, run)
        else:
            _advance_rungs(work, run, run.ladder)
    elif run.state is SearchState.FINALIZING and not run.generate_task and run.active == 0:
        _finish_final(work, run)


def halt(work: Work, run: SearchRun, reason: str) -> None:
    """End the search phase at once: work in hand is stopped, results so far stay."""
    run.stop_reason = reason
    _stop_open(work, run, pb.Failure(reason="SEARCH_PHASE_OVER", message=reason))
    trials.mark(work, run)


def cancel(work: Work, run: SearchRun, reason: str) -> None:
    """End a search by a person's wish."""
    _stop_open(work, run, pb.Failure(reason="SEARCH_CANCELLED", message=reason))
    _finish(work, run, SearchState.CANCELLED, reason)


def fail(work: Work, run: SearchRun, failure: pb.Failure) -> None:
    """End a search by an error that no retry can mend."""
    _stop_open(work, run, pb.Failure(reason="SEARCH_FAILED", message="the search failed"))
    _finish(work, run, SearchState.FAILED, f"{failure.reason}: {failure.message}")


def _advance_rungs(work: Work, run: SearchRun, ladder: Ladder) -> None:
    """Decide about those that are held, then go on; where everything would wait for them, some go on or all end."""
    rungs.settle(work, run, ladder, _room_to_go_on(work, run))
    _advance_search(work, run)
    while ladder.held and run.in_work == 0 and not run.generate_task:
        rungs.break_up(work, run, ladder, _room_to_go_on(work, run))
        _advance_search(work, run)


def _room_to_go_on(work: Work, run: SearchRun) -> int:
    """Return how many held trials there is room for beside what is in work and what the generator is asked for."""
    task = work.state.tasks.get(run.generate_task) if run.generate_task else None
    asked = task.ask.count if task is not None and task.ask is not None else 0
    return max(1, run.spec.parallelism) - run.in_work - asked


def _advance_search(work: Work, run: SearchRun) -> None:
    if not run.stop_reason:
        limit = _limit_reached(run)
        if limit:
            halt(work, run, limit)
        elif not run.generate_task and (spent := _exhausted(run)):
            if run.active:
                return  # with work in hand, a person may still raise the budget
            run.stop_reason = spent
    if run.generate_task or (run.stop_reason and run.active):
        return
    if run.stop_reason:
        _end_search_phase(work, run)
    elif _wants_call(run):
        _ask(work, run)


def _limit_reached(run: SearchRun) -> str:
    """Return which bound ends the phase even with work in hand, or nothing."""
    budget = run.spec.budget
    if 0 < budget.max_device_time_s <= run.device_time_s:
        return f"max_device_time_s reached: {run.device_time_s:.1f} of {budget.max_device_time_s:.1f} s"
    if budget.HasField("target") and run.leaders:
        key, number = run.leaders[0]
        if key <= trials.rank_key(run.spec, budget.target):
            return f"target reached: trial {number} has {_metric(run)} {value_of_key(run, key):.6g}"
    return ""


def _exhausted(run: SearchRun) -> str:
    """Return why the generator is not asked again, or nothing; work in hand goes on."""
    budget = run.spec.budget
    results = committed(run) - run.active
    if 0 < budget.max_trials <= results:
        return f"max_trials reached: {results} of {budget.max_trials} trials have a result"
    if 0 < budget.max_iterations <= run.iterations:
        return f"max_iterations reached: {run.iterations} calls of the generator returned proposals"
    if run.empty_calls >= EMPTY_CALLS and run.active == 0 and run.cursor == len(run.results):
        return f"the generator proposed nothing in {run.empty_calls} calls with nothing in flight"
    return ""


def committed(run: SearchRun) -> int:
    """Return the trials of the search phase that count against its budget: with a result, or under way."""
    return len(run.results) - run.outcomes.get(pb.TRIAL_OUTCOME_LOST, 0) + run.active


def room(run: SearchRun) -> int:
    """Return how many proposals the search can take now; not more than that many are asked for."""
    free = max(1, run.spec.parallelism) - run.in_work
    if run.spec.budget.max_trials > 0:
        free = min(free, run.spec.budget.max_trials - committed(run))
    return min(free, limits.QUEUED_NETWORKS)


def reconsider(work: Work, run: SearchRun, most: int, *, more: bool = False) -> None:
    """After a wish: withdraw a question to the generator for more than `most` networks, then do what follows.

    `more`: there is room that was not there when the generator said when to call it, so it is called now.
    """
    task = work.state.tasks.get(run.generate_task)
    withdrawn = task is not None and task.ask is not None and (task.ask.count > most or bool(_exhausted(run)))
    if task is not None and withdrawn:
        tasks.cancel(work, task, "the search was changed; the generator is asked again")
    advance(work, run)
    is_open = run.state is SearchState.RUNNING and not run.stop_reason and not run.generate_task
    if (more or withdrawn) and is_open and room(run) > 0 and not _exhausted(run):
        _ask(work, run)


def _wants_call(run: SearchRun) -> bool:
    """Say whether the generator is asked now, as its last answer wished; nothing in flight always asks it."""
    if room(run) <= 0:
        return False
    if run.active == 0:
        return True
    fresh = len(run.results) - run.cursor
    if run.empty_calls and fresh == 0:
        return False
    return 0 < run.after_results <= fresh or run.in_work < run.in_flight_below


def _ask(work: Work, run: SearchRun) -> None:
    until = min(len(run.results), run.cursor + RESULTS_PER_CALL)
    ask = Ask(run.calls + 1, run.cursor, until, room(run), run.active)
    tasks.create(work, run, TaskKind.GENERATE, ask=ask)
    trials.mark(work, run)


def _end_search_phase(work: Work, run: SearchRun) -> None:
    told = "best is trial {} with {} {:.6g}"
    if not run.leaders and run.ladder is not None:
        rungs.lead_partly(run)
        told = "no trial was trained to its end; best at a rung is trial {} with {} {:.6g}"
    if not run.leaders:
        _finish(work, run, SearchState.FAILED, f"{run.stop_reason}; {_no_success(run)}")
    elif run.spec.HasField("final"):
        run.state = SearchState.FINALIZING
        run.ladder = None
        run.reason = run.stop_reason
        tasks.create(work, run, TaskKind.GENERATE, ask=Ask(call=0))
        trials.mark(work, run)
    else:
        key, number = run.leaders[0]
        best = told.format(number, _metric(run), value_of_key(run, key))
        _finish(work, run, SearchState.SUCCEEDED, f"{run.stop_reason}; {best}")


def _no_success(run: SearchRun) -> str:
    failed = next((t for t in reversed(run.trials) if t.HasField("failure")), None)
    last = f"; the last failure: {failed.failure.reason}: {failed.failure.message}" if failed else ""
    return f"no trial succeeded{last}"


def _finish_final(work: Work, run: SearchRun) -> None:
    objective = metrics.first_scored(run.spec)
    scored = {
        number: value
        for number in run.final_trials
        if (value := reuse.measured(run.trials[number - 1], objective.metric)) is not None
    }
    keys = {number: _choice_key(run, objective, number, value) for number, value in scored.items()}
    # Numbers follow the order of the search phase, so they decide where nothing else does.
    run.final_trials.sort(key=lambda number: (number not in keys, keys.get(number, 0.0), number))
    if scored:
        best = run.final_trials[0]
        told = f"final trial {best} has {objective.metric} {scored[best]:.6g} on the test split, scored once"
        _finish(work, run, SearchState.SUCCEEDED, f"{run.stop_reason}; {told}")
    else:
        _finish(work, run, SearchState.FAILED, f"{run.stop_reason}; no final trial was scored: {_no_success(run)}")


def _choice_key(run: SearchRun, objective: pb.Objective, number: int, tested: float) -> float:
    """Return a number that is smaller for final trials that are chosen first, by an objective."""
    sign = -1.0 if objective.goal == pb.GOAL_MAXIMIZE else 1.0
    if run.spec.final.choice == pb.FINAL_CHOICE_RANK:
        return 0.0
    if run.spec.final.choice == pb.FINAL_CHOICE_UNSPECIFIED:
        return sign * tested
    trial = run.trials[number - 1]
    value = reuse.measured_on(trial, objective.metric, trial.evaluate.further_split)
    return math.inf if value is None else sign * value


def _finish(work: Work, run: SearchRun, state: SearchState, reason: str) -> None:
    run.state = state
    run.ladder = None
    run.reason = reason
    run.end_time_us = work.time_us
    run.paused = False
    trials.mark(work, run)


def _stop_open(work: Work, run: SearchRun, failure: pb.Failure) -> None:
    """Cancel every open task, and end every trial that has not ended as STOPPED."""
    for number in [number for waiting in work.state.waiting.values() for search, number in waiting if search == run.id]:
        reuse.stop_waiting(work.state, run, number)
        _stop(work, run, number, failure)
    for number in sorted(run.ladder.held) if run.ladder is not None else ():
        last = run.trials[number - 1].rungs[-1]
        last.decision, last.reason = pb.RUNG_DECISION_STOPPED, failure.message
        _stop(work, run, number, failure)
    for task_id in list(run.open_tasks):
        task = work.state.tasks[task_id]
        if task.state in OPEN_TASKS:
            tasks.cancel(work, task, failure.message)
        if task.trial and run.state in OPEN_SEARCHES:
            _stop(work, run, task.trial, failure)


def _stop(work: Work, run: SearchRun, number: int, failure: pb.Failure) -> None:
    trial = run.trials[number - 1]
    trial.failure.CopyFrom(failure)
    trials.end(work, run, trial, pb.TRIAL_OUTCOME_STOPPED)


def _metric(run: SearchRun) -> str:
    return run.spec.objectives[0].metric


def value_of_key(run: SearchRun, key: float) -> float:
    """Return the objective's value that a rank key stands for."""
    return trials.rank_key(run.spec, key)
