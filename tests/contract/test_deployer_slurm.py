"""Servers as jobs of a real Slurm cluster: placed by GPU, stopped softly, found again, put back when a node fails."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from nasmesh.clock import ManualClock, new_id
from nasmesh.errors import Invalid, Unavailable
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import Resources, Site, State
from scheduler.deployers.engines.slurm import SlurmEngine
from tests.builders.deployed_search import scheduler_alone, search_through
from tests.builders.slurm_cluster import Slurm, slurm
from tests.builders.standings import order, until, until_all, until_file

GIB = 2**30


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(autouse=True)
def commands(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the engine find Slurm's commands, and leave no job behind."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SBATCH_PARTITION", "closed")  # of whoever started the deployer: must change nothing
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the deployer's host")
    yield
    for job in cluster.run("squeue", "--noheader", "--format=%i").split():
        cluster.run("scancel", job)


def pool(name: str, **settings: object) -> pb.ServerPool:
    """Return a pool of this name with these settings for Slurm."""
    return pb.ServerPool(name=name, slurm=pb.SlurmEngine(**settings), stop_grace=Duration(seconds=5))


def test_server_runs_with_what_was_ordered_and_ends_softly(tmp_path: Path) -> None:
    engine = SlurmEngine(pool("soft", setup=["export FROM_SETUP=yes"]), Site("mesh", tmp_path))
    told = tmp_path / "told.json"
    wanted = Resources(cpus=1.5, memory_bytes=GIB + 1, gpus=1, custom={"license:seat": 1})
    engine.start(order("soft-000001", told, resources=wanted))
    given = json.loads(until_file(told))["environment"]
    assert given["NASMESH_STORE"] == "dir:/objects"
    assert given["TEST_WORDS"] == 'a "b", $c'
    assert given["FROM_SETUP"] == "yes"
    assert given["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert (given["SLURM_CPUS_PER_TASK"], given["SLURM_MEM_PER_NODE"]) == ("2", "1025")
    assert "AWS_SECRET_ACCESS_KEY" not in given, "the deployer's own secrets stay at home"
    assert [s.state for s in engine.standings()] == [State.RUNNING]
    engine.stop("soft-000001", 30.0)
    until(engine, "soft-000001", State.ENDED, says="completed")  # and not cancelled: SIGTERM let it end by itself


def test_gpus_are_given_to_as_many_servers_as_there_are(tmp_path: Path) -> None:
    engine = SlurmEngine(pool("wide", gpu_type="a100", constraint="fast"), Site("mesh", tmp_path))
    names = [f"wide-00000{number}" for number in range(3)]
    one = Resources(cpus=1, memory_bytes=64 * 2**20, gpus=1)
    for name in names:
        engine.start(order(name, tmp_path / name, resources=one))
    found = until_all(engine, lambda f: [f[n].state for n in names if n in f].count(State.RUNNING) == 2)
    waiting = next(name for name in names if found[name].state is State.PENDING)
    assert "no node has room" in until(engine, waiting, State.PENDING, says="Resources").reason
    visible = {
        json.loads(until_file(tmp_path / n))["environment"]["CUDA_VISIBLE_DEVICES"] for n in names if n != waiting
    }
    assert visible == {"0", "1"}
    engine.stop(next(name for name in names if name != waiting), 10.0)
    until(engine, waiting, State.RUNNING)


def test_stubborn_server_is_ended_after_its_grace(tmp_path: Path) -> None:
    clock = ManualClock()
    engine = SlurmEngine(pool("deaf"), Site("mesh", tmp_path), clock=clock)
    engine.start(order("deaf-000001", tmp_path / "told", "stubborn"))
    until_file(tmp_path / "told")
    for _ in range(2):
        engine.stop("deaf-000001", 10.0)
        assert [s.state for s in engine.standings()] == [State.RUNNING], "its grace is not over"
    clock.advance(10.0)
    until(engine, "deaf-000001", State.ENDED, says="cancelled")


def test_waiting_server_is_stopped_at_once_and_unknown_ones_are_fine(tmp_path: Path) -> None:
    engine = SlurmEngine(pool("queue", partition="closed"), Site("mesh", tmp_path))
    engine.start(order("queue-000001", tmp_path / "told"))
    assert "PartitionDown" in until(engine, "queue-000001", State.PENDING, says="Partition").reason
    engine.stop("queue-000001", 1000.0)
    until(engine, "queue-000001", State.ENDED)
    engine.stop("queue-000001", 1.0)
    engine.stop("queue-ffffff", 1.0)


def test_started_twice_and_found_again_after_a_restart_it_is_one_job(tmp_path: Path, cluster: Slurm) -> None:
    site = Site("mesh", tmp_path)
    SlurmEngine(pool("twice"), site).start(order("twice-000001", tmp_path / "told"))
    again = SlurmEngine(pool("twice"), Site("mesh", tmp_path / "lost"))  # even without its own directory
    again.start(order("twice-000001", tmp_path / "told"))
    assert len(cluster.run("squeue", "--noheader", "--name=twice-000001").splitlines()) == 1
    until(again, "twice-000001", State.RUNNING)
    others = (SlurmEngine(pool("twice"), Site("other", tmp_path / "o")), SlurmEngine(pool("tw"), site))
    for other in others:
        assert list(other.standings()) == [], "of another deployer or pool"
        other.stop("twice-000001", 0.0)
    assert [s.state for s in again.standings()] == [State.RUNNING]


def test_server_of_a_failed_node_is_put_back_and_runs_again(tmp_path: Path, cluster: Slurm) -> None:
    engine = SlurmEngine(pool("back"), Site("mesh", tmp_path))
    told = tmp_path / "told"
    engine.start(order("back-000001", told))
    first = json.loads(until_file(told))["pid"]
    told.unlink()
    cluster.node("DOWN")
    try:
        until(engine, "back-000001", State.PENDING)
    finally:
        cluster.node("RESUME")
    assert json.loads(until_file(told))["pid"] != first
    until(engine, "back-000001", State.RUNNING)


def test_how_it_ended_is_told_with_where_its_output_is(tmp_path: Path) -> None:
    engine = SlurmEngine(pool("fails"), Site("mesh", tmp_path))
    engine.start(order("fails-000001", tmp_path / "told", "fail"))
    reason = until(engine, "fails-000001", State.ENDED, says="exit code 7").reason
    assert Path(reason.rpartition(" ")[2]).exists(), reason


def test_search_is_run_by_servers_that_come_and_leave(tmp_path: Path, cluster: Slurm) -> None:
    programs = Path(sys.executable).parent
    engine = f"slurm: {{ setup: ['PATH={programs}:$PATH'] }}, resources: {{ cpus: 1, memoryBytes: {GIB} }}"
    with scheduler_alone(tmp_path / "mesh") as mesh:
        seen = search_through(mesh, engine)
    told = cluster.run("squeue", "--noheader", "--states=all", "--format=%j %T").splitlines()
    ends = dict(line.split() for line in told if line.split()[0] in seen)
    assert {name.rpartition("-")[0] for name in ends} == {"gen", "eval"}
    assert set(ends.values()) <= {"COMPLETED", "COMPLETING"}, "each left by itself, after its drain"


@pytest.mark.parametrize(
    ("settings", "wanted", "field"),
    [
        ({}, Resources(cpus=64), "resources"),
        ({}, Resources(memory_bytes=100 * GIB), "resources.memory_bytes"),
        ({}, Resources(gpus=3), "resources"),
        ({"gpu_type": "h200"}, Resources(gpus=1), "resources"),
        ({}, Resources(custom={"quantum": 1}), "resources.gpus"),
        ({}, Resources(custom={"license:nothing": 1}), "resources.custom"),
        ({"partition": "nowhere"}, Resources(), "slurm.partition"),
        ({"constraint": "slow"}, Resources(), "slurm.constraint"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_can_never_run_is_refused_by_its_field(
    tmp_path: Path, settings: dict[str, str], wanted: Resources, field: str
) -> None:
    name = f"never-{new_id()[:6]}"
    engine = SlurmEngine(pool("never", **settings), Site("mesh", tmp_path))
    with pytest.raises(Invalid) as refused:
        engine.start(order(name, tmp_path / "told", resources=wanted))
    assert (refused.value.reason, refused.value.field) == ("DOES_NOT_FIT", field), refused.value.message
    assert list(engine.standings()) == [], "what was refused is not among the servers"


def test_controller_that_is_down_is_told_and_one_that_lost_its_jobs_too(tmp_path: Path, cluster: Slurm) -> None:
    engine = SlurmEngine(pool("lost"), Site("mesh", tmp_path))
    engine.start(order("lost-000001", tmp_path / "told"))
    until_file(tmp_path / "told")
    cluster.stop_controller()
    try:
        with pytest.raises(Unavailable) as down:
            engine.standings()
        assert down.value.reason == "ENGINE_DOWN"
    finally:
        cluster.start_controller("-c")
    found = list(engine.standings())
    assert [(s.name, s.state) for s in found] == [("lost-000001", State.ENDED)]
    assert "forgotten" in found[0].reason
    assert list(engine.standings()) == [], "told once"
