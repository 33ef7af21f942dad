"""Servers as actors of a real Ray cluster of three nodes: placed by resources, stopped softly, gone with their node."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nasmesh.errors import Unavailable
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import Order, Resources, Site, Standing, State
from scheduler.deployers.engines.ray import RayEngine
from tests.builders.deployed_search import scheduler_alone, search_through
from tests.builders.ray_cluster import RayCluster, ray_cluster
from tests.builders.standings import order, until, until_all, until_file

MIB = 2**20
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("ray")) as running:
        yield running


@pytest.fixture(scope="module")
def environment(cluster: RayCluster) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def engine(cluster: RayCluster, environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEngine]:
    """One engine for all tests, as each loads Ray once; its pool is "ray"."""
    del environment
    made = RayEngine(pool(cluster), Site("mesh", tmp_path_factory.mktemp("engine")))
    yield made
    made.close()


def pool(cluster: RayCluster) -> pb.ServerPool:
    return pb.ServerPool(name="ray", ray=pb.RayEngine(address=cluster.address), resources=pb.ServerResources(cpus=64))


def test_servers_are_placed_by_gpu_and_resource_and_end_softly(
    tmp_path: Path, engine: RayEngine, cluster: RayCluster
) -> None:
    gpu = Resources(cpus=1, memory_bytes=64 * MIB, gpus=1)
    both = ("ray-000001", "ray-000002")
    for name in (*both, *both):  # once by name
        engine.start(order(name, tmp_path / name, resources=gpu))
    engine.start(order("ray-000003", tmp_path / "3", resources=Resources(memory_bytes=2048 * MIB, custom={"far": 2})))
    until(engine, "ray-000003", State.RUNNING)
    found = until_all(engine, lambda f: [f[name].state for name in both].count(State.RUNNING) == 1)
    first, waiting = sorted(both, key=lambda name: found[name].state is State.PENDING)
    assert found[waiting].reason == "none of 3 nodes has CPU 64: it waits until one comes", "as the pool says"
    given = {name: json.loads(until_file(tmp_path / name))["environment"] for name in (first, "3")}
    assert given[first]["CUDA_VISIBLE_DEVICES"] == "0"
    assert given["3"]["CUDA_VISIBLE_DEVICES"] == "", "who reserves no GPU sees none"
    assert given[first]["TEST_WORDS"] == 'a "b", $c'
    again = RayEngine(
        pool(cluster), Site("mesh", tmp_path / "lost")
    )  # a deployer that starts anew, without its directory
    try:
        until(again, first, State.RUNNING)
        assert {standing.name for standing in again.standings()} == {*both, "ray-000003"}
        again.stop(first, 30.0)
        until(again, first, State.ENDED, says="stopped, with exit code 0")
    finally:
        again.close()
    until(engine, waiting, State.RUNNING)  # it got the GPU that was given back
    for name in (waiting, "ray-000003"):
        engine.stop(name, 30.0)
    until_all(engine, lambda found: not found)


def test_how_a_server_ended_is_told(tmp_path: Path, engine: RayEngine) -> None:
    engine.start(order("ray-100001", tmp_path / "1", "fail"))
    engine.start(Order("ray-100002", "ray", ("no-such-program",), {}, Resources(), {}))
    engine.start(order("ray-100003", tmp_path / "3", resources=Resources(custom={"quantum": 1})))
    engine.start(order("ray-100004", tmp_path / "4", "stubborn"))
    reasons: dict[str, str] = {}

    def ended(found: dict[str, Standing]) -> bool:
        reasons.update({name: standing.reason for name, standing in found.items() if standing.state is State.ENDED})
        return {"ray-100001", "ray-100002"} <= reasons.keys()

    until_all(engine, ended)
    assert reasons["ray-100001"] == "ended with exit code 7"
    assert "not on the node's PATH" in reasons["ray-100002"]
    until_file(tmp_path / "4")
    until(engine, "ray-100004", State.RUNNING)
    until(engine, "ray-100003", State.PENDING)
    engine.stop("ray-100003", 100.0)  # at once, as nothing runs yet
    engine.stop("ray-100004", 0.5)
    engine.stop("ray-ffffff", 1.0)
    until(engine, "ray-100004", State.ENDED, says="stopped, by signal 9")
    until_all(engine, lambda found: not found)


def test_search_is_run_by_servers_that_come_and_leave(tmp_path: Path, engine: RayEngine, cluster: RayCluster) -> None:
    assert list(engine.standings()) == []
    with scheduler_alone(tmp_path / "mesh") as mesh:
        seen = search_through(mesh, f"ray: {{ address: '{cluster.address}' }}, resources: {{ cpus: 1 }}")
    assert {name.rpartition("-")[0] for name in seen} == {"gen", "eval"}
    assert list(engine.standings()) == [], "those are of other pools"


def test_server_of_a_killed_node_has_ended_and_its_process_is_gone(
    tmp_path: Path, cluster: RayCluster, engine: RayEngine
) -> None:
    engine.start(order("ray-200001", tmp_path / "1", resources=Resources(custom={"near": 1})))
    engine.start(order("ray-200002", tmp_path / "2", resources=Resources(custom={"far": 1})))
    pid = json.loads(until_file(tmp_path / "1"))["pid"]
    until_file(tmp_path / "2")
    for name in ("ray-200001", "ray-200002"):
        until(engine, name, State.RUNNING)
    cluster.kill("small")
    ended = until(engine, "ray-200001", State.ENDED)
    assert ended.reason
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(30)
    assert not psutil.pid_exists(pid)
    until(engine, "ray-200002", State.RUNNING)
    cluster.stop()
    for _ in range(2):  # the connection that is lost, then one that cannot be made
        with pytest.raises(Unavailable):
            engine.standings()


@pytest.mark.parametrize(("address", "says"), [("127.0.0.1:1", "nobody listens"), ("nonsense", "Invalid address")])
def test_cluster_that_is_not_there_is_unavailable(tmp_path: Path, address: str, says: str) -> None:
    pytest.importorskip("ray")
    engine = RayEngine(pb.ServerPool(name="none", ray=pb.RayEngine(address=address)), Site("mesh", tmp_path))
    with pytest.raises(Unavailable) as down:
        engine.standings()
    engine.close()
    assert down.value.reason == "ENGINE_DOWN"
    assert says in down.value.message
    assert address in down.value.message
