"""Every metric of every program: name, kind, labels, what it is. docs/observability.md has the same table."""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One metric. Counters are named without the suffix _total that a scrape shows."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


SCHEDULER = (
    Metric("nasmesh_tasks", Kind.GAUGE, ("kind", "state"), "Open tasks, queued and running."),
    Metric("nasmesh_oldest_queued_seconds", Kind.GAUGE, (), "Age of the task that has waited longest."),
    Metric("nasmesh_agents_connected", Kind.GAUGE, (), "Agents with an open stream."),
    Metric("nasmesh_searches_open", Kind.GAUGE, (), "Searches that have not ended."),
    Metric("nasmesh_outcomes", Kind.COUNTER, ("disposition",), "Outcomes: recorded, duplicate or superseded."),
    Metric("nasmesh_attempts_lost", Kind.COUNTER, ("reason",), "Attempts given up without an outcome."),
    Metric("nasmesh_attempt_failures", Kind.COUNTER, ("reason",), "Attempts that ended with a failure."),
    Metric("nasmesh_networks_refused", Kind.COUNTER, ("reason",), "Proposed networks refused before training."),
    Metric("nasmesh_calls_denied", Kind.COUNTER, ("reason",), "Calls refused because of who made them."),
    Metric("nasmesh_events", Kind.COUNTER, (), "Events recorded in the journal, over all boots."),
    Metric("nasmesh_commit_seconds", Kind.HISTOGRAM, (), "Journal commits by duration."),
    Metric("nasmesh_commit_failures", Kind.COUNTER, (), "Journal commits that were refused."),
    Metric("nasmesh_lease_slack_seconds", Kind.GAUGE, (), "Time until the soonest lease runs out."),
    Metric("nasmesh_store_outage", Kind.GAUGE, (), "1 while dispatch is held because the object store is down."),
    Metric("nasmesh_serving", Kind.GAUGE, (), "1 while health says SERVING."),
    Metric("nasmesh_epoch", Kind.GAUGE, (), "Boot number on this journal."),
)
SERVER = (
    Metric("nasmesh_slots", Kind.GAUGE, (), "Jobs that run at once."),
    Metric("nasmesh_jobs", Kind.GAUGE, ("state",), "Jobs that have not ended: queued and running."),
    Metric("nasmesh_jobs_ended", Kind.COUNTER, ("state",), "Jobs that ended: succeeded, failed or cancelled."),
    Metric("nasmesh_job_seconds", Kind.HISTOGRAM, (), "Jobs by time from their start to their end."),
    Metric("nasmesh_children_started", Kind.COUNTER, (), "Child processes started; more than slots + 1: some died."),
)
AGENT = (
    Metric("nasmesh_agent_connected", Kind.GAUGE, (), "1 while the agent has a stream to the scheduler."),
    Metric("nasmesh_agent_connections", Kind.COUNTER, (), "Streams opened; more than 1: it reconnected."),
    Metric("nasmesh_agent_held", Kind.GAUGE, (), "Attempts in hand."),
    Metric("nasmesh_agent_outcomes_spooled", Kind.GAUGE, (), "Outcomes on disk that were not acknowledged."),
)
DEPLOYER = (
    Metric("nasmesh_pool_servers", Kind.GAUGE, ("pool", "state"), "Servers of a pool, by where they stand."),
    Metric("nasmesh_pool_servers_wanted", Kind.GAUGE, ("pool",), "Servers of a pool that the work there is asks for."),
    Metric("nasmesh_pool_starts", Kind.COUNTER, ("pool",), "Servers that the pool's engine took the order for."),
    Metric("nasmesh_pool_failed_starts", Kind.COUNTER, ("pool",), "Starts refused for good, late, or soon over."),
    Metric("nasmesh_pool_stops", Kind.COUNTER, ("pool",), "Servers that were told to end."),
    Metric("nasmesh_pool_engine_errors", Kind.COUNTER, ("pool",), "Times that the pool's engine was of no use."),
    Metric("nasmesh_pool_engine_away", Kind.GAUGE, ("pool",), "1 while the pool's engine gives no answer."),
    Metric("nasmesh_deployer_demand", Kind.GAUGE, ("kind", "state"), "Tasks that the deployer's last look found."),
    Metric("nasmesh_deployer_look_seconds", Kind.HISTOGRAM, (), "Looks at scheduler and engines by duration."),
    Metric("nasmesh_deployer_looks_failed", Kind.COUNTER, (), "Looks that the scheduler did not answer."),
)
RPC = (
    Metric("nasmesh_certificate_ends", Kind.GAUGE, ("file",), "Wall time at which a certificate ends, since 1970."),
    Metric("nasmesh_rpc_calls", Kind.COUNTER, ("method", "code"), "Calls answered, by full method and gRPC status."),
    Metric("nasmesh_rpc_seconds", Kind.HISTOGRAM, ("method",), "Calls with one answer, by duration."),
)
METRICS = {metric.name: metric for metric in (*SCHEDULER, *SERVER, *AGENT, *DEPLOYER, *RPC)}
