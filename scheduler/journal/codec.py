"""Events and snapshot rows to bytes and back. Everything the journal holds goes through here."""

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from nasmesh.errors import Invalid
from nasmesh.v1 import journal_pb2 as pb
from scheduler.domain import RESULTS_CHUNK, State
from scheduler.facts import (
    AttemptLeased,
    AttemptLost,
    Booted,
    Change,
    CheckpointReported,
    Event,
    NeedUnmet,
    OutcomeReported,
    SearchCancelled,
    SearchCreated,
    SearchExpired,
)
from scheduler.journal import wishes
from scheduler.journal.assembly import Rows
from scheduler.journal.records import search_record, task_record

_ENCODE: dict[type, Callable[[Any], dict[str, Any]]] = {
    Booted: lambda c: {"booted": pb.JournalBooted(epoch=c.epoch, rules=c.rules)},
    SearchCreated: lambda c: {
        "search_created": pb.JournalSearchCreated(
            search_id=c.search, spec=c.spec, owner=c.owner, traceparent=c.traceparent
        )
    },
    SearchCancelled: lambda c: {"search_cancelled": pb.JournalSearchCancelled(search_id=c.search)},
    SearchExpired: lambda c: {"search_expired": pb.JournalSearchExpired(search_id=c.search)},
    AttemptLeased: lambda c: {"attempt_leased": pb.JournalAttemptLeased(task=c.task, agent=c.agent, members=c.members)},
    AttemptLost: lambda c: {"attempt_lost": pb.JournalAttemptLost(task=c.task, attempt=c.attempt, failure=c.failure)},
    CheckpointReported: lambda c: {
        "checkpoint_reported": pb.JournalCheckpointReported(task=c.task, attempt=c.attempt, checkpoint=c.checkpoint)
    },
    NeedUnmet: lambda c: {"need_unmet": pb.JournalNeedUnmet(task=c.task, largest_bytes=c.largest_bytes)},
    OutcomeReported: lambda c: {"outcome_reported": pb.JournalOutcomeReported(outcome=c.outcome, digest=c.digest)},
    **wishes.ENCODE,
}

_DECODE: dict[str, Callable[[Any], Change]] = {
    "booted": lambda m: Booted(m.epoch, m.rules),
    "search_created": lambda m: SearchCreated(m.search_id, m.spec, m.owner, m.traceparent),
    "search_cancelled": lambda m: SearchCancelled(m.search_id),
    "search_expired": lambda m: SearchExpired(m.search_id),
    "attempt_leased": lambda m: AttemptLeased(m.task, m.agent, tuple(m.members)),
    "attempt_lost": lambda m: AttemptLost(m.task, m.attempt, m.failure),
    "checkpoint_reported": lambda m: CheckpointReported(m.task, m.attempt, m.checkpoint),
    "need_unmet": lambda m: NeedUnmet(m.task, m.largest_bytes),
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

    Keys: "state", "search/ID", "trial/ID/NUMBER", "task/ID", "network/INDEX", "measured/ID/CHUNK", "results/ID/CHUNK",
    "dataset/ID".
    """
    kind, _, rest = key.partition("/")
    search, _, number = rest.partition("/")
    if kind == "state":
        return _state_record(state).SerializeToString()
    if kind == "network":
        index = int(rest)
        name = state.network_names[index] if index < len(state.network_names) else ""
        return state.networks.body(name) if name else b""
    if kind == "dataset":
        name = f"datasets/{rest}"
        return state.datasets[name].SerializeToString() if name in state.datasets else b""
    if kind == "task":
        return task_record(state.tasks[rest]).SerializeToString() if rest in state.tasks else b""
    if search not in state.searches:
        return b""
    run = state.searches[search]
    if kind == "search":
        return search_record(run).SerializeToString()
    if kind == "measured":
        chunk = int(number)
        digests, repeats = bytes(run.measured.get(chunk, b"")), bytes(run.repeats.get(chunk, b""))
        return pb.MeasuredRecord(digests=digests, repeats=repeats).SerializeToString()
    if kind == "results":
        begin = int(number) * RESULTS_CHUNK
        return pb.ResultsRecord(trials=run.results[begin : begin + RESULTS_CHUNK]).SerializeToString()
    return run.trials[int(number) - 1].SerializeToString()


def decode_rows(rows: Iterable[tuple[str, bytes]]) -> State:
    """Return the state that snapshot rows describe, in any order; raises Invalid (JOURNAL_CORRUPT)."""
    return read_rows(rows).state


def read_rows(rows: Iterable[tuple[str, bytes]]) -> Rows:
    """Return the state that snapshot rows describe with what they were; raises Invalid (JOURNAL_CORRUPT)."""
    found = Rows()
    read = found.read
    key = ""
    try:
        for key, body in rows:
            kind, _, rest = key.partition("/")
            read[kind](rest, body)
    except (DecodeError, ValueError, LookupError) as error:
        raise unreadable(f"snapshot row {key[:80]}") from error
    try:
        found.assemble()
    except LookupError as error:
        raise unreadable(f"the snapshot lacks {error} and") from error
    return found


def _state_record(state: State) -> pb.StateRecord:
    return pb.StateRecord(
        epoch=state.epoch,
        sequence=state.sequence,
        uptime_s=state.uptime_s,
        tasks_created=state.tasks_created,
        drained_agents=state.drained,
        releasing_agents=[agent for agent, release in state.drained.items() if release],
        deleted_searches=state.deleted,
        rules=state.rules,
    )


def unreadable(what: str) -> Invalid:
    """Return the error for a part of the journal that makes no sense."""
    return Invalid(
        "JOURNAL_CORRUPT",
        f"journal: {what} cannot be read; restore the journal from a backup, or move it away to start anew",
        field="journal",
    )
