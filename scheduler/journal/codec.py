"""Events and snapshot rows to bytes and back. Everything the journal holds goes through here."""

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from nasmesh.errors import Invalid
from nasmesh.v1 import journal_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.domain import (
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
    State,
    Task,
    TaskState,
)
from scheduler.journal import wishes
from scheduler.journal.records import search_of, search_record, task_of, task_record
from scheduler.machine import reuse

_ENCODE: dict[type, Callable[[Any], dict[str, Any]]] = {
    Booted: lambda c: {"booted": pb.JournalBooted(epoch=c.epoch)},
    SearchCreated: lambda c: {
        "search_created": pb.JournalSearchCreated(
            search_id=c.search, spec=c.spec, owner=c.owner, traceparent=c.traceparent
        )
    },
    SearchCancelled: lambda c: {"search_cancelled": pb.JournalSearchCancelled(search_id=c.search)},
    SearchExpired: lambda c: {"search_expired": pb.JournalSearchExpired(search_id=c.search)},
    AttemptLeased: lambda c: {"attempt_leased": pb.JournalAttemptLeased(task=c.task, agent=c.agent)},
    AttemptLost: lambda c: {"attempt_lost": pb.JournalAttemptLost(task=c.task, attempt=c.attempt, failure=c.failure)},
    CheckpointReported: lambda c: {
        "checkpoint_reported": pb.JournalCheckpointReported(task=c.task, attempt=c.attempt, checkpoint=c.checkpoint)
    },
    OutcomeReported: lambda c: {"outcome_reported": pb.JournalOutcomeReported(outcome=c.outcome, digest=c.digest)},
    **wishes.ENCODE,
}

_DECODE: dict[str, Callable[[Any], Change]] = {
    "booted": lambda m: Booted(m.epoch),
    "search_created": lambda m: SearchCreated(m.search_id, m.spec, m.owner, m.traceparent),
    "search_cancelled": lambda m: SearchCancelled(m.search_id),
    "search_expired": lambda m: SearchExpired(m.search_id),
    "attempt_leased": lambda m: AttemptLeased(m.task, m.agent),
    "attempt_lost": lambda m: AttemptLost(m.task, m.attempt, m.failure),
    "checkpoint_reported": lambda m: CheckpointReported(m.task, m.attempt, m.checkpoint),
    "outcome_reported": lambda m: OutcomeReported(m.outcome, m.digest),
    **wishes.DECODE,
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
    """Return the body of a snapshot row; nothing for one that is gone.

    Keys: "state", "search/ID", "trial/ID/NUMBER", "task/ID", "network/INDEX", "measured/ID/CHUNK".
    """
    kind, _, rest = key.partition("/")
    search, _, number = rest.partition("/")
    if kind == "state":
        return _state_record(state).SerializeToString()
    if kind == "network":
        index = int(rest)
        name = state.network_names[index] if index < len(state.network_names) else ""
        return state.networks[name].SerializeToString() if name else b""
    if kind == "task":
        return task_record(state.tasks[rest]).SerializeToString() if rest in state.tasks else b""
    if search not in state.searches:
        return b""
    run = state.searches[search]
    if kind == "search":
        return search_record(run).SerializeToString()
    if kind == "measured":
        return pb.MeasuredRecord(digests=bytes(run.measured[int(number)])).SerializeToString()
    return run.trials[int(number) - 1].SerializeToString()


def decode_rows(rows: Iterable[tuple[str, bytes]]) -> State:
    """Return the state that snapshot rows describe, in any order; raises Invalid (JOURNAL_CORRUPT)."""
    state = State()
    trials: list[tuple[str, search_pb2.Trial]] = []
    tasks: list[Task] = []
    runs: list[SearchRun] = []
    networks: list[tuple[str, search_pb2.Network]] = []
    measured: list[tuple[str, pb.MeasuredRecord]] = []
    key = ""
    try:
        for key, body in rows:
            kind, _, rest = key.partition("/")
            if kind == "state":
                _put_state(state, pb.StateRecord.FromString(body))
            elif kind == "search":
                runs.append(search_of(pb.SearchRecord.FromString(body)))
            elif kind == "trial":
                trials.append((rest.partition("/")[0], search_pb2.Trial.FromString(body)))
            elif kind == "task":
                tasks.append(task_of(pb.TaskRecord.FromString(body)))
            elif kind == "measured":
                measured.append((rest, pb.MeasuredRecord.FromString(body)))
            else:
                networks.append((rest, search_pb2.Network.FromString(body)))
    except (DecodeError, ValueError) as error:
        raise unreadable(f"snapshot row {key[:80]}") from error
    try:
        _assemble(state, runs, trials, tasks)
        _put_measured(state, measured)
    except LookupError as error:
        raise unreadable(f"the snapshot lacks {error} and") from error
    for index, network in sorted(networks, key=lambda pair: pair[0]):
        state.network_names.extend([""] * (int(index) - len(state.network_names)))
        state.network_names.append(network.name)
        state.networks[network.name] = network
    return state


def _state_record(state: State) -> pb.StateRecord:
    return pb.StateRecord(
        epoch=state.epoch,
        sequence=state.sequence,
        uptime_s=state.uptime_s,
        tasks_created=state.tasks_created,
        drained_agents=state.drained,
        releasing_agents=[agent for agent, release in state.drained.items() if release],
        deleted_searches=state.deleted,
    )


def _put_state(state: State, record: pb.StateRecord) -> None:
    state.epoch, state.sequence = record.epoch, record.sequence
    state.uptime_s, state.tasks_created = record.uptime_s, record.tasks_created
    state.drained = {agent: agent in record.releasing_agents for agent in record.drained_agents}
    state.deleted = dict.fromkeys(record.deleted_searches)


def _put_measured(state: State, rows: list[tuple[str, pb.MeasuredRecord]]) -> None:
    """Put the index of measured trials together; the order of its rows does not matter, since no digest is twice."""
    for key, record in rows:
        search, _, chunk = key.partition("/")
        state.searches[search].measured[int(chunk)] = bytearray(record.digests)
    for run in state.searches.values():
        state.measured.update(reuse.index(run))


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


def unreadable(what: str) -> Invalid:
    """Return the error for a part of the journal that makes no sense."""
    return Invalid(
        "JOURNAL_CORRUPT",
        f"journal: {what} cannot be read; restore the journal from a backup, or move it away to start anew",
        field="journal",
    )
