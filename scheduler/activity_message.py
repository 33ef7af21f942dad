"""What the scheduler is doing, as a message for clients."""

from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.domain import OPEN_SEARCHES, SearchRun, State, TaskKind, TaskState
from scheduler.engine import Engine


def activity_message(engine: Engine) -> pb.SchedulerActivity:
    """Return what an engine is doing; costs a walk over its open tasks."""
    state, activity = engine.state, engine.activity
    open_runs = [run for run in state.searches.values() if run.state in OPEN_SEARCHES]
    now = engine.clock.monotonic()
    return pb.SchedulerActivity(
        tasks=_counts(state, open_runs),
        connected_agents=sum(1 for entry in engine.agents.all() if entry.session is not None),
        open_searches=len(open_runs),
        outcomes_recorded=activity.outcomes_recorded,
        duplicates_refused=activity.duplicates_refused,
        superseded_refused=activity.superseded_refused,
        attempts_lost=dict(activity.attempts_lost),
        events=activity.events,
        oldest_queued_s=oldest_queued_s(engine, now),
        commit_p50_s=activity.commit_p50_s(),
        store_outage=engine.outage.holds,
        failures=dict(activity.failures),
        networks_refused=dict(activity.networks_refused),
        calls_denied=dict(activity.calls_denied),
        commits=activity.commits,
        commit_failures=activity.commit_failures,
        lease_slack_s=min(engine.lease_s, max(0.0, engine.work.leases.next_deadline() - now)),
        serving=activity.serving,
    )


def oldest_queued_s(engine: Engine, now: float) -> float:
    """Return for how long the task waits that waits longest; 0 where none does. Forgets those that have ended."""
    waits, tasks = engine.activity.queued_since, engine.state.tasks
    while waits:
        task_id = next(iter(waits))
        task = tasks.get(task_id)
        if task is not None and task.state is TaskState.QUEUED:
            return max(0.0, now - waits[task_id])
        del waits[task_id]
    return 0.0


def _counts(state: State, runs: list[SearchRun]) -> list[pb.TaskCounts]:
    queued = dict.fromkeys(TaskKind, 0)
    running = dict.fromkeys(TaskKind, 0)
    for run in runs:
        for task_id in run.open_tasks:
            task = state.tasks[task_id]
            counts = queued if task.state is TaskState.QUEUED else running
            counts[task.kind] += 1
    return [
        pb.TaskCounts(kind=search_pb2.TaskKind.ValueType(kind), queued=queued[kind], running=running[kind])
        for kind in TaskKind
    ]
