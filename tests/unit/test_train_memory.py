"""A training is weighed, bounded, measured and learned from; and how much memory a server's trainings share."""

import threading
from pathlib import Path

import pytest

from nasmesh import host
from nasmesh.agent.flags import parse_server_flags
from nasmesh.errors import Invalid, Rejected
from nasmesh.jobs.context import Foretold, JobContext
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import train_service_pb2 as pb
from tests.packing.trainings import random_trainings
from train_svc import job, memory, networks, room

MIB = 2**20


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryStore:
    monkeypatch.setenv("NASMESH_STORE", f"dir:{tmp_path / 'objects'}")
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    return DirectoryStore(tmp_path / "objects")


def context(estimated: int = 0, predicted: int = 0, bound: int = 0) -> JobContext:
    return JobContext(
        "job",
        send=lambda _: None,
        cancelled=threading.Event(),
        memory_bytes=bound,
        foretold=Foretold(predicted, estimated),
    )


def test_training_when_weighed_and_run_then_both_figures_are_told_and_the_host_learns(
    store: DirectoryStore, tmp_path: Path
) -> None:
    (start,) = random_trainings(1, 11, store)
    request = start.SerializeToString()
    estimated = memory.weigh(request)
    assert 40 * MIB < estimated < 1000 * MIB
    result = pb.TrainResult.FromString(job.run(request, context(estimated, 2 * estimated)))
    assert result.predicted_memory_bytes == 2 * estimated
    assert 0 < result.peak_memory_bytes < 2 * estimated
    (line,) = (tmp_path / "home" / "memory" / "cpu").read_text().splitlines()
    assert line == f"{estimated} {result.peak_memory_bytes}"


def test_training_when_it_ran_out_of_memory_then_the_host_learns_that_it_was_more_than_it_had(
    tmp_path: Path,
) -> None:
    with pytest.raises(MemoryError), memory.Meter(context(100 * MIB, 100 * MIB, bound=200 * MIB)):
        raise MemoryError
    lines = (tmp_path / "home" / "memory" / "cpu").read_text().splitlines()
    assert lines == [f"{100 * MIB} {200 * MIB}"]
    with pytest.raises(ValueError, match="other"), memory.Meter(context(100 * MIB)):
        raise ValueError("other")
    assert (tmp_path / "home" / "memory" / "cpu").read_text().splitlines() == lines, (
        "what failed otherwise says nothing"
    )


def test_training_when_several_processes_share_it_then_one_of_them_teaches_nothing(
    tmp_path: Path,
) -> None:
    with memory.Meter(context(100 * MIB), processes=2) as meter:
        bytes(10 * MIB)
    assert meter.peak_bytes == 0
    assert not (tmp_path / "home" / "memory").exists()


def test_network_when_weighed_then_the_training_takes_it_and_the_next_one_reads_it_anew(store: DirectoryStore) -> None:
    (start,) = random_trainings(1, 12, store)
    seen = networks.look_at(store, start.network)
    assert networks.take(store, start.network) is seen
    again = networks.take(store, start.network)
    assert again is not seen
    assert again.digest == seen.digest


def test_training_when_its_network_is_none_then_weighing_says_so(store: DirectoryStore) -> None:
    request = pb.StartTrainingRequest(network=store.put(ObjectKind.NETWORK, b"no network"))
    request.data.dataset = "datasets/digits"
    with pytest.raises(Rejected):
        memory.weigh(request.SerializeToString())


def settings(*arguments: str):  # type: ignore[no-untyped-def]
    return parse_server_flags(
        "train_svc", listen="127.0.0.1:0", slots=1, argv=["--slots", "2", *arguments], add_own=room.add_flags
    )


def test_memory_when_asked_for_then_that_is_shared_and_a_child_may_have_all_of_it() -> None:
    shared = room.shared_memory(settings("--memory", "20GiB"))
    assert shared.budget == 20 * 2**30
    assert shared.metric == "train_memory_bytes"
    assert shared.factor() == 1.0
    if host.compute_device().id == "cpu":
        assert room.child_limits(shared).memory_bytes > shared.budget


def test_memory_when_nothing_is_asked_for_then_most_of_the_device() -> None:
    budget = room.shared_memory(settings()).budget
    device = host.compute_device()
    whole = host.usable_memory_bytes() if device.id == "cpu" else device.memory_bytes
    assert 256 * MIB <= budget < whole


def test_memory_when_none_is_to_be_kept_then_there_is_no_bound() -> None:
    assert room.shared_memory(settings("--memory", "0")).budget == 0


@pytest.mark.parametrize("text", ["10MiB", "much"])
def test_memory_when_it_is_too_little_or_no_size_then_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        room.shared_memory(settings("--memory", text))
    assert refused.value.reason == "SIZE_INVALID"


@pytest.mark.parametrize(
    ("visible", "expected"), [("1", "cuda:1"), ("", "cpu"), ("-1", "cpu"), ("GPU-1234", "cuda:0"), (None, "cuda:0")]
)
def test_device_when_gpus_are_hidden_then_jobs_compute_on_the_first_that_is_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: str
) -> None:
    made = tuple(host.pb.Device(id=name) for name in ("cpu", "cuda:0", "cuda:1"))
    monkeypatch.setattr(host, "devices", lambda: made)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert host.compute_device().id == expected
