"""What becomes of trials at rungs, where a search has a rule of early stopping: held, promoted, stopped. Pure.

A held trial has its checkpoint and no task: it takes no device and no parallelism, is counted as active, and nobody
waits for its measurements. One that goes on gets tasks of its own for the next part of its training.
"""

from nasmesh.v1 import object_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import SearchRun, TaskKind
from scheduler.effects import IllegalTransitionError, Work
from scheduler.ladder import Ladder, Verdict
from scheduler.machine import reuse, tasks, trials

STOPPED = "EARLY_STOPPED"
# Outcomes that say nothing against what a trial was scored with before.
_CUT_SHORT = frozenset({pb.TRIAL_OUTCOME_STOPPED, pb.TRIAL_OUTCOME_LOST})


def settle(work: Work, run: SearchRun, ladder: Ladder, room: int) -> None:
    """Decide what can be decided of those that are held; `room`: how many of them may go on now.

    Under the median rule nobody is held: who goes on takes up the room that it had.
    """
    if ladder.plan.reduction:
        for verdict in ladder.losers(len(run.trials)):
            _stop(work, run, verdict)
        promote(work, run, ladder, room)
    else:
        for number in list(ladder.held):
            verdict = ladder.median_verdict(run.trials[number - 1])
            if verdict.promoted:
                _go_on(work, run, ladder, verdict)
            else:
                _stop(work, run, verdict)
    for number in [number for number in run.digests if number in ladder.held]:
        trials.mark(work, run)
        reuse.leave(work, run, number)


def promote(work: Work, run: SearchRun, ladder: Ladder, room: int) -> None:
    """Have those go on that the rule lets, as many as there is room for."""
    while room > 0 and (verdict := ladder.next_promoted(len(run.trials))) is not None:
        _go_on(work, run, ladder, verdict)
        room -= 1


def break_up(work: Work, run: SearchRun, ladder: Ladder, room: int) -> None:
    """Where nothing is in work and nobody new can come before something ends: have the best go on, or stop all."""
    before = room
    while room > 0 and (verdict := ladder.best_left()) is not None:
        _go_on(work, run, ladder, verdict)
        room -= 1
    if room == before:
        for number in sorted(ladder.held):
            _stop(work, run, ladder.left_behind(number))


def lead_partly(run: SearchRun) -> None:
    """Have the best of those lead whose model was scored at a rung, where none was trained to its end.

    One that is outside a constraint, as it was scored, is none of them. Among equals, who was trained longest leads.
    """
    found: list[tuple[float, int, int]] = []
    for trial in run.trials:
        if trial.rungs and trial.outcome in _CUT_SHORT and trial.HasField("model") and trials.is_feasible(run, trial):
            value = trials.objective_value(run.spec, trial)
            if value is not None:
                found.append((trials.rank_key(run.spec, value), -trial.steps, trial.number))
    found.sort()
    run.leaders = [(key, number) for key, _, number in found[: max(1, run.spec.final.top_k)]]


def _go_on(work: Work, run: SearchRun, ladder: Ladder, verdict: Verdict) -> None:
    """Queue the next part of a trial's training."""
    number = verdict.number
    trial = run.trials[number - 1]
    _decide(trial, verdict)
    ladder.go_on(number)
    _lead_again(work, run, trial)
    trial.phase = pb.TRIAL_PHASE_TRAIN_QUEUED
    task = tasks.create(work, run, TaskKind.TRAIN, trial=number)
    task.checkpoint = object_pb2.ObjectRef()
    task.checkpoint.CopyFrom(trial.checkpoint)  # the trial's own is overwritten when this part has been trained
    trials.mark(work, run, number)
    trials.mark(work, run)


def _stop(work: Work, run: SearchRun, verdict: Verdict) -> None:
    """End a held trial."""
    trial = run.trials[verdict.number - 1]
    _decide(trial, verdict)
    rung = trial.rungs[len(trial.rungs) - 1]
    message = f"at rung {rung.index}, after {rung.step} updates: {verdict.reason}"
    trial.failure.CopyFrom(pb.Failure(reason=STOPPED, message=message))
    trials.end(work, run, trial, pb.TRIAL_OUTCOME_STOPPED)


def _decide(trial: pb.Trial, verdict: Verdict) -> None:
    if trial.phase != pb.TRIAL_PHASE_HELD:
        raise IllegalTransitionError(f"{trial.name} is not held, but in phase {trial.phase}")
    rung = trial.rungs[len(trial.rungs) - 1]
    rung.decision = pb.RUNG_DECISION_PROMOTED if verdict.promoted else pb.RUNG_DECISION_STOPPED
    rung.reason = verdict.reason


def _lead_again(work: Work, run: SearchRun, trial: pb.Trial) -> None:
    """Let equal trials wait for one that goes on, unless another is measuring the same."""
    if run.spec.cache and trial.number not in run.digests:
        digest = reuse.digest_of(run, trial)
        if digest not in work.state.measuring:
            reuse.lead(work.state, run, trial.number, digest)
