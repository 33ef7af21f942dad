"""From the scheduler's values to the messages that clients and agents see."""

from nasmesh import evaluate_config
from nasmesh.data import catalog
from nasmesh.v1 import dispatch_service_pb2, evaluation_pb2, generate_service_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.agents import AgentEntry
from scheduler.domain import SearchRun, State, Task, TaskKind
from scheduler.machine.tasks import is_profile
from scheduler.traces import lease_place
from scheduler.watch import Change


def search_message(run: SearchRun) -> search_pb2.Search:
    """Return a search as clients see it."""
    message = _without_spec(run, run.sequence)
    message.spec.CopyFrom(run.spec)
    return message


def _without_spec(run: SearchRun, sequence: int) -> search_pb2.Search:
    # Field by field: there is one for every result of a search.
    message = search_pb2.Search()
    message.name = run.name
    message.state = outward_state(run)
    message.reason = run.reason
    _fill_counts(message.trials, run)
    if run.leaders:
        message.best_trial = run.trial_name(run.leaders[0][1])
    if run.final_trials:
        message.final_trials.extend(map(run.trial_name, run.final_trials))
    message.iterations = run.iterations
    message.device_time_s = run.device_time_s + run.final_device_time_s
    message.owner = run.owner
    message.device_time_saved_s = run.device_time_saved_s
    message.sequence = sequence
    message.etag = str(sequence)
    message.create_time.FromMicroseconds(run.create_time_us)
    if run.end_time_us:
        message.end_time.FromMicroseconds(run.end_time_us)
    return message


def outward_state(run: SearchRun) -> search_pb2.SearchState.ValueType:
    """Return the state that clients see: a held search is PAUSED, whatever it goes on with."""
    return search_pb2.SEARCH_STATE_PAUSED if run.paused else search_pb2.SearchState.ValueType(run.state)


def _fill_counts(counts: search_pb2.TrialCounts, run: SearchRun) -> None:
    found = run.outcomes.get
    counts.active = run.active
    counts.succeeded = found(search_pb2.TRIAL_OUTCOME_SUCCEEDED, 0)
    counts.infeasible = found(search_pb2.TRIAL_OUTCOME_INFEASIBLE, 0)
    counts.failed = found(search_pb2.TRIAL_OUTCOME_FAILED, 0)
    counts.stopped = found(search_pb2.TRIAL_OUTCOME_STOPPED, 0)
    counts.lost = found(search_pb2.TRIAL_OUTCOME_LOST, 0)
    if run.ladder is not None:
        counts.held = len(run.ladder.held)


def search_change(run: SearchRun, sequence: int, time_us: int, spec: bytes) -> Change:
    """Return a change of a search, as it stands now; `spec`: the bytes of a search with nothing but that."""
    return Change(sequence, time_us, 0, _without_spec(run, sequence).SerializeToString(), spec)


def lease_message(state: State, task: Task) -> dispatch_service_pb2.Lease:
    """Return what an agent needs for the task's current attempt."""
    lease = dispatch_service_pb2.Lease()
    fill_lease(lease, state, task)
    return lease


def fill_lease(lease: dispatch_service_pb2.Lease, state: State, task: Task) -> None:
    """Fill in what an agent needs for the task's current attempt."""
    run = state.searches[task.search]
    attempt = task.attempts[-1]
    token = lease.token
    token.task, token.attempt, token.epoch = task.id, attempt.number, attempt.epoch
    lease.search = run.name
    if run.traceparent:
        lease.traceparent = lease_place(run, task, attempt.number).traceparent
    if task.trial:
        lease.trial = run.trial_name(task.trial)
    if task.kind is TaskKind.TRAIN:
        _fill_train(lease.train, run, task)
    elif task.kind is TaskKind.EVALUATE:
        trial, work = run.trials[task.trial - 1], lease.evaluate
        work.untrained = is_profile(task)
        work.model.CopyFrom(trial.network.object if trial.evaluate.table or work.untrained else trial.model)
        if trial.evaluate.table and trial.HasField("choices"):
            work.choices.CopyFrom(trial.choices)
        work.config.CopyFrom(trial.evaluate if work.untrained else _asked_of(run, trial))
        work.data.CopyFrom(run.spec.data)
    elif task.proposal is not None:
        lease.admit.proposal.CopyFrom(task.proposal)
        lease.admit.space.CopyFrom(run.spec.space)
        lease.admit.data.CopyFrom(run.spec.data)
        lease.admit.constraints.extend(run.spec.constraints)
    elif task.ask is not None and task.ask.call:
        _fill_generate(lease.generate, run, task)
    else:
        _fill_finalize(lease.finalize, run)


def _asked_of(run: SearchRun, trial: search_pb2.Trial) -> evaluation_pb2.EvaluateConfig:
    """Return what an evaluation measures: at a rung, where most trials end, what is decided by and no more."""
    if run.ladder is None or not run.ladder.is_at_rung(trial):
        return trial.evaluate
    wanted = [one.metric for one in run.spec.objectives] + [one.metric for one in run.spec.constraints]
    return evaluate_config.only_for(trial.evaluate, wanted)


def _fill_train(work: dispatch_service_pb2.TrainWork, run: SearchRun, task: Task) -> None:
    trial = run.trials[task.trial - 1]
    work.network.CopyFrom(trial.network.object)
    work.config.CopyFrom(trial.train)
    work.data.CopyFrom(run.spec.data)
    if trial.HasField("instrumentation"):
        work.instrumentation.CopyFrom(trial.instrumentation)
    if trial.HasField("initial_weights"):
        work.initial_weights.CopyFrom(trial.initial_weights)
    if task.checkpoint is not None:
        work.resume_from.CopyFrom(task.checkpoint)
    if run.ladder is not None:
        work.until_step = run.ladder.until_step(trial)


def _fill_generate(work: dispatch_service_pb2.GenerateWork, run: SearchRun, task: Task) -> None:
    ask, spec = task.ask, run.spec
    if ask is None:
        raise ValueError(f"{task.id} asks nothing")
    work.data.CopyFrom(spec.data)
    # Of an added data set the agent reads the manifest, which it has at hand, and fills in what follows from it.
    added = spec.data.HasField("manifest")
    info = None if added else catalog.viewed(catalog.describe(spec.data.dataset), spec.data.view)
    work.request.CopyFrom(
        generate_service_pb2.ProposeRequest(
            generator=spec.generator.generator,
            search=run.name,
            space=spec.space,
            input_dims=info.sample_dims if info else (),
            classes=info.outputs if info else 0,
            settings=spec.generator.settings,
            objectives=spec.objectives,
            constraints=spec.constraints,
            seed=spec.seed,
            call=ask.call,
            count=ask.count,
            results=[result_message(run.trials[n - 1]) for n in run.results[ask.results_from : ask.results_to]],
            state=run.generator_state,
            trials_in_flight=ask.in_flight,
        )
    )


def result_message(trial: search_pb2.Trial) -> generate_service_pb2.Result:
    """Return a trial's end as generators see it."""
    result = generate_service_pb2.Result(
        trial=trial.name,
        proposal_id=trial.proposal_id,
        network=trial.network.name,
        outcome=trial.outcome,
        measurements=trial.measurements,
    )
    if trial.HasField("violation"):
        result.violation.CopyFrom(trial.violation)
    if trial.HasField("failure"):
        result.failure.CopyFrom(trial.failure)
    return result


def _fill_finalize(work: dispatch_service_pb2.FinalizeWork, run: SearchRun) -> None:
    for number in run.final_sources():
        trial = run.trials[number - 1]
        source = work.sources.add(name=trial.name, number=trial.number, network=trial.network)
        if trial.HasField("choices"):
            source.choices.CopyFrom(trial.choices)
    if run.spec.final.HasField("scale_up"):
        work.scale_up.CopyFrom(run.spec.final.scale_up)
    work.space.CopyFrom(run.spec.space)
    work.data.CopyFrom(run.spec.data)


def attempt_message(state: State, task: Task, number: int) -> dispatch_service_pb2.Attempt:
    """Return one attempt at a task."""
    run = state.searches[task.search]
    attempt = task.attempts[number - 1]
    message = dispatch_service_pb2.Attempt(
        task=task.id,
        number=attempt.number,
        kind=search_pb2.TaskKind.ValueType(task.kind),
        task_state=search_pb2.TaskState.ValueType(task.state),
        search=run.name,
        trial=run.trial_name(task.trial) if task.trial else "",
        agent=attempt.agent,
        failure=attempt.failure,
        checkpoint=task.checkpoint,
        members=attempt.members,
    )
    message.lease_time.FromMicroseconds(attempt.lease_time_us)
    return message


def agent_message(entry: AgentEntry, state: State) -> pb.Agent:
    """Return an agent as clients see it."""
    held = [state.tasks[task] for task in entry.held]
    message = pb.Agent(
        name=entry.name,
        slots=[
            dispatch_service_pb2.AgentSlots(kind=search_pb2.TaskKind.ValueType(kind), slots=count)
            for kind, count in entry.slots.items()
        ],
        server=entry.server,
        connected=entry.session is not None,
        draining=entry.draining or entry.drained,
        attempts=[
            dispatch_service_pb2.AttemptToken(task=t.id, attempt=t.current().number, epoch=t.current().epoch)
            for t in held
        ],
        labels=entry.labels,
        version=entry.version,
        host=entry.host,
        address=entry.address,
    )
    message.last_seen_time.FromMicroseconds(entry.last_seen_us)
    return message
