"""What metrics tell of a deployer: made at each look, so that a scrape reads one moment and waits for nobody."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nasmesh.telemetry.samples import Histogram, Reading, Sample
from nasmesh.v1 import deployer_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2, search_pb2
from scheduler.deployers.records import PoolRecord
from scheduler.deployers.rules import EVALUATE, GENERATE, TRAIN

LOOK_BOUNDS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_STATES = [state for state in pb.PoolServerState.values() if state]


@dataclass(slots=True)
class LookTally:
    """What looks came to since the start, and the work that the last one found; None: there was none that did."""

    failed: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(LOOK_BOUNDS_S))
    demands: Sequence[scheduler_service_pb2.Demand] | None = None


def readings(pools: Sequence[pb.PoolStatus], records: Sequence[PoolRecord], looks: LookTally) -> list[Reading]:
    """Return every metric of a deployer; `records` are the pools' in their order."""
    found: list[Reading] = [
        looks.seconds.reading("nasmesh_deployer_look_seconds"),
        Sample("nasmesh_deployer_looks_failed", looks.failed),
        *_demand(looks.demands or ()),
    ]
    for pool, record in zip(pools, records, strict=True):
        name, tally = (pool.name,), record.tally
        counts = Counter(server.state for server in pool.servers)
        found += [Sample("nasmesh_pool_servers", counts[state], (pool.name, state_name(state))) for state in _STATES]
        found += [
            Sample("nasmesh_pool_servers_wanted", pool.wanted, name),
            Sample("nasmesh_pool_starts", tally.starts, name),
            Sample("nasmesh_pool_failed_starts", tally.failed_starts, name),
            Sample("nasmesh_pool_stops", tally.stops, name),
            Sample("nasmesh_pool_engine_errors", tally.engine_errors, name),
            Sample("nasmesh_pool_engine_away", int(record.away), name),
        ]
    return found


def _demand(demands: Sequence[scheduler_service_pb2.Demand]) -> Iterator[Sample]:
    for kind in (GENERATE, TRAIN, EVALUATE):
        own = [demand for demand in demands if demand.kind == kind]
        word = search_pb2.TaskKind.Name(kind).removeprefix("TASK_KIND_").lower()
        yield Sample("nasmesh_deployer_demand", sum(demand.queued for demand in own), (word, "queued"))
        yield Sample("nasmesh_deployer_demand", sum(demand.running for demand in own), (word, "running"))


def state_name(state: int) -> str:
    """Return where a server stands, as metrics and people write it."""
    return pb.PoolServerState.Name(pb.PoolServerState.ValueType(state)).removeprefix("POOL_SERVER_STATE_").lower()
