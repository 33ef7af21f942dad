"""What metrics tell of a scheduler: read at each scrape, on the event loop, beside the engine and not through it."""

import asyncio
from collections.abc import Iterator

from nasmesh.telemetry.exposition import Source
from nasmesh.telemetry.samples import Distribution, Reading, Sample, by_reason
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.activity import COMMIT_BOUNDS_S
from scheduler.activity_message import activity_message
from scheduler.engine import Engine

# A scrape gives up before Prometheus does (10 s by default), so that it says what is wrong.
READ_S = 5.0


def source(engine: Engine) -> Source:
    """Return a source for this loop's engine; it is asked from other threads."""
    loop = asyncio.get_running_loop()

    async def read() -> list[Reading]:
        return list(readings(engine))

    def ask() -> list[Reading]:
        return asyncio.run_coroutine_threadsafe(read(), loop).result(READ_S)

    return ask


def readings(engine: Engine) -> Iterator[Reading]:
    """Yield every metric of a scheduler."""
    doing, activity = activity_message(engine), engine.activity
    yield from _tasks(doing)
    yield Sample("nasmesh_oldest_queued_seconds", doing.oldest_queued_s)
    yield Sample("nasmesh_agents_connected", doing.connected_agents)
    yield Sample("nasmesh_searches_open", doing.open_searches)
    yield Sample("nasmesh_outcomes", doing.outcomes_recorded, ("recorded",))
    yield Sample("nasmesh_outcomes", doing.duplicates_refused, ("duplicate",))
    yield Sample("nasmesh_outcomes", doing.superseded_refused, ("superseded",))
    yield from by_reason("nasmesh_attempts_lost", doing.attempts_lost.items())
    yield from by_reason("nasmesh_attempt_failures", doing.failures.items())
    yield from by_reason("nasmesh_networks_refused", doing.networks_refused.items())
    yield from by_reason("nasmesh_calls_denied", doing.calls_denied.items())
    yield Sample("nasmesh_events", doing.events)
    yield Distribution("nasmesh_commit_seconds", COMMIT_BOUNDS_S, tuple(activity.commit_buckets), activity.commit_s)
    yield Sample("nasmesh_commit_failures", doing.commit_failures)
    yield Sample("nasmesh_lease_slack_seconds", doing.lease_slack_s)
    yield Sample("nasmesh_store_outage", int(doing.store_outage))
    yield Sample("nasmesh_serving", int(doing.serving))
    yield Sample("nasmesh_epoch", engine.state.epoch)


def _tasks(doing: pb.SchedulerActivity) -> Iterator[Reading]:
    for counts in doing.tasks:
        kind = search_pb2.TaskKind.Name(counts.kind).removeprefix("TASK_KIND_").lower()
        yield Sample("nasmesh_tasks", counts.queued, (kind, "queued"))
        yield Sample("nasmesh_tasks", counts.running, (kind, "running"))
