"""Searches and tasks to snapshot rows and back."""

from nasmesh.v1 import journal_pb2 as pb
from nasmesh.v1 import object_pb2, search_pb2
from scheduler.domain import Ask, Attempt, SearchRun, SearchState, Task, TaskKind, TaskState


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
    )


def search_of(record: pb.SearchRecord) -> SearchRun:
    """Return the search of a row, without what follows from its trials and tasks."""
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
    )


def task_record(task: Task) -> pb.TaskRecord:
    """Return a task's row."""
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
        proposal=task.proposal,
    )


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
