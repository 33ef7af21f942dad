"""The local engine: what fits, which GPUs, real processes that outlive it, end when told, and are told apart."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh.errors import Invalid
from scheduler.deployers.base import DOES_NOT_FIT, Order, Resources, Site, State
from scheduler.deployers.config import parse_config
from scheduler.deployers.engines.local import LocalEngine
from scheduler.deployers.engines.local_host import Gpu, Share, parse_gpus, pick, shortage
from scheduler.deployers.engines.local_record import Kept, is_alive, started_at
from tests.builders.standings import order, until, until_file

GIB = 1 << 30
POOL = """
pools:
  - name: train
    kind: TASK_KIND_TRAIN
    maxServers: 4
    local: { cpus: 4, memoryBytes: 8589934592, devices: [{ id: "0", memoryBytes: 17179869184 },
             { id: GPU-1, memoryBytes: 51539607552 }], custom: [{ name: licence, amount: 1 }] }
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    made = make(tmp_path)
    yield made
    for record in Kept(tmp_path / "local").records.values():
        if record.pid and is_alive(record.pid, record.started):
            os.killpg(record.pid, signal.SIGKILL)


def make(home: Path, pool: str = "train") -> LocalEngine:
    return LocalEngine(parse_config(POOL.replace("name: train", f"name: {pool}")).pools[0], Site("nasmesh", home))


def test_what_fits_and_what_is_missing_in_words() -> None:
    gpus = {"0": Gpu("0", 16 * GIB), "1": Gpu("1", 48 * GIB)}
    whole = Share(Resources(cpus=4, memory_bytes=8 * GIB, custom={"x": 1.0}), ("0", "1"), gpus)
    left = whole.less([Share(Resources(cpus=3, memory_bytes=2 * GIB, custom={"x": 1.0}), ("0",))])
    assert not shortage(Resources(cpus=1, memory_bytes=6 * GIB, gpus=1), whole, left)
    for wanted, words in (
        (Resources(cpus=1.5), "1.5 processors are asked for, 1 of 4 are free"),
        (Resources(memory_bytes=7 * GIB), "7168 MiB of memory are asked for, 6144 of 8192 MiB are free"),
        (Resources(custom={"x": 1.0}), "1 x are asked for, 0 of 1 are free"),
        (Resources(gpus=2), "2 GPUs are asked for, 1 of 2 are free"),
        (Resources(gpus=1, gpu_memory_bytes=80 * GIB), "1 GPUs with 81920 MiB are asked for, 0 of 2 are free"),
    ):
        assert shortage(wanted, whole, left) == words


def test_the_smallest_gpus_that_do_are_given_first() -> None:
    gpus = {"0": Gpu("0", 48 * GIB), "1": Gpu("1", 16 * GIB), "2": Gpu("2", 24 * GIB)}
    left = Share(Resources(), ("0", "1", "2"), gpus)
    assert pick(Resources(gpus=1), left) == ("1",)
    assert pick(Resources(gpus=2, gpu_memory_bytes=20 * GIB), left) == ("2", "0")


def test_gpus_are_read_as_nvidia_smi_prints_them() -> None:
    text = "0, GPU-aa, 16384\n1, GPU-bb, 49152\nrubbish\n"
    assert parse_gpus(text, None) == [Gpu("GPU-aa", 16 * GIB), Gpu("GPU-bb", 48 * GIB)]
    assert parse_gpus(text, "1") == [Gpu("GPU-bb", 48 * GIB)]
    assert parse_gpus(text, "") == []


def test_gpus_of_a_driver_that_came_up_late_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'No devices were found' >&2\nexit 6\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plain = POOL[: POOL.index("local:")] + "local: {}\n"
    engine = LocalEngine(parse_config(plain).pools[0], Site("nasmesh", tmp_path / "home"))
    wanted = order("train-000001", tmp_path / "told", "fail", resources=Resources(gpus=1))
    with pytest.raises(Invalid, match="1 GPUs are asked for, 0 of 0 are free"):
        engine.start(wanted)
    smi.write_text("#!/bin/sh\necho '0, GPU-aa, 16384'\n")
    engine.start(wanted)
    assert '"CUDA_VISIBLE_DEVICES": "GPU-aa"' in until_file(tmp_path / "told")
    until(engine, "train-000001", State.ENDED)


def test_a_server_runs_with_its_own_gpu_and_ends_when_told(engine: LocalEngine, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    made = order("train-000001", told, resources=Resources(cpus=1, gpus=1, gpu_memory_bytes=20 * GIB))
    engine.start(made)
    engine.start(made)
    until(engine, "train-000001", State.RUNNING)
    assert '"CUDA_VISIBLE_DEVICES": "GPU-1"' in until_file(told)
    assert len(engine.standings()) == 1
    engine.stop("train-000001", 20.0)
    engine.stop("train-000001", 20.0)
    assert until(engine, "train-000001", State.ENDED).reason == "exit code 0"
    engine.start(made)  # its name has been used
    assert [s.state for s in engine.standings()] == [State.ENDED]


def test_what_has_no_room_waits_in_line_over_all_pools(engine: LocalEngine, tmp_path: Path) -> None:
    other = make(tmp_path, "other")
    engine.start(order("train-000001", tmp_path / "a", resources=Resources(cpus=3)))
    other.start(order("other-000001", tmp_path / "b", resources=Resources(cpus=2)))
    until(engine, "train-000001", State.RUNNING)
    (waits,) = other.standings()
    assert (waits.state, waits.reason) == (State.PENDING, "2 processors are asked for, 1 of 4 are free")
    assert [s.name for s in engine.standings()] == ["train-000001"], "each pool sees its own"
    engine.stop("train-000001", 20.0)
    until(engine, "train-000001", State.ENDED)
    until(other, "other-000001", State.RUNNING)
    other.start(order("other-000002", tmp_path / "c", resources=Resources(cpus=4)))
    other.stop("other-000002", 1.0)
    assert until(other, "other-000002", State.ENDED).reason == "withdrawn before it began"
    with pytest.raises(Invalid, match="5 processors are asked for, 4 of 4 are free, all of this host") as caught:
        other.start(order("other-000003", tmp_path / "d", resources=Resources(cpus=5)))
    assert (caught.value.reason, caught.value.field) == (DOES_NOT_FIT, "resources")


def test_servers_outlive_the_engine_and_are_found_again(engine: LocalEngine, tmp_path: Path) -> None:
    engine.start(order("train-000001", tmp_path / "told", resources=Resources(cpus=1)))
    until(engine, "train-000001", State.RUNNING)
    until_file(tmp_path / "told")
    engine.close()
    again = make(tmp_path)
    assert [s.state for s in again.standings()] == [State.RUNNING]
    again.stop("train-000001", 20.0)
    until(again, "train-000001", State.ENDED)


def test_a_stubborn_server_is_killed_with_all_that_it_started(engine: LocalEngine, tmp_path: Path) -> None:
    engine.start(order("train-000001", tmp_path / "told", "stubborn", resources=Resources(cpus=1)))
    until_file(tmp_path / "told")
    engine.stop("train-000001", 0.2)
    assert until(engine, "train-000001", State.ENDED).reason == "killed by SIGKILL"


def test_how_a_server_failed_is_told(engine: LocalEngine, tmp_path: Path) -> None:
    engine.start(order("train-000001", tmp_path / "told", "fail", resources=Resources(cpus=1)))
    assert until(engine, "train-000001", State.ENDED).reason == "exit code 7"


def test_of_a_long_log_the_last_line_is_told(engine: LocalEngine) -> None:
    says = ("sh", "-c", "yes 'at work' | head -n 100000; echo no memory is left; exit 3")
    engine.start(Order("train-000001", "train", says, {}, Resources(cpus=1), {}))
    assert until(engine, "train-000001", State.ENDED).reason == "exit code 3: no memory is left"


def test_the_deployers_identity_is_not_its_servers(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASMESH_TOKEN_FILE", "/admin.token")
    monkeypatch.setenv("NASMESH_METRICS", "127.0.0.1:9404")
    engine.start(order("train-000001", tmp_path / "told", resources=Resources(cpus=1)))
    environment = until_file(tmp_path / "told")
    assert "NASMESH_TOKEN_FILE" not in environment
    assert "NASMESH_METRICS" not in environment
    assert '"CUDA_VISIBLE_DEVICES": ""' in environment, "it asked for no GPU"


def test_a_process_with_the_number_of_an_earlier_one_is_another(engine: LocalEngine, tmp_path: Path) -> None:
    assert is_alive(os.getpid(), started_at(os.getpid()))
    assert not is_alive(os.getpid(), "another boot 1")
    engine.start(order("train-000001", tmp_path / "told", resources=Resources(cpus=1)))
    until(engine, "train-000001", State.RUNNING)
    path = tmp_path / "local" / "train-000001.json"
    pid = Kept(tmp_path / "local").records["train-000001"].pid
    path.write_text(path.read_text().replace(f'"pid": {pid}', f'"pid": {os.getpid()}'))
    stranger = make(tmp_path)
    stranger.stop("train-000001", 0.0)  # would end this very test
    assert [s.state for s in stranger.standings()] == [State.ENDED]
    os.killpg(pid, signal.SIGKILL)


def test_settings_and_records_that_make_no_sense(tmp_path: Path) -> None:
    twice = POOL.replace("GPU-1", '"0"')
    with pytest.raises(Invalid) as caught:
        LocalEngine(parse_config(twice).pools[0], Site("nasmesh", tmp_path))
    assert (caught.value.reason, caught.value.field) == ("CONFIG_INVALID", "local.devices")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "train-000001.json").write_text("{")
    assert not make(tmp_path).standings()
