"""A real deployer as a process beside a mesh of tests, and waiting for what its pools come to."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.v1 import deployer_service_pb2 as pb
from nasmesh.v1.deployer_service_pb2_grpc import DeployerServiceStub
from tests.e2e.mesh import ROOT, Mesh, await_port_file

WITHIN_S = 90.0
_POLL_S = 0.1

Pools = dict[str, pb.PoolStatus]


class RunningDeployer:
    """A deployer that serves; `kill` leaves its servers running, as its own end does."""

    def __init__(self, mesh: Mesh, config: Path, *more: str) -> None:
        self._port_file = mesh.home / "run" / "deployer.port"
        self._port_file.unlink(missing_ok=True)
        self.log = mesh.home / "logs" / "deployer.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-f", str(config), "--scheduler", mesh.addresses["scheduler"], "--listen", "127.0.0.1:0", *more]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.deployers", *flags, "--port-file", str(self._port_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=mesh.environment(),
                cwd=ROOT,
                start_new_session=True,
            )
        self.address = await_port_file(self.process, self._port_file)

    def pools(self) -> Pools:
        with open_channel(self.address) as channel, errors_from_rpc(self.address):
            answer = DeployerServiceStub(channel).ListPools(pb.ListPoolsRequest())
        return {pool.name: pool for pool in answer.pools}

    def until(self, holds: Callable[[Pools], bool], *, within_s: float = WITHIN_S) -> Pools:
        """Ask until the pools are as wanted, and return them."""
        ends = time.monotonic() + within_s
        found: Pools = {}
        while time.monotonic() < ends:
            found = self.pools()
            if found and holds(found):
                return found
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            time.sleep(_POLL_S)
        raise AssertionError(f"after {within_s:.0f} s: {found}\n{self.log.read_text()[-4000:]}")

    def log_line(self, event: str) -> str:
        """Return the first line of its log with this event."""
        return next(line for line in self.log.read_text().splitlines() if event in line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@contextmanager
def deployer(mesh: Mesh, config: str, *flags: str) -> Iterator[RunningDeployer]:
    """Run a deployer with this YAML within the block."""
    path = mesh.home / "pools.yaml"
    path.write_text(config)
    running = RunningDeployer(mesh, path, *flags)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def nobody(pools: Pools) -> bool:
    """Say whether all pools are empty."""
    return not any(pool.servers for pool in pools.values())
