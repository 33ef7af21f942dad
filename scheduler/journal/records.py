"""Searches and tasks to snapshot rows and back."""

from nasmesh.v1 import journal_pb2 as pb
from nasmesh.v1 import object_pb2, search_pb2
from scheduler.domain import Ask, Attempt, SearchRun, SearchState, Task, TaskKind, TaskState

_Kind = search_pb2.TaskKind.ValueType
_State = search_pb2.TaskState.ValueType


def search_record(run: SearchRun) -> pb.SearchRecord:
    """Return a search's row; its trials are rows of their own."""
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
        paused=run.paused,
        owner=run.owner,
        traceparent=run.traceparent,
        device_time_saved_s=run.device_time_saved_s,
        overdrawn_trials=run.overdrawn_trials,
        overdrawn_iterations=run.overdrawn_iterations,
        reused_searches=run.reused,
        measuring=run.digests,
    )


def search_of(record: pb.SearchRecord) -> SearchRun:
    """Return the search of a row, without what follows from its trials and tasks: digests are missing."""
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
        paused=record.paused,
        owner=record.owner,
        traceparent=record.traceparent,
        device_time_saved_s=record.device_time_saved_s,
        overdrawn_trials=record.overdrawn_trials,
        overdrawn_iterations=record.overdrawn_iterations,
        reused=dict.fromkeys(record.reused_searches),
        digests=dict.fromkeys(record.measuring, b""),
    )


def task_record(task: Task) -> pb.TaskRecord:
    """Return a task's row."""
    record = pb.TaskRecord()
    fill_task_record(record, task)
    return record


def fill_task_record(record: pb.TaskRecord, task: Task) -> None:
    """Fill in a task's row. Field by field, and none that is zero: there is one for every task there ever was."""
    record.task = task.id
    record.kind = _Kind(task.kind)
    record.search_id = task.search
    record.order = task.order
    record.state = _State(task.state)
    if task.trial:
        record.trial = task.trial
    if task.counted:
        record.counted = task.counted
    if task.losses:
        record.losses = task.losses
    for attempt in task.attempts:
        _fill_attempt_record(record.attempts.add(), attempt)
    if task.checkpoint is not None:
        record.checkpoint.CopyFrom(task.checkpoint)
    if task.proposal is not None:
        record.proposal.CopyFrom(task.proposal)
    if task.need_bytes:
        record.needed_memory_bytes = task.need_bytes
    ask = task.ask
    if ask is not None:
        record.call, record.results_from, record.results_to = ask.call, ask.results_from, ask.results_to
        record.count, record.in_flight = ask.count, ask.in_flight


def task_of(record: pb.TaskRecord) -> Task:
    """Return the task of a row."""
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
        ask=ask if kind is TaskKind.GENERATE and not record.trial else None,
        proposal=record.proposal if record.HasField("proposal") else None,
        need_bytes=record.needed_memory_bytes,
    )


def _fill_attempt_record(record: pb.AttemptRecord, attempt: Attempt) -> None:
    record.number = attempt.number
    record.agent = attempt.agent
    record.epoch = attempt.epoch
    record.lease_time_us = attempt.lease_time_us
    if attempt.failure is not None:
        record.failure.CopyFrom(attempt.failure)
    if attempt.digest:
        record.digest = attempt.digest
    if attempt.ended:
        record.ended = True
    if attempt.members:
        record.members.extend(attempt.members)


def _attempt(record: pb.AttemptRecord) -> Attempt:
    failure = record.failure if record.HasField("failure") else None
    return Attempt(
        record.number,
        record.agent,
        record.epoch,
        record.lease_time_us,
        failure,
        record.digest,
        record.ended,
        tuple(record.members),
    )
