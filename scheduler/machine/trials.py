"""What becomes of trials: recorded from proposals, trained, scored, ended. Pure."""

import bisect
from collections.abc import Iterable

from nasmesh import metrics
from nasmesh.clock import derive_seed
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import evaluate_service_pb2 as evaluate_pb
from nasmesh.v1 import generate_service_pb2 as generate_pb
from nasmesh.v1 import search_pb2 as pb
from nasmesh.v1 import train_service_pb2 as train_pb
from scheduler.domain import RESULTS_CHUNK, SearchRun, TaskKind
from scheduler.effects import IllegalTransitionError, Work
from scheduler.ladder import Ladder
from scheduler.machine import early, recording, reuse, tasks
from scheduler.machine.recording import mark as mark


def propose(work: Work, run: SearchRun, proposed: dispatch_pb.ProposedTrial) -> None:
    """Record a proposal as a trial: queued, or ended where it violates a constraint or was refused."""
    trial = recording.new(work, run, proposed)
    trial.iteration = run.iterations
    trial.evaluate.CopyFrom(run.spec.evaluate)
    recording.configure(trial, proposed.train, derive_seed(run.spec.seed, "trial", trial.number))
    _begin(work, run, trial, proposed)


def enqueue(work: Work, run: SearchRun, proposal: generate_pb.Proposal) -> pb.Trial:
    """Record what a person added as a trial without its network yet."""
    proposed = dispatch_pb.ProposedTrial(
        choices=proposal.choices if proposal.HasField("choices") else None,
        instrumentation=proposal.instrumentation,
        parents=proposal.parents,
        note=proposal.note,
    )
    trial = recording.new(work, run, proposed)
    trial.enqueued = True
    trial.phase = pb.TRIAL_PHASE_ADMIT_QUEUED
    trial.evaluate.CopyFrom(run.spec.evaluate)
    recording.configure(trial, proposal.train, derive_seed(run.spec.seed, "trial", trial.number))
    return trial


def admitted(work: Work, run: SearchRun, trial: pb.Trial, proposed: dispatch_pb.ProposedTrial) -> None:
    """Record what became of an enqueued network: it is trained, or refused, or outside a constraint."""
    if proposed.HasField("network"):
        trial.network.CopyFrom(proposed.network)
        recording.record_network(work.state, trial.network)
    mark(work, run, trial.number)
    _begin(work, run, trial, proposed)


def _begin(work: Work, run: SearchRun, trial: pb.Trial, proposed: dispatch_pb.ProposedTrial) -> None:
    """Have a search-phase trial trained; or end it: refused, outside a constraint, measured before."""
    failure = proposed.refusal if proposed.HasField("refusal") else None
    if failure is None and not proposed.HasField("violation"):
        failure = recording.inherit(run, trial, proposed.inherit_from)
    if failure is not None:
        trial.failure.CopyFrom(failure)
        end(work, run, trial, pb.TRIAL_OUTCOME_FAILED)
    elif proposed.HasField("violation"):
        trial.violation.CopyFrom(proposed.violation)
        end(work, run, trial, pb.TRIAL_OUTCOME_INFEASIBLE)
    else:
        _train(work, run, trial)


def _train(work: Work, run: SearchRun, trial: pb.Trial) -> None:
    """Queue a training, unless the same was measured before or is being measured; or ask a table instead."""
    if trial.evaluate.table:
        # Nothing is trained, and to look up again costs nothing.
        trial.phase = pb.TRIAL_PHASE_EVALUATE_QUEUED
        tasks.create(work, run, TaskKind.EVALUATE, trial=trial.number)
        return
    if not run.spec.cache:  # recorded by a version without reuse
        queue(work, run, trial)
        return
    digest = reuse.digest_of(run, trial)
    if digest in work.state.measured and run.spec.cache == pb.CACHE_MODE_REUSE:
        measure(work, run, trial, digest)
    elif reuse.measured_for(work.state, run, trial.number, digest):
        trial.phase = pb.TRIAL_PHASE_AWAITS_EQUAL
    else:
        queue(work, run, trial)


def measure(work: Work, run: SearchRun, trial: pb.Trial, digest: bytes) -> None:
    """End a trial with what an equal one measured; queue its training where that lacks its objectives."""
    if reuse.take_over(work, run, trial, digest):
        _conclude(work, run, trial)
    else:
        queue(work, run, trial)


def queue(work: Work, run: SearchRun, trial: pb.Trial) -> None:
    """Queue a trial's training; before it, the measuring of what training does not change, where a bound is on that."""
    if early.wanted(run.spec, trial):
        trial.phase = pb.TRIAL_PHASE_EVALUATE_QUEUED
        tasks.create_profile(work, run, trial.number)
        return
    trial.phase = pb.TRIAL_PHASE_TRAIN_QUEUED
    tasks.create(work, run, TaskKind.TRAIN, trial=trial.number)


def profiled(work: Work, run: SearchRun, trial: pb.Trial, result: evaluate_pb.EvaluateResult) -> None:
    """Record what was measured of an untrained network: it is trained, or outside a bound."""
    trial.measurements.extend(result.measurements)
    if result.environment:
        trial.environment.update({f"profile.{key}": value for key, value in result.environment.items()})
    spend(run, trial, result.device_time_s)
    violation = _violation(early.bounds(run.spec), trial)
    if violation is not None:
        trial.violation.CopyFrom(violation)
        end(work, run, trial, pb.TRIAL_OUTCOME_INFEASIBLE)
        return
    mark(work, run, trial.number)
    queue(work, run, trial)


def propose_final(work: Work, run: SearchRun, proposed: dispatch_pb.ProposedTrial, source: int, repeat: int) -> None:
    """Record one final trial of a search-phase trial, trained under the final configuration, scored on test."""
    trial = recording.new(work, run, proposed)
    trial.final = True
    del trial.parents[:]
    trial.parents.append(run.trial_name(source))
    trial.evaluate.CopyFrom(run.spec.final.evaluate)
    trial.instrumentation.CopyFrom(run.spec.instrumentation)
    train = run.spec.final.train
    recording.configure(trial, train, derive_seed(run.spec.seed, "final", source, repeat))
    if repeat and train.HasField("seed"):
        trial.train.seed = derive_seed(train.seed, "repeat", repeat)
    trial.train.max_time_s = run.spec.final.max_train_time_s
    recording.carry_over(run, trial)
    run.final_trials.append(trial.number)
    if proposed.HasField("refusal"):
        trial.failure.CopyFrom(proposed.refusal)
        end(work, run, trial, pb.TRIAL_OUTCOME_FAILED)
    else:
        _train(work, run, trial)


def trained(work: Work, run: SearchRun, trial: pb.Trial, result: train_pb.TrainResult) -> None:
    """Record a training's result and queue the evaluation."""
    trial.checkpoint.CopyFrom(result.checkpoint)
    trial.model.CopyFrom(result.model if result.HasField("model") else result.checkpoint)
    del trial.measurements[:]  # of the rung before, or of the untrained network; what statistics saw went on
    trial.measurements.extend(result.measurements)
    trial.steps = result.steps
    trial.data_digest = result.data_digest
    trial.peak_memory_bytes = result.peak_memory_bytes
    trial.predicted_memory_bytes = result.predicted_memory_bytes
    if result.HasField("inheritance"):
        trial.inheritance.CopyFrom(result.inheritance)
    if result.environment:
        trial.environment.update({f"train.{key}": value for key, value in result.environment.items()})
    spend(run, trial, result.device_time_s)
    trial.phase = pb.TRIAL_PHASE_EVALUATE_QUEUED
    mark(work, run, trial.number)
    tasks.create(work, run, TaskKind.EVALUATE, trial=trial.number)


def scored(work: Work, run: SearchRun, trial: pb.Trial, result: evaluate_pb.EvaluateResult) -> None:
    """Record an evaluation's result; the trial ends, or is held at a rung."""
    trial.measurements.extend(result.measurements)
    trial.data_digest = trial.data_digest or result.data_digest
    if result.environment:
        trial.environment.update({f"evaluate.{key}": value for key, value in result.environment.items()})
    if result.HasField("report"):
        trial.report.CopyFrom(result.report)
    if result.HasField("quantized"):
        trial.quantized.CopyFrom(result.quantized)
    spend(run, trial, result.device_time_s)
    if run.ladder is not None and run.ladder.is_at_rung(trial):
        _reach_rung(work, run, run.ladder, trial)
        return
    if not trial.evaluate.table:
        reuse.remember(work, run, trial)
    _conclude(work, run, trial)


def _reach_rung(work: Work, run: SearchRun, ladder: Ladder, trial: pb.Trial) -> None:
    """Hold a trial at a rung, or end it where it violates what no training changes."""
    violation = _violation([bound for bound in run.spec.constraints if not metrics.is_learned(bound.metric)], trial)
    if violation is not None:
        trial.violation.CopyFrom(violation)
        end(work, run, trial, pb.TRIAL_OUTCOME_INFEASIBLE)
        return
    rung = pb.Rung(index=len(trial.rungs), step=trial.steps or ladder.until_step(trial))
    rung.bracket = ladder.plan.round_of(trial.number)
    for objective in run.spec.objectives:
        value = reuse.measured(trial, objective.metric)
        if value is None:
            raise IllegalTransitionError(f"{trial.name} was scored without {objective.metric}")
        rung.values.append(value)
    trial.rungs.append(rung)
    trial.phase = pb.TRIAL_PHASE_HELD
    ladder.arrive(trial)
    trial.rungs[len(trial.rungs) - 1].reason = ladder.told(trial.number)
    mark(work, run, trial.number)
    mark(work, run)


def _conclude(work: Work, run: SearchRun, trial: pb.Trial) -> None:
    """End a trial that has its measurements."""
    violation = None if trial.final else _violation(run.spec.constraints, trial)
    if violation is not None:
        trial.violation.CopyFrom(violation)
        end(work, run, trial, pb.TRIAL_OUTCOME_INFEASIBLE)
        return
    end(work, run, trial, pb.TRIAL_OUTCOME_SUCCEEDED)
    if not trial.final:
        _rank(run, trial)


def end(work: Work, run: SearchRun, trial: pb.Trial, outcome: pb.TrialOutcome.ValueType) -> None:
    """Give a trial its outcome; a search-phase result waits for the generator's next call."""
    trial.outcome = outcome
    trial.phase = pb.TRIAL_PHASE_UNSPECIFIED
    trial.end_time.FromMicroseconds(work.time_us)
    run.active -= 1
    if run.ladder is not None:
        run.ladder.end(trial)
    reuse.leave(work, run, trial.number)
    run.outcomes[outcome] = run.outcomes.get(outcome, 0) + 1
    if not trial.final:
        work.state.dirty[f"results/{run.id}/{len(run.results) // RESULTS_CHUNK}"] = None
        run.results.append(trial.number)
    mark(work, run, trial.number)
    mark(work, run)


def spend(run: SearchRun, trial: pb.Trial, seconds: float) -> None:
    """Book device time on a trial and its phase of the search."""
    trial.device_time_s += seconds
    if trial.final:
        run.final_device_time_s += seconds
    else:
        run.device_time_s += seconds


def objective_value(spec: pb.SearchSpec, trial: pb.Trial) -> float | None:
    """Return a trial's value of the first objective on the split it was scored on."""
    return reuse.measured(trial, spec.objectives[0].metric)


def rank_key(spec: pb.SearchSpec, value: float) -> float:
    """Return a number that is smaller for better values of the first objective."""
    return -value if spec.objectives[0].goal == pb.GOAL_MAXIMIZE else value


def is_feasible(run: SearchRun, trial: pb.Trial) -> bool:
    """Say whether what was measured of a trial is within the bounds of its search."""
    return _violation(run.spec.constraints, trial) is None


def _violation(constraints: Iterable[pb.Constraint], trial: pb.Trial) -> pb.ConstraintViolation | None:
    for constraint in constraints:
        value = reuse.measured(trial, constraint.metric)
        if value is None:
            continue
        above = constraint.HasField("max") and value > constraint.max
        below = constraint.HasField("min") and value < constraint.min
        if above or below:
            return pb.ConstraintViolation(constraint=constraint, value=value)
    return None


def _rank(run: SearchRun, trial: pb.Trial) -> None:
    spec = run.spec
    value = objective_value(spec, trial)
    if value is None:
        return
    leaders = run.leaders
    bisect.insort(leaders, (rank_key(spec, value), trial.number))
    most = max(1, spec.final.top_k)
    if len(leaders) > most:
        del leaders[most:]
