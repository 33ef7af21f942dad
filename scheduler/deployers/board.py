"""What the last look found, for whoever asks: people, dashboards, KEDA."""

import threading
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from nasmesh.errors import Unavailable
from nasmesh.telemetry.samples import Reading
from nasmesh.v1 import deployer_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.deployers.planner import Phase
from scheduler.deployers.records import PoolRecord

_STATES = {
    Phase.PENDING: pb.POOL_SERVER_STATE_PENDING,
    Phase.STARTING: pb.POOL_SERVER_STATE_STARTING,
    Phase.IDLE: pb.POOL_SERVER_STATE_IDLE,
    Phase.BUSY: pb.POOL_SERVER_STATE_BUSY,
    Phase.DRAINING: pb.POOL_SERVER_STATE_DRAINING,
    Phase.STOPPING: pb.POOL_SERVER_STATE_STOPPING,
}


class Board:
    """The state of all pools; written by the keeper, read by calls on other threads."""

    def __init__(self, deployer: str) -> None:
        """Show nothing yet."""
        self._answer = pb.ListPoolsResponse(deployer=deployer)
        self._readings: Sequence[Reading] = ()
        self._is_known = False
        self._looks = 0
        self._changed = threading.Condition()

    def show(
        self, pools: Sequence[pb.PoolStatus], readings: Sequence[Reading], *, trouble: str = "", is_known: bool = True
    ) -> None:
        """Show what a look found; `is_known`: whether this or an earlier one was told by the scheduler what work is."""
        answer = pb.ListPoolsResponse(deployer=self._answer.deployer, pools=pools, trouble=trouble)
        with self._changed:
            self._answer = answer
            self._readings = readings
            self._is_known = is_known
            self._looks += 1
            self._changed.notify_all()

    def read(self) -> pb.ListPoolsResponse:
        """Return what is shown now; not to be changed."""
        with self._changed:
            return self._answer

    def readings(self) -> Sequence[Reading]:
        """Return the metrics of the last look."""
        with self._changed:
            return self._readings

    def pool(self, name: str) -> pb.PoolStatus | None:
        """Return one pool as it is shown now; raises Unavailable (DEMAND_UNKNOWN) until it is known what work there is.

        Whoever scales by it would else take a busy pool's servers away because a deployer began.
        """
        with self._changed:
            if not self._is_known:
                why = self._answer.trouble or "it has not looked yet"
                raise Unavailable("DEMAND_UNKNOWN", f"the deployer does not know yet what work there is: {why}")
        return next((pool for pool in self.read().pools if pool.name == name), None)

    def wait(self, looks: int, timeout_s: float) -> int:
        """Return how many looks there have been, once there are more than `looks` or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._looks > looks, timeout_s)
            return self._looks


def pool_status(record: PoolRecord, engine: str, now: float) -> pb.PoolStatus:
    """Return a pool as clients see it."""
    rules = record.rules
    status = pb.PoolStatus(
        name=rules.name,
        kind=search_pb2.TaskKind.ValueType(rules.kind),
        engine=engine,
        min_servers=rules.least,
        max_servers=rules.most,
        wanted=record.wanted,
        servers=[
            pb.PoolServer(name=server.name, state=_STATES[server.phase], reason=server.reason)
            for server in sorted(record.servers.values(), key=lambda server: server.name)
        ],
        failed_starts=record.failures,
        reason=record.reason,
    )
    if record.failures and record.retry_at > now:
        delay = Duration()
        delay.FromMilliseconds(round((record.retry_at - now) * 1000))
        status.retry_delay.CopyFrom(delay)
    return status
