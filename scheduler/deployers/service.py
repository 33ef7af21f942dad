"""What a deployer serves: its pools for people, and KEDA's contract. Converts, reads the board, converts."""

# ruff: noqa: N802, ARG002 - names and signatures are the contracts'

from collections.abc import Iterator
from typing import Any

from nasmesh.errors import Invalid, NotFound
from nasmesh.keda import externalscaler_pb2 as keda
from nasmesh.keda import externalscaler_pb2_grpc as keda_rpc
from nasmesh.rpc.call import caller_waits
from nasmesh.rpc.server import Service
from nasmesh.v1 import deployer_service_pb2 as pb
from nasmesh.v1 import deployer_service_pb2_grpc as rpc
from scheduler.deployers.board import Board

Context = Any  # never used

METRIC = "nasmesh-servers"
POOL = "pool"
_LOOK_S = 1.0


class DeployerServicer(rpc.DeployerServiceServicer):
    """Shows the pools."""

    def __init__(self, board: Board) -> None:
        """Serve from a board."""
        self._board = board

    def ListPools(self, request: pb.ListPoolsRequest, context: Context) -> pb.ListPoolsResponse:
        """List the pools."""
        return self._board.read()


class ScalerServicer(keda_rpc.ExternalScalerServicer):
    """Tells KEDA how many servers a pool should have: the metric is that number, and one replica is for one of it."""

    def __init__(self, board: Board) -> None:
        """Serve from a board."""
        self._board = board

    def IsActive(self, request: keda.ScaledObjectRef, context: Context) -> keda.IsActiveResponse:
        """Say whether a pool should have servers."""
        return keda.IsActiveResponse(result=self._wanted(request) > 0)

    def StreamIsActive(self, request: keda.ScaledObjectRef, context: Context) -> Iterator[keda.IsActiveResponse]:
        """Say so at once, and whenever it changes."""
        told: bool | None = None
        looks = -1
        while caller_waits():
            active = self._wanted(request) > 0
            if active is not told:
                told = active
                yield keda.IsActiveResponse(result=active)
            looks = self._board.wait(looks, _LOOK_S)

    def GetMetricSpec(self, request: keda.ScaledObjectRef, context: Context) -> keda.GetMetricSpecResponse:
        """Name the metric."""
        self._wanted(request)
        spec = keda.MetricSpec(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)
        return keda.GetMetricSpecResponse(metricSpecs=[spec])

    def GetMetrics(self, request: keda.GetMetricsRequest, context: Context) -> keda.GetMetricsResponse:
        """Return how many servers a pool should have."""
        wanted = self._wanted(request.scaledObjectRef)
        value = keda.MetricValue(metricName=METRIC, metricValue=wanted, metricValueFloat=float(wanted))
        return keda.GetMetricsResponse(metricValues=[value])

    def _wanted(self, scaled: keda.ScaledObjectRef) -> int:
        name = scaled.scalerMetadata.get(POOL, "")
        if not name:
            raise Invalid("POOL_MISSING", f"scalerMetadata.{POOL}: name the pool in the trigger's metadata", field=POOL)
        pool = self._board.pool(name)
        if pool is None:
            known = ", ".join(pool.name for pool in self._board.read().pools) or "none"
            raise NotFound("POOL_UNKNOWN", f"scalerMetadata.{POOL}: there is no pool {name[:80]!r}; known: {known}")
        return pool.wanted


def services(board: Board) -> list[Service]:
    """Return what a deployer serves."""
    return [
        Service("nasmesh.v1.DeployerService", rpc.add_DeployerServiceServicer_to_server, DeployerServicer(board)),
        Service("externalscaler.ExternalScaler", keda_rpc.add_ExternalScalerServicer_to_server, ScalerServicer(board)),
    ]
