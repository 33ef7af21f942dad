"""What Slurm's and Ray's engines refuse of a pool before they are asked, and how they read what is said to them."""

from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from nasmesh.errors import Invalid, Unavailable
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import Site, State
from scheduler.deployers.engines.ray import RayEngine
from scheduler.deployers.engines.slurm import SlurmEngine
from scheduler.deployers.engines.slurm_commands import Job
from scheduler.deployers.engines.started import Started


def resources(**given: object) -> pb.ServerResources:
    return pb.ServerResources(**given)


def custom(name: str, amount: float) -> pb.ServerResources:
    return pb.ServerResources(custom=[pb.CustomResource(name=name, amount=amount)])


SLURM = pb.SlurmEngine()
REFUSED = [
    (SlurmEngine, {"slurm": pb.SlurmEngine(partition="a b")}, "slurm.partition"),
    (SlurmEngine, {"slurm": pb.SlurmEngine(account="x;rm")}, "slurm.account"),
    (SlurmEngine, {"slurm": pb.SlurmEngine(qos="$x")}, "slurm.qos"),
    (SlurmEngine, {"slurm": pb.SlurmEngine(gpu_type="a 100")}, "slurm.gpu_type"),
    (SlurmEngine, {"slurm": pb.SlurmEngine(constraint="fast --uid=0")}, "slurm.constraint"),
    (SlurmEngine, {"slurm": pb.SlurmEngine(output_dir="relative")}, "slurm.output_dir"),
    (SlurmEngine, {"slurm": pb.SlurmEngine(output_dir="/x/%j")}, "slurm.output_dir"),
    (SlurmEngine, {"slurm": pb.SlurmEngine(setup=["true", "#SBATCH --exclusive"])}, "slurm.setup.1"),
    (SlurmEngine, {"slurm": pb.SlurmEngine(time_limit=Duration(seconds=60))}, "slurm.time_limit"),
    (SlurmEngine, {"slurm": SLURM, "resources": resources(gpus=1, gpu_memory_bytes=1)}, "resources.gpu_memory_bytes"),
    (SlurmEngine, {"slurm": SLURM, "resources": custom("license:seat", 0.5)}, "resources.custom.0"),
    (SlurmEngine, {"slurm": SLURM, "resources": custom("gpu:1,shard", 1)}, "resources.custom.0"),
    (RayEngine, {"ray": pb.RayEngine(address="user@host:1")}, "ray.address"),
    (RayEngine, {"ray": pb.RayEngine(namespace="a/b")}, "ray.namespace"),
    (
        RayEngine,
        {"ray": pb.RayEngine(), "resources": resources(gpus=1, gpu_memory_bytes=1)},
        "resources.gpu_memory_bytes",
    ),
    (RayEngine, {"ray": pb.RayEngine(), "resources": custom("CPU", 1)}, "resources.custom.0"),
]


@pytest.mark.parametrize(("engine", "settings", "field"), REFUSED, ids=[case[2] for case in REFUSED])
def test_pool_with_a_wrong_setting_is_refused_by_its_field(
    tmp_path: Path, engine: type[SlurmEngine] | type[RayEngine], settings: dict[str, object], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        engine(pb.ServerPool(name="p", **settings), Site("mesh", tmp_path))  # type: ignore[arg-type]
    assert refused.value.reason == "CONFIG_INVALID"
    assert [violation.field for violation in refused.value.violations] == [field]
    assert refused.value.message.startswith(f"{field}: ")
    assert not list(tmp_path.iterdir()), "nothing is opened before it is asked"


def test_slurm_without_its_commands_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="squeue is not on the PATH") as down:
        SlurmEngine(pb.ServerPool(name="p", slurm=SLURM), Site("mesh", tmp_path)).standings()
    assert down.value.reason == "ENGINE_DOWN"


@pytest.mark.parametrize(
    ("word", "code", "reason", "state", "says"),
    [
        ("PENDING", 0, "Resources", State.PENDING, "Resources: no node has room for it now"),
        ("PENDING", 0, "JobHeldAdmin", State.PENDING, "JobHeldAdmin"),
        ("REQUEUE_HOLD", 0, "None", State.PENDING, "requeue_hold"),
        ("RUNNING", 0, "None", State.RUNNING, ""),
        ("SUSPENDED", 0, "None", State.RUNNING, "suspended"),
        ("WHATEVER_COMES", 0, "None", State.RUNNING, "whatever_comes"),
        ("COMPLETED", 0, "None", State.ENDED, "completed"),
        ("FAILED", 3 << 8, "NonZeroExitCode", State.ENDED, "failed with exit code 3"),
        ("OUT_OF_MEMORY", 9, "OutOfMemory", State.ENDED, "out of memory by signal 9"),
        ("COMPLETING", 1 << 8, "None", State.ENDED, "ended with exit code 1"),
    ],
)
def test_what_squeue_says_is_a_state_and_a_sentence(word: str, code: int, reason: str, state: State, says: str) -> None:
    job = Job("1", "p-000001", word, "nasmesh/mesh/p", code, reason)
    assert (job.state, job.sentence()) == (state, says)


@pytest.mark.parametrize(
    ("word", "code", "is_told"),
    [
        ("FAILED", 7 << 8, True),
        ("NODE_FAIL", 0, True),
        ("COMPLETING", 7 << 8, True),
        ("COMPLETING", 11, True),
        ("COMPLETING", 0, False),
        ("COMPLETED", 0, False),
        ("CANCELLED", 15, False),
        ("RUNNING", 0, False),
        ("PENDING", 0, False),
    ],
)
def test_where_the_output_is_is_told_of_whatever_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, code: int, is_told: bool
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho '1|p-000001|{word}|nasmesh/mesh/p|{code}|None|'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Started(tmp_path / "home" / "slurm" / "started" / "p").add("p-000001", "1")
    (told,) = SlurmEngine(pb.ServerPool(name="p", slurm=SLURM), Site("mesh", tmp_path / "home")).standings()
    output = f"; its output is {tmp_path}/home/slurm/output/p-000001.log"
    assert told.reason.endswith(output) == is_told
    assert ("output" in told.reason) == is_told


def test_what_was_started_is_known_after_a_restart_until_it_is_forgotten(tmp_path: Path) -> None:
    first = Started(tmp_path / "started")
    assert first.notes() == {}
    first.add("p-000001", "17")
    first.add("p-000002", "")
    (tmp_path / "started" / ".p-000003.part").write_text("cut off while it was written")
    again = Started(tmp_path / "started")
    assert again.notes() == {"p-000001": "17", "p-000002": ""}
    again.forget("p-000001")
    again.forget("p-000001")
    assert first.notes() == {"p-000002": ""}
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid) as refused:
        Started(tmp_path / "file").add("p-000001", "")
    assert refused.value.reason == "DEPLOYER_HOME_INVALID"
