"""Two schedulers and their database, each a host: the leader is cut off, or gone; the other leads within ten s."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.builders import netns, postgres_server
from tests.builders.netns import Host, Network
from tests.builders.postgres_server import PostgresServer
from tests.e2e.mesh import ROOT

TAKE_OVER_S = 10.0
_WAIT_S = 60.0
_LOOK_S = 0.02


class Scheduler:
    """A scheduler with --standby on a host of its own."""

    def __init__(self, host: Host, journal: str) -> None:
        self.host = host
        self._log = host.files / "scheduler.log"
        command = [sys.executable, "-m", "scheduler", "--standby", "--insecure", "--store", "memory:"]
        command += ["--listen", f"{host.address}:7400", "--journal", journal]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                host.spaces.enter(*command, whole=False),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=host.environment({"NASMESH_HOME": str(host.files), "NASMESH_LOG_FORMAT": "json"}),
                cwd=ROOT,
            )

    def said(self, event: str) -> float:
        """Return when the log first had an event, in seconds of the wall clock; waits for it."""
        until = time.monotonic() + _WAIT_S
        while time.monotonic() < until:
            for line in self._log.read_text().splitlines():
                if line.startswith("{") and json.loads(line)["event"] == event:
                    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
            time.sleep(_LOOK_S)
        raise AssertionError(f"{self.host.name} never said {event}: {self._log.read_text()[-2000:]}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    reason = netns.missing() or postgres_server.absent()
    if reason:
        assert os.environ.get("CI") != "true", reason
        pytest.skip(f"2 cases: {reason}")
    with Network(tmp_path / "network") as found:
        yield found


@pytest.mark.parametrize("fate", ["cut off from the database", "gone"])
def test_leader_when_its_host_is_lost_then_the_standby_leads_within_ten_seconds(
    network: Network, fate: str, record_property: Callable[[str, object], None]
) -> None:
    there = network.add("database")
    server = PostgresServer(there.files / "postgres", host=there.address, prefix=there.spaces.enter(whole=False))
    server.make()
    server.start()
    schedulers: list[Scheduler] = []
    try:
        for name in ("one", "two"):
            schedulers.append(Scheduler(network.add(name), server.url("postgres")))
            schedulers[-1].said("serving" if name == "one" else "standing_by")
        leader, other = schedulers
        struck = time.time()
        if fate == "gone":
            leader.host.kill()
        else:
            leader.host.cut(there)
            lost = leader.said("journal_lock_lost")
            assert leader.process.wait(_WAIT_S) == 1, "it stops by itself"
            assert lost < other.said("serving"), "and before another leads"
        gap = other.said("serving") - struck
        record_property("counts", f"standby on another host, leader {fate}: leads after {gap:.2f} s")
        assert gap <= TAKE_OVER_S
    finally:
        for scheduler in schedulers:
            scheduler.close()
        server.stop()
