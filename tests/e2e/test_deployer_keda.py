"""What KEDA does, done by a test: asks the deployer by mutual TLS and has as many servers as it says, down to none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh.client import parse_spec
from nasmesh.keda import externalscaler_pb2 as keda
from nasmesh.keda.externalscaler_pb2_grpc import ExternalScalerStub
from nasmesh.rpc.channel import open_channel
from nasmesh.v1 import search_pb2
from tests.builders.access import make_mesh
from tests.builders.deployed_search import SPEC, scheduler_alone
from tests.builders.deploying import deployer
from tests.e2e.mesh import Mesh, nasmesh

# As the chart writes them for servers with autoscaling.kind keda.
POOLS = """
period: 0.3s
pools:
  - { name: evaluate, kind: TASK_KIND_EVALUATE, minServers: 0, maxServers: 2, slots: 1, coolDown: 1s, external: {} }
  - { name: generate, kind: TASK_KIND_GENERATE, minServers: 0, maxServers: 1, slots: 1, coolDown: 1s, external: {} }
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with scheduler_alone(tmp_path / "mesh") as running:
        for name in ("generate", "evaluate"):
            running.arguments[name] = ("--label", f"pool={name}")
        yield running


class Scaler:
    """One ScaledObject: hears whether its pool should have servers, and starts or stops the one that it may have."""

    def __init__(self, mesh: Mesh, stub: ExternalScalerStub, pool: str) -> None:
        self._mesh, self._stub, self._pool = mesh, stub, pool
        self._ref = keda.ScaledObjectRef(name=f"mesh-{pool}", namespace="mesh", scalerMetadata={"pool": pool})
        self._changes = stub.StreamIsActive(self._ref, timeout=240)
        self.is_active = False

    def wanted(self) -> int:
        (spec,) = self._stub.GetMetricSpec(self._ref).metricSpecs
        asked = keda.GetMetricsRequest(scaledObjectRef=self._ref, metricName=spec.metricName)
        (value,) = self._stub.GetMetrics(asked).metricValues
        return int(value.metricValueFloat / spec.targetSizeFloat)

    def follow(self, *, active: bool) -> None:
        """Wait until the pool should have servers, or none, and see to it."""
        while self.is_active is not active:
            self.is_active = next(self._changes).result
        if active:
            self._mesh.start(self._pool)
        else:
            self._mesh.stop(self._pool)


def test_servers_come_and_go_as_keda_is_told_from_none_to_none(tmp_path: Path, mesh: Mesh) -> None:
    made = make_mesh(tmp_path / "access")
    shown = made.client(made.authority.pair("client", "keda"))
    with (
        deployer(mesh, POOLS, *made.access(mutual=True).flags()) as running,
        open_channel(running.address, access=shown) as channel,
        mesh.client() as client,
    ):
        # The probes of its pod show the same certificate.
        asked = nasmesh(mesh.environment(), "health", running.address, *shown.flags())
        assert (asked.code, asked.stdout) == (0, f"{running.address} says SERVING\n"), asked.stderr
        stub = ExternalScalerStub(channel)
        generate, evaluate = Scaler(mesh, stub, "generate"), Scaler(mesh, stub, "evaluate")
        # Nobody has seen what generators there would be: one server comes, is learned from, and goes.
        generate.follow(active=True)
        generate.follow(active=False)
        assert {found.name for found in client.generators()} >= {"generators/random"}
        assert (generate.wanted(), evaluate.wanted()) == (0, 0)

        client.create_search(parse_spec(SPEC), search_id="one")
        generate.follow(active=True)
        evaluate.follow(active=True)
        for _ in client.watch("one"):
            pass
        search = client.get_search("one")
        assert (search.state, search.trials.succeeded) == (search_pb2.SEARCH_STATE_SUCCEEDED, 6), search.reason
        generate.follow(active=False)
        evaluate.follow(active=False)
        assert running.stop() == 0


def test_who_shows_no_certificate_is_told_nothing(tmp_path: Path, mesh: Mesh) -> None:
    made = make_mesh(tmp_path / "access")
    with deployer(mesh, POOLS, *made.access(mutual=True).flags()) as running:
        asked = nasmesh(mesh.environment(), "health", running.address, "--ca-file", str(made.authority.ca))
        assert asked.code == 3, asked.stdout
        assert "certificate" in asked.stderr
