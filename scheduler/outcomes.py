"""Checks what agents report before it is recorded: it is untrusted data. Raises Invalid (OUTCOME_INVALID)."""

import math
import re
from collections.abc import Mapping, Sequence

from nasmesh import ids, limits, training_config
from nasmesh.errors import Invalid
from nasmesh.store.keys import ObjectKind, check_ref
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import evaluate_service_pb2, measurement_pb2, object_pb2, search_pb2, train_service_pb2, training_pb2
from scheduler.domain import SearchRun, Task, TaskKind
from scheduler.machine import early
from scheduler.machine.tasks import is_profile

# Faults of the surroundings: they cost the network no attempt. Any other reason counts, whatever the agent says.
UNCOUNTED_REASONS = frozenset({"STORE_DOWN", "DRAINING", "SERVER_UNREACHABLE", "NO_SLOT", "PORT_IN_USE"})
INVALID_REASON = "OUTCOME_INVALID"
# The same in trainings over several servers: one does not answer the others any more, takes part in none, or read other
# data. Within one server a lost process may be the network's fault.
_UNCOUNTED_OF_GANGS = frozenset({"RANK_LOST", "GANG_REFUSED", "DATASET_DIFFERS"})

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,63}")
_HEX = re.compile(r"([0-9a-f]{64})?")
_MEASUREMENTS = 50_000
_TEXT = 1000
_NAMES = 1000
_LARGEST = 2**62


def check(run: SearchRun, task: Task, outcome: pb.AttemptOutcome) -> pb.AttemptOutcome:
    """Return the outcome as it is recorded: checked, texts bounded, control parameters of proposals complete.

    It is the same object where nothing of it changes.
    """
    kind = outcome.WhichOneof("result")
    if kind == "train" and task.kind is TaskKind.TRAIN:
        _check_train(outcome.train)
        return outcome
    if kind == "infeasible" and task.kind in (TaskKind.TRAIN, TaskKind.EVALUATE):
        _check_infeasible(outcome.infeasible)
        return outcome
    if kind == "evaluate" and task.kind is TaskKind.EVALUATE:
        _check_evaluate(run, task, outcome.evaluate)
        return outcome
    checked = pb.AttemptOutcome(token=outcome.token)
    if kind == "failure":
        checked.failure.CopyFrom(check_failure(outcome.failure))
    elif kind == "released":
        checked.released.CopyFrom(outcome.released)
        if outcome.released.HasField("checkpoint"):
            check_checkpoint(outcome.released.checkpoint)
    elif kind == "generate" and task.kind is TaskKind.GENERATE:
        checked.generate.CopyFrom(_check_generate(run, task, outcome.generate))
    else:
        raise _invalid("result", f"a {task.kind.name} task cannot end with {kind or 'nothing'}")
    return checked


def check_of_gang(agents: Sequence[str], agent: str, checked: pb.AttemptOutcome) -> pb.AttemptOutcome:
    """Return what one of a gang makes of its attempt, by rank: results are rank 0's, and a failure names who had it."""
    rank, kind = agents.index(agent), checked.WhichOneof("result")
    if rank and kind == "train":
        raise _invalid("train", f"the result of a training over {len(agents)} servers is rank 0's, not rank {rank}'s")
    if rank and kind == "released":
        return pb.AttemptOutcome(token=checked.token, released=pb.AttemptReleased())  # rank 0 stores the checkpoints
    if kind == "failure":
        failure = checked.failure
        failure.message = f"rank {rank} ({agent}): {failure.message}"[:_TEXT]
        failure.counted = failure.counted and failure.reason not in _UNCOUNTED_OF_GANGS
    return checked


def invalid_outcome(outcome: pb.AttemptOutcome, error: Invalid) -> pb.AttemptOutcome:
    """Return what is recorded instead of an outcome that contradicts the contract: a failed attempt."""
    failure = search_pb2.Failure(reason=INVALID_REASON, message=error.message[:_TEXT], retryable=True, counted=True)
    if error.reason == early.UNDEFINED:
        failure.reason, failure.retryable = early.UNDEFINED, False
    return pb.AttemptOutcome(token=outcome.token, failure=failure)


def check_failure(failure: search_pb2.Failure) -> search_pb2.Failure:
    """Return a failure with bounded texts; what counts is decided here, by the reason."""
    if not _REASON.fullmatch(failure.reason):
        raise _invalid("failure.reason", f"{failure.reason[:80]!r} is not UPPER_SNAKE")
    return search_pb2.Failure(
        reason=failure.reason,
        message=failure.message[:_TEXT],
        retryable=failure.retryable,
        counted=failure.counted or failure.reason not in UNCOUNTED_REASONS,
    )


def check_checkpoint(ref: object_pb2.ObjectRef) -> None:
    """Raise unless the reference is well formed and names a checkpoint."""
    _check_object(ref, "checkpoint", ObjectKind.CHECKPOINT)


def check_progress(progress: train_service_pb2.TrainProgress) -> bool:
    """Say whether every number of a progress mark is finite and none negative that cannot be."""
    numbers = [progress.epoch, progress.loss, progress.accuracy, progress.learning_rate, progress.steps_per_s]
    numbers.append(progress.elapsed_s)
    numbers.extend([found.value for found in progress.validation])
    counts = (progress.step, progress.total_steps, progress.validated_step)
    return all(map(math.isfinite, numbers)) and min(counts) >= 0


def _check_train(result: train_service_pb2.TrainResult) -> None:
    _check_object(result.checkpoint, "train.checkpoint", ObjectKind.CHECKPOINT)
    if result.HasField("model"):
        _check_object(result.model, "train.model", ObjectKind.CHECKPOINT, ObjectKind.NETWORK)
    if not 0 <= result.steps <= _LARGEST:
        raise _invalid("train.steps", f"{result.steps} is no number of updates")
    if not (0 <= result.peak_memory_bytes <= _LARGEST and 0 <= result.predicted_memory_bytes <= _LARGEST):
        raise _invalid("train.peak_memory_bytes", "bytes must not be negative, nor more than any machine has")
    if result.HasField("inheritance"):
        _check_inheritance(result.inheritance)
    _check_measurements("train", result.measurements)
    _check_rest("train", result.device_time_s, result.data_digest, result.environment)


def _check_inheritance(report: search_pb2.InheritanceReport) -> None:
    if report.taken < 0 or not 0 <= report.taken_share <= 1:
        raise _invalid("train.inheritance", "taken must not be negative, taken_share a share from 0 to 1")
    for name in ("initialized", "unused"):
        names = getattr(report, name)
        if len(names) > _NAMES or any(len(one) > _TEXT for one in names):
            raise _invalid(f"train.inheritance.{name}", f"has more than {_NAMES} names, or one that is too long")


def _check_infeasible(violation: search_pb2.ConstraintViolation) -> None:
    """Raise unless the violation names a metric, a finite value, and a bound that the value is outside of."""
    bound, value = violation.constraint, violation.value
    if not _METRIC.fullmatch(bound.metric):
        raise _invalid("infeasible.constraint.metric", f"{bound.metric[:80]!r} is no metric")
    given = [getattr(bound, name) for name in ("max", "min") if bound.HasField(name)]
    if not all(map(math.isfinite, (value, *given))):
        raise _invalid("infeasible", "value and bounds must be finite")
    if not ((bound.HasField("max") and value > bound.max) or (bound.HasField("min") and value < bound.min)):
        raise _invalid("infeasible.value", f"{bound.metric} is {value:g}, which is within its bounds")
    if not 0 <= violation.needed_memory_bytes <= _LARGEST:
        raise _invalid("infeasible.needed_memory_bytes", "must not be negative, nor more than any machine has")


def _check_evaluate(run: SearchRun, task: Task, result: evaluate_service_pb2.EvaluateResult) -> None:
    is_scored = not is_profile(task)
    trial = run.trials[task.trial - 1] if is_scored else search_pb2.Trial()
    whole = _check_measurements("evaluate", result.measurements, trial)
    _check_rest("evaluate", result.device_time_s, result.data_digest, result.environment)
    if result.HasField("report"):
        _check_object(result.report, "evaluate.report", ObjectKind.REPORT)
    if result.HasField("quantized"):
        _check_object(result.quantized, "evaluate.quantized", ObjectKind.CHECKPOINT)
    for metric in early.needed(run.spec, is_scored=is_scored, final=trial.final):
        if metric not in whole and not early.is_proxied(run.spec, trial, metric):
            hint = f"; {run.spec.evaluate.table} does not hold it" if run.spec.evaluate.table else ""
            raise _invalid("evaluate.measurements", f"{metric} was not measured, an objective or bounded{hint}")


def _check_generate(run: SearchRun, task: Task, result: pb.GenerateResult) -> pb.GenerateResult:
    if len(result.state) > limits.STATE_BYTES:
        raise _invalid("generate.state", f"has {len(result.state)} bytes, at most {limits.STATE_BYTES} are kept")
    if result.next_call.after_results < 0 or result.next_call.in_flight_below < 0:
        raise _invalid("generate.next_call", "must not be negative")
    final = task.ask is not None and not task.ask.call
    exact = final or task.ask is None
    most = task.ask.count if task.ask else 1
    most = len(run.final_sources()) if final else most
    if len(result.trials) > most or (exact and len(result.trials) != most):
        raise _invalid("generate.trials", f"{len(result.trials)} proposals where {most} were asked for")
    checked = pb.GenerateResult()
    checked.CopyFrom(result)
    checked.note = result.note[:_TEXT]
    checked.generator_version = result.generator_version[:80]
    for index, trial in enumerate(checked.trials):
        _check_proposed(run, trial, f"generate.trials[{index}]", final=final)
    if task.proposal is not None:
        # What a person asked for is recorded already; an agent does not change it.
        checked.trials[0].inherit_from = task.proposal.inherit_from
    return checked


def _check_proposed(run: SearchRun, trial: pb.ProposedTrial, field: str, *, final: bool) -> None:
    if len(trial.note) > _TEXT:
        trial.note = trial.note[:_TEXT]
    if trial.HasField("refusal"):
        trial.refusal.CopyFrom(check_failure(trial.refusal))
    elif not trial.HasField("network"):
        raise _invalid(f"{field}.network", "is missing, and there is no refusal")
    if trial.HasField("network"):
        network = trial.network
        ids.parse_name("networks", network.name, field=f"{field}.network.name")
        _check_object(network.object, f"{field}.network.object", ObjectKind.NETWORK, ObjectKind.CHECKPOINT)
        if min(network.parameters, network.macs, network.activations) < 0:
            raise _invalid(f"{field}.network", "parameters, macs and activations must not be negative")
    if trial.HasField("violation") and not math.isfinite(trial.violation.value):
        raise _invalid(f"{field}.violation.value", "is not finite")
    if final:
        return
    inherited = trial.inherit_from
    for parent in [*trial.parents, inherited] if inherited else trial.parents:
        search, number = ids.parse_trial(parent, field=f"{field}.parents")
        if search != run.id or number > len(run.trials):
            raise _invalid(f"{field}.parents", f"there is no trial {parent}")
    train, plan = trial.train, trial.instrumentation
    if train.include_validation:
        raise _invalid(f"{field}.train.include_validation", "only the final phase may train on the validation split")
    if train.max_time_s:
        raise _invalid(f"{field}.train.max_time_s", "only the final phase may cut a training to a time")
    train.CopyFrom(merged_train(run, train, field))
    if not plan.ListFields() and not run.spec.instrumentation.ListFields():
        plan.SetInParent()
        return
    plan.CopyFrom(merged_plan(run, plan, field))


def merged_train(run: SearchRun, overrides: training_pb2.TrainConfig, field: str) -> training_pb2.TrainConfig:
    """Return the search's complete configuration with the overrides in their places."""
    if not overrides.ListFields():
        return run.spec.train
    if run.spec.evaluate.table:
        message = f"{field}.train: {run.spec.evaluate.table} holds finished trainings, nothing is trained; leave it out"
        raise Invalid("TRAIN_CONFIG_INVALID", message, field=f"{field}.train")
    merged = training_config.merge(run.spec.train, overrides)
    training_config.check(merged, f"{field}.train")
    return complete_train(merged)


def complete_train(config: training_pb2.TrainConfig) -> training_pb2.TrainConfig:
    """Return a copy with every default filled in but the seed, which is derived for each trial when it is unset."""
    result = training_config.complete(config)
    if not config.HasField("seed"):
        result.ClearField("seed")
    return result


def merged_plan(run: SearchRun, more: training_pb2.InstrumentationPlan, field: str) -> training_pb2.InstrumentationPlan:
    """Return what the search's plan or a proposal's asks for."""
    field, table = f"{field}.instrumentation", run.spec.evaluate.table
    if table and more.ListFields():
        message = f"{field}: {table} has no statistics of elements; leave it out, or use another generator"
        raise Invalid("TRAIN_CONFIG_INVALID", message, field=field)
    training_config.check_instrumentation(more, field)
    return both(run.spec.instrumentation, more)


def both(
    plan: training_pb2.InstrumentationPlan, more: training_pb2.InstrumentationPlan
) -> training_pb2.InstrumentationPlan:
    """Return what either plan asks for, equal probes and proxies once."""
    result = training_pb2.InstrumentationPlan(probes=plan.probes, profile=plan.profile or more.profile)
    result.probes.extend([probe for probe in more.probes if probe not in plan.probes])
    result.proxies.extend(sorted({*plan.proxies, *more.proxies}))
    return result


def _check_measurements(
    field: str,
    measurements: Sequence[measurement_pb2.Measurement],
    trial: search_pb2.Trial | None = None,
) -> set[str]:
    """Return the metrics of the whole network; `trial`: what was to be scored, where that matters."""
    if len(measurements) > _MEASUREMENTS:
        raise _invalid(f"{field}.measurements", f"more than {_MEASUREMENTS}")
    whole = set()
    for index, found in enumerate(measurements):
        metric, element = found.metric, found.element
        if not _METRIC.fullmatch(metric) or len(element) > 200 or len(found.unit) > 20:
            raise _invalid(f"{field}.measurements[{index}]", f"{metric[:80]!r} is no metric, or names are too long")
        if not math.isfinite(found.value):
            raise _invalid(f"{field}.measurements[{index}].value", f"{metric} is {found.value}, which is not finite")
        asked = trial is None or found.split in (measurement_pb2.SPLIT_UNSPECIFIED, trial.evaluate.split)
        if trial is not None and not asked and found.split != trial.evaluate.further_split:
            split = measurement_pb2.Split.Name(found.split) if found.split in measurement_pb2.Split.values() else "?"
            raise _invalid(f"{field}.measurements", f"{metric} was measured on {split}, which was not asked for")
        if asked and not element:
            whole.add(metric)
    return whole


def _check_rest(field: str, device_time_s: float, data_digest: str, environment: Mapping[str, str]) -> None:
    if not math.isfinite(device_time_s) or device_time_s < 0:
        raise _invalid(f"{field}.device_time_s", f"{device_time_s} is not a duration")
    if not _HEX.fullmatch(data_digest):
        raise _invalid(f"{field}.data_digest", f"{data_digest[:80]!r} is no SHA-256")
    if not environment:
        return
    if len(environment) > 64 or any(len(key) > 100 or len(value) > 500 for key, value in environment.items()):
        raise _invalid(f"{field}.environment", "has more than 64 entries, or one that is too long")


def _check_object(ref: object_pb2.ObjectRef, field: str, *kinds: ObjectKind) -> None:
    found = check_ref(ref, field=field)
    if found not in kinds or ref.size_bytes > _LARGEST:
        raise _invalid(field, f"an object under {found.value}/ cannot be here")


def _invalid(field: str, what: str) -> Invalid:
    return Invalid(INVALID_REASON, f"{field}: {what}", field=field)
