"""A real Ray cluster of three nodes on loopback: a head, one node with a GPU (so it says), one with more of everything.

This module is also the program that holds them, as Ray's own cluster for tests lives in the process that made it. It
takes lines ("kill NAME") on standard input, and ends with it.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# By these, nodes listen on loopback alone, and their death is noticed in seconds.
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
NODES = {
    "small": {"num_cpus": 2, "num_gpus": 1, "resources": {"near": 2}},
    "large": {"num_cpus": 3, "memory": 4 * 2**30, "resources": {"far": 3}},
}
_OBJECTS = 80 * 2**20
_MIB = 2**20
_STOP_S = 60.0


class RayCluster:
    """A running cluster; `environment` is what a program needs that connects to `address`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.address = ""
        self.environment = ENVIRONMENT
        self._process = process

    def kill(self, node: str) -> None:
        """Kill all of Ray's own processes of one node."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"kill {node}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == f"killed {node}"

    def stop(self) -> None:
        """End all nodes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def ray_cluster(home: Path) -> Iterator[RayCluster]:
    """Run a cluster; skips the test, with the reason, where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: RAY=1 scripts/tools.sh brings it (79 MB to fetch)")
    home.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **ENVIRONMENT}
    with (home / "cluster.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    cluster = RayCluster(process)
    try:
        line = process.stdout.readline()
        assert line, f"the cluster did not come up: {(home / 'cluster.log').read_text()[-2000:]}"
        cluster.address = json.loads(line)["address"]
        yield cluster
    finally:
        cluster.stop()
        process.stdout.close()


def main() -> None:
    """Hold the nodes until standard input ends."""
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    alike = {"node_ip_address": "127.0.0.1", "object_store_memory": _OBJECTS, "include_dashboard": False}
    # Of its own, as Ray leaves its logs; and a short path, as sockets are below it.
    own = tempfile.mkdtemp(prefix="ray-")
    # Its address is noted in the default folder whatever "temp_dir" says, and that is there only where some Ray ran.
    os.environ["RAY_TMPDIR"] = own
    os.mkdir(os.path.join(own, "ray"))
    cluster = Cluster(initialize_head=True, head_node_args={**alike, "num_cpus": 0, "memory": _MIB, "temp_dir": own})
    try:
        nodes = {name: cluster.add_node(wait=False, **{"memory": 2**30, **alike, **has}) for name, has in NODES.items()}
        cluster.wait_for_nodes(timeout=120)
        answers.write(json.dumps({"address": cluster.address}) + "\n")
        answers.flush()
        for line in sys.stdin:
            name = line.split()[1]
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
            answers.write(f"killed {name}\n")
            answers.flush()
    finally:
        cluster.shutdown()
        shutil.rmtree(own, ignore_errors=True)


if __name__ == "__main__":
    main()
