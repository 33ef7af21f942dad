"""Events and snapshot rows to bytes and back. Everything the journal holds goes through here."""

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from nasmesh.errors import Invalid
from nasmesh.v1 import journal_pb2 as pb
from nasmesh.v1 import object_pb2, search_pb2
from scheduler.domain import (
    Ask,
    Attempt,
    AttemptLeased,
    AttemptLost,
    Booted,
    Change,
    CheckpointReported,
    Event,
    OutcomeReported,
    SearchCancelled,
    SearchCreated,
    SearchExpired,
    SearchRun,
    SearchState,
    State,
    Task,
    TaskKind,
    TaskState,
)

_ENCODE: dict[type, Callable[[Any], dict[str, Any]]] = {
    Booted: lambda c: {"booted": pb.JournalBooted(epoch=c.epoch)},
    SearchCreated: lambda c: {"search_created": pb.JournalSearchCreated(search_id=c.search, spec=c.spec)},
    SearchCancelled: lambda c: {"search_cancelled": pb.JournalSearchCancelled(search_id=c.search)},
    SearchExpired: lambda c: {"search_expired": pb.JournalSearchExpired(search_id=c.search)},
    AttemptLeased: lambda c: {"attempt_leased": pb.JournalAttemptLeased(task=c.task, agent=c.agent)},
    AttemptLost: lambda c: {"attempt_lost": pb.JournalAttemptLost(task=c.task, attempt=c.attempt, failure=c.failure)},
    CheckpointReported: lambda c: {
        "checkpoint_reported": pb.JournalCheckpointReported(task=c.task, attempt=c.attempt, checkpoint=c.checkpoint)
    },
    OutcomeReported: lambda c: {"outcome_reported": pb.JournalOutcomeReported(outcome=c.outcome, digest=c.digest)},
}

_DECODE: dict[str, Callable[[Any], Change]] = {
    "booted": lambda m: Booted(m.epoch),
    "search_created": lambda m: SearchCreated(m.search_id, m.spec),
    "search_cancelled": lambda m: SearchCancelled(m.search_id),
    "search_expired": lambda m: SearchExpired(m.search_id),
    "attempt_leased": lambda m: AttemptLeased(m.task, m.agent),
    "attempt_lost": lambda m: AttemptLost(m.task, m.attempt, m.failure),
    "checkpoint_reported": lambda m: CheckpointReported(m.task, m.attempt, m.checkpoint),
    "outcome_reported": lambda m: OutcomeReported(m.outcome, m.digest),
}


def encode_event(event: Event) -> bytes:
    """Return an event's bytes."""
    fields = _ENCODE[type(event.change)](event.change)
    return pb.JournalEvent(time_us=event.time_us, uptime_s=event.uptime_s, **fields).SerializeToString()


def decode_event(sequence: int, body: bytes) -> Event:
    """Return the event of these bytes; raises Invalid (JOURNAL_CORRUPT) naming its sequence number."""
    try:
        message = pb.JournalEvent.FromString(body)
    except DecodeError as error:
        raise unreadable(f"event {sequence}") from error
    kind = message.WhichOneof("change")
    if kind is None:
        raise unreadable(f"event {sequence}")
    return Event(message.time_us, message.uptime_s, _DECODE[kind](getattr(message, kind)))


def encode_row(state: State, key: str) -> bytes:
    """Return the body of a snapshot row: "state", "search/ID", "trial/ID/NUMBER", "task/ID" or "network/INDEX"."""
    kind, _, rest = key.partition("/")
    if kind == "state":
        return pb.StateRecord(
            epoch=state.epoch, sequence=state.sequence, uptime_s=state.uptime_s, tasks_created=state.tasks_created
        ).SerializeToString()
    if kind == "search":
        return _search_record(state.searches[rest]).SerializeToString()
    if kind == "trial":
        search, _, number = rest.partition("/")
        return state.searches[search].trials[int(number) - 1].SerializeToString()
    if kind == "task":
        return _task_record(state.tasks[rest]).SerializeToString()
    return state.networks[state.network_names[int(rest)]].SerializeToString()


def decode_rows(rows: Iterable[tuple[str, bytes]]) -> State:
    """Return the state that snapshot rows describe, in any order; raises Invalid (JOURNAL_CORRUPT)."""
    state = State()
    trials: list[tuple[str, search_pb2.Trial]] = []
    tasks: list[Task] = []
    runs: list[SearchRun] = []
    networks: list[tuple[str, search_pb2.Network]] = []
    key = ""
    try:
        for key, body in rows:
            kind, _, rest = key.partition("/")
            if kind == "state":
                record = pb.StateRecord.FromString(body)
                state.epoch, state.sequence = record.epoch, record.sequence
                state.uptime_s, state.tasks_created = record.uptime_s, record.tasks_created
            elif kind == "search":
                runs.append(_search(pb.SearchRecord.FromString(body)))
            elif kind == "trial":
                trials.append((rest.partition("/")[0], search_pb2.Trial.FromString(body)))
            elif kind == "task":
                tasks.append(_task(pb.TaskRecord.FromString(body)))
            else:
                networks.append((rest, search_pb2.Network.FromString(body)))
    except (DecodeError, ValueError) as error:
        raise unreadable(f"snapshot row {key[:80]}") from error
    try:
        _assemble(state, runs, trials, tasks)
    except LookupError as error:
        raise unreadable(f"the snapshot lacks {error} and") from error
    state.networks = {network.name: network for _, network in sorted(networks, key=lambda pair: pair[0])}
    state.network_names = list(state.networks)
    return state


def _assemble(
    state: State, runs: list[SearchRun], trials: list[tuple[str, search_pb2.Trial]], tasks: list[Task]
) -> None:
    """Put rows together: searches in the order of creation, which their first task tells."""
    tasks.sort(key=lambda task: task.order)
    by_id = {run.id: run for run in runs}
    state.searches = {task.search: by_id[task.search] for task in tasks}
    for search, trial in sorted(trials, key=lambda pair: pair[1].number):
        run = by_id[search]
        run.trials.append(trial)
        if trial.outcome:
            run.outcomes[trial.outcome] = run.outcomes.get(trial.outcome, 0) + 1
        else:
            run.active += 1
    for task in tasks:
        state.tasks[task.id] = task
        if task.state in (TaskState.QUEUED, TaskState.RUNNING):
            by_id[task.search].open_tasks[task.id] = None


def _search_record(run: SearchRun) -> pb.SearchRecord:
    return pb.SearchRecord(
        search_id=run.id,
        spec=run.spec,
        create_time_us=run.create_time_us,
        start_uptime_s=run.start_uptime_s,
        state=search_pb2.SearchState.ValueType(run.state),
        reason=run.reason,
        end_time_us=run.end_time_us,
        stop_reason=run.stop_reason,
        sequence=run.sequence,
        results=run.results,
        cursor=run.cursor,
        calls=run.calls,
        iterations=run.iterations,
        empty_calls=run.empty_calls,
        generator_state=run.generator_state,
        generator_version=run.generator_version,
        after_results=run.after_results,
        in_flight_below=run.in_flight_below,
        device_time_s=run.device_time_s,
        final_device_time_s=run.final_device_time_s,
        leaders=[number for _, number in run.leaders],
        leader_keys=[key for key, _ in run.leaders],
        final_trials=run.final_trials,
        generate_task=run.generate_task,
    )


def _search(record: pb.SearchRecord) -> SearchRun:
    return SearchRun(
        id=record.search_id,
        spec=record.spec,
        create_time_us=record.create_time_us,
        start_uptime_s=record.start_uptime_s,
        state=SearchState(record.state),
        reason=record.reason,
        end_time_us=record.end_time_us,
        stop_reason=record.stop_reason,
        sequence=record.sequence,
        results=list(record.results),
        cursor=record.cursor,
        calls=record.calls,
        iterations=record.iterations,
        empty_calls=record.empty_calls,
        generator_state=record.generator_state,
        generator_version=record.generator_version,
        after_results=record.after_results,
        in_flight_below=record.in_flight_below,
        device_time_s=record.device_time_s,
        final_device_time_s=record.final_device_time_s,
        leaders=list(zip(record.leader_keys, record.leaders, strict=True)),
        final_trials=list(record.final_trials),
        generate_task=record.generate_task,
    )


def _task_record(task: Task) -> pb.TaskRecord:
    ask = task.ask or Ask(call=0)
    return pb.TaskRecord(
        task=task.id,
        kind=search_pb2.TaskKind.ValueType(task.kind),
        search_id=task.search,
        trial=task.trial,
        order=task.order,
        state=search_pb2.TaskState.ValueType(task.state),
        counted=task.counted,
        losses=task.losses,
        attempts=[_attempt_record(attempt) for attempt in task.attempts],
        checkpoint=task.checkpoint,
        call=ask.call,
        results_from=ask.results_from,
        results_to=ask.results_to,
        count=ask.count,
        in_flight=ask.in_flight,
    )


def _task(record: pb.TaskRecord) -> Task:
    kind = TaskKind(record.kind)
    ask = Ask(record.call, record.results_from, record.results_to, record.count, record.in_flight)
    checkpoint: object_pb2.ObjectRef | None = record.checkpoint if record.HasField("checkpoint") else None
    return Task(
        id=record.task,
        kind=kind,
        search=record.search_id,
        trial=record.trial,
        order=record.order,
        state=TaskState(record.state),
        counted=record.counted,
        losses=record.losses,
        attempts=[_attempt(attempt) for attempt in record.attempts],
        checkpoint=checkpoint,
        ask=ask if kind is TaskKind.GENERATE else None,
    )


def _attempt_record(attempt: Attempt) -> pb.AttemptRecord:
    return pb.AttemptRecord(
        number=attempt.number,
        agent=attempt.agent,
        epoch=attempt.epoch,
        lease_time_us=attempt.lease_time_us,
        failure=attempt.failure,
        digest=attempt.digest,
        ended=attempt.ended,
    )


def _attempt(record: pb.AttemptRecord) -> Attempt:
    failure = record.failure if record.HasField("failure") else None
    return Attempt(
        record.number, record.agent, record.epoch, record.lease_time_us, failure, record.digest, record.ended
    )


def unreadable(what: str) -> Invalid:
    """Return the error for a part of the journal that makes no sense."""
    return Invalid(
        "JOURNAL_CORRUPT",
        f"journal: {what} cannot be read; restore the journal from a backup, or move it away to start anew",
        field="journal",
    )
