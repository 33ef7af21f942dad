"""No server, a search, servers come, the search ends, servers leave: real scheduler, deployer and servers."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nasmesh.client import parse_spec
from nasmesh.v1 import deployer_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.builders.access import make_mesh
from tests.builders.deployed_search import SPEC, scheduler_alone
from tests.builders.deploying import deployer, nobody
from tests.builders.scraping import scrape
from tests.e2e.mesh import Mesh

POOLS = """
period: 0.3s
pools:
  - { name: gen, kind: TASK_KIND_GENERATE, maxServers: 1, coolDown: 3s, local: {} }
  - { name: train, kind: TASK_KIND_TRAIN, maxServers: 2, coolDown: 3s, local: {} }
  - { name: eval, kind: TASK_KIND_EVALUATE, maxServers: 1, slots: 3, coolDown: 3s, local: {} }
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """A scheduler and nobody else; servers of a deployer that are left over are ended."""
    with scheduler_alone(tmp_path / "mesh") as running:
        yield running
        for record in (running.home / "deployer" / "nasmesh" / "local").glob("*.json"):
            body = json.loads(record.read_text())
            with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if body["pid"] and not body["how"] and body["name"] in psutil.Process(body["pid"]).cmdline():
                    os.killpg(body["pid"], signal.SIGKILL)


def test_servers_come_for_a_search_and_leave_when_it_ends(mesh: Mesh) -> None:
    with deployer(mesh, POOLS) as running, mesh.client() as client:
        # What the generate pool offers is learned once; then nobody is there, and a search is taken all the same.
        running.until(lambda pools: bool(pools["gen"].servers))
        running.until(nobody)
        assert {generator.name for generator in client.generators()} >= {"generators/random"}
        assert not [agent for agent in client.agents() if agent.connected]
        client.create_search(parse_spec(SPEC), search_id="one")
        came = running.until(lambda pools: bool(pools["eval"].servers))
        assert len(came["eval"].servers) == 1
        for _ in client.watch("one"):
            pass
        search = client.get_search("one")
        assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
        assert search.trials.succeeded == 6
        running.until(nobody)
        agents = list(client.agents())
        assert not [agent.name for agent in agents if agent.connected or agent.attempts]
        assert {agent.labels["pool"] for agent in agents} == {"gen", "eval"}, "nobody asked for training"
        assert running.stop() == 0


def test_servers_outlive_their_deployer_and_are_found_again(mesh: Mesh) -> None:
    least = POOLS.replace("TASK_KIND_EVALUATE,", "TASK_KIND_EVALUATE, minServers: 1,")
    with deployer(mesh, least, "--metrics", "127.0.0.1:0") as first, mesh.client() as client:
        first.until(lambda pools: [s.state for s in pools["eval"].servers] == [pb.POOL_SERVER_STATE_IDLE])
        _check_shown(mesh, first.address)
        (address,) = re.findall(r'"address": ?"([^"]+)"', first.log_line("serving_metrics"))
        found = scrape(address)
        assert found["nasmesh_pool_servers"]["eval", "idle"] == 1
        assert found["nasmesh_pool_starts_total"]["eval",] >= 1
        assert found["nasmesh_rpc_calls_total"]["OK", "/nasmesh.v1.DeployerService/ListPools"] >= 1
        before = {server.name for server in first.pools()["eval"].servers}
        first.kill()
        assert before <= {agent.name.removeprefix("agents/") for agent in client.agents() if agent.connected}
    with deployer(mesh, POOLS) as second, mesh.client() as client:
        found = second.until(lambda pools: bool(pools["eval"].servers))
        assert {server.name for server in found["eval"].servers} == before
        second.until(nobody)
        assert not [agent.name for agent in client.agents() if agent.connected]


SECURE = """
period: 0.3s
pools:
  - name: gen
    kind: TASK_KIND_GENERATE
    minServers: 1
    maxServers: 1
    arguments: [--ca-file, {ca}, --token-file, {token}]
    local: {{}}
  - name: eval
    kind: TASK_KIND_EVALUATE
    minServers: 1
    maxServers: 1
    arguments: [--ca-file, {ca}, --token-file, {token}]
    local: {{}}
"""


def test_servers_come_with_their_pools_token_and_not_with_anothers(tmp_path: Path, mesh: Mesh) -> None:
    made = make_mesh(tmp_path / "access")
    mesh.stop("scheduler")
    mesh.arguments["scheduler"] = made.access(tokens=True).flags()
    mesh.start("scheduler")
    admin = made.client(token=made.token("operator", "admin"))
    config = SECURE.format(ca=admin.ca, token=made.token("gen", "agent"))
    with deployer(mesh, config, *admin.flags()) as running:
        found = running.until(
            lambda pools: (
                [s.state for s in pools["gen"].servers] == [pb.POOL_SERVER_STATE_IDLE]
                and pools["eval"].failed_starts > 0
                and pools["eval"].HasField("retry_delay")
            )
        )
        assert not found["gen"].reason
        assert "eval-" in found["eval"].reason
        assert "start it with --name as the credential says, or issue one for it" in found["eval"].reason


def _check_shown(mesh: Mesh, address: str) -> None:
    shown = mesh.nasmesh("pools", "--deployer", address)
    assert shown.code == 0, shown.stderr
    assert [line.split()[:3] for line in shown.stdout.splitlines()[1:4]] == [
        ["gen", "generate", "local"],
        ["train", "train", "local"],
        ["eval", "evaluate", "local"],
    ]
    assert "process " in mesh.nasmesh("pools", "--deployer", address, "--servers").stdout
    answer = json.loads(mesh.nasmesh("pools", "--deployer", address, "--json").stdout)
    assert [pool["name"] for pool in answer["pools"]] == ["gen", "train", "eval"]
    # One home, one deployer: a second would start servers beside the first one's.
    again = mesh.nasmesh("serve", "deployer", "-f", str(mesh.home / "pools.yaml"), "--listen", "127.0.0.1:0")
    assert again.code == 3, again.stderr
    assert "is in use by another program" in again.stderr
