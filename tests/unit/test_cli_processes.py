"""`nasmesh up`'s children: waited for, started again when they die, always stopped, and nothing else is."""
# ruff: noqa: ARG001, PT012 - fixtures that serve; a mesh that fails while it is entered

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from clients.cli.commands import mesh as mesh_command
from clients.cli.processes import LocalMesh, Program
from nasmesh.errors import Conflict, Invalid, NasmeshError, Unavailable
from nasmesh.rpc.access import ServerAccess

# A program of the mesh in small: the same flags, health, port file, and an end on SIGTERM.
PROGRAM = """
import argparse, pathlib, time
from nasmesh.agent.lifetime import Lifetime
from nasmesh.rpc.server import serve_threads
flags = argparse.ArgumentParser()
for name in ("--listen", "--port-file", "--scheduler", "--slots"):
    flags.add_argument(name)
given = flags.parse_args()
server = serve_threads([], given.listen)
life = Lifetime()
path = pathlib.Path(given.port_file)
path.with_suffix(".tmp").write_text(server.address)
path.with_suffix(".tmp").replace(path)
print("serving for", given.scheduler, flush=True)
life.wait()
print("told to stop at", time.monotonic_ns(), flush=True)
server.stop(0)
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    (tmp_path / "small_program.py").write_text(PROGRAM)
    (tmp_path / "broken_program.py").write_text(
        "import sys; print('error: the disk is full', file=sys.stderr); sys.exit(7)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return [Program("scheduler", "small_program", 7400), Program("train", "small_program", 7402, ("--slots", "1"))]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_mesh_starts_serves_and_leaves_nothing_behind(tmp_path: Path, programs: list[Program]) -> None:
    before = children()
    with LocalMesh(tmp_path / "home", programs, True, print) as mesh:
        assert set(mesh.addresses) == {"scheduler", "train"}
        assert len(children() - before) == 2
        log = (tmp_path / "home" / "logs" / "train.log").read_text()
        assert f"serving for {mesh.addresses['scheduler']}" in log
    assert children() == before


def test_a_killed_program_is_started_again_on_its_port(tmp_path: Path, programs: list[Program]) -> None:
    said: list[str] = []
    revived = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        revived.set()

    before = children()
    with LocalMesh(tmp_path / "home", programs, True, say) as mesh:
        address = mesh.addresses["train"]
        mesh._children["train"].deaths = (mesh.clock.monotonic() - 3600,) * 100  # a mesh that is up for weeks
        os.kill(mesh._children["train"].process.pid, signal.SIGKILL)
        assert revived.wait(10)
        assert mesh._await_address("train") == address
    assert "the train program was killed by signal SIGKILL; its log is" in said[0]
    assert children() == before


def test_stop_when_the_scheduler_was_started_again_then_its_servers_are_still_told_first(
    tmp_path: Path, programs: list[Program]
) -> None:
    revived = threading.Event()
    with LocalMesh(tmp_path / "home", programs, True, lambda _: revived.set()) as mesh:
        os.kill(mesh._children["scheduler"].process.pid, signal.SIGKILL)
        assert revived.wait(10)
        mesh._await_address("scheduler")
    told = {
        name: int((tmp_path / "home" / "logs" / f"{name}.log").read_text().rpartition("told to stop at")[2])
        for name in ("scheduler", "train")
    }
    assert told["train"] < told["scheduler"]


def test_a_program_that_cannot_start_is_named_with_its_last_words(tmp_path: Path, programs: list[Program]) -> None:
    before = children()
    broken = [programs[0], Program("train", "broken_program", 7402)]
    with pytest.raises(Unavailable) as caught, LocalMesh(tmp_path / "home", broken, True, print):
        pass
    assert caught.value.reason == "PROGRAM_ENDED"
    assert "the train program ended with exit code 7: error: the disk is full" in caught.value.message
    assert children() == before


def test_a_program_that_serves_and_then_ends_by_itself_is_named_with_its_last_words(
    tmp_path: Path, programs: list[Program]
) -> None:
    # Nobody is there to say that it serves once its address is known, so no race decides what is seen.
    source = PROGRAM.replace("life = Lifetime()", "life = Lifetime(); server.stop(0)").replace(
        "life.wait()", "raise SystemExit('error: the scheduler does not want me')"
    )
    (tmp_path / "refused_program.py").write_text(source)
    programs[1] = dataclasses.replace(programs[1], module="refused_program")
    with pytest.raises(Unavailable) as caught, LocalMesh(tmp_path / "home", programs, True, print):
        pytest.fail("it is no mesh")
    assert caught.value.reason == "PROGRAM_ENDED"
    assert "the train program ended with exit code 1: error: the scheduler does not want me" in caught.value.message


def test_a_program_that_keeps_dying_ends_the_mesh(tmp_path: Path, programs: list[Program]) -> None:
    before = children()
    with LocalMesh(tmp_path / "home", programs, True, print) as mesh, pytest.raises((NasmeshError, KeyboardInterrupt)):
        mesh._children["train"].deaths = (mesh.clock.monotonic(),) * 3
        os.kill(mesh._children["train"].process.pid, signal.SIGKILL)
        mesh.wait()
    assert mesh.failure is not None
    assert mesh.failure.reason == "PROGRAM_ENDED"
    assert children() == before


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path, programs: list[Program]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = [Program("scheduler", "small_program", port), programs[1]]
        with pytest.raises(Unavailable) as caught, LocalMesh(tmp_path / "home", busy, False, print):
            pass
    assert caught.value.reason == "PORT_IN_USE"
    assert str(port) in caught.value.message
    assert "--any-port" in caught.value.message


def test_two_meshes_do_not_share_a_home(tmp_path: Path, programs: list[Program]) -> None:
    with LocalMesh(tmp_path / "home", programs[:1], True, print):
        with pytest.raises(Conflict) as caught, LocalMesh(tmp_path / "home", programs[:1], True, print):
            pass
        assert str(os.getpid()) in caught.value.message
    with LocalMesh(tmp_path / "home", programs[:1], True, print):
        pass  # free again


def test_programs_end_when_their_parent_is_killed(tmp_path: Path, programs: list[Program]) -> None:
    code = (
        "import sys; from pathlib import Path; from clients.cli.processes import *\n"
        f"mesh = LocalMesh(Path({str(tmp_path / 'home')!r}), [Program('scheduler', 'small_program', 0)], True, print)\n"
        "with mesh:\n"
        "    print(mesh._children['scheduler'].process.pid, flush=True)\n"
        "    mesh.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_metrics_when_one_port_is_set_then_each_program_has_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def places(text: str) -> list[str]:
        monkeypatch.setenv("NASMESH_METRICS", text)
        return [program.metrics for program in mesh_command._programs(1, ServerAccess())]

    assert places("127.0.0.1:9400") == [f"127.0.0.1:940{number}" for number in range(4)]
    assert places("[::1]:9400")[3] == "[::1]:9403"
    assert places("127.0.0.1:0") == ["127.0.0.1:0"] * 4
    assert places("") == [""] * 4
    assert places("127.0.0.1:65532")[3] == "127.0.0.1:65535"
    for text, words in (
        ("127.0.0.1:65533", "choose one up to 65532"),
        ("0.0.0.0:9400", "insecure"),
        ("9400", "NASMESH_METRICS: '9400' is not HOST:PORT"),
    ):
        with pytest.raises(Invalid, match=words):
            places(text)


def test_metrics_when_a_port_is_taken_then_named_before_anything_starts(
    tmp_path: Path, programs: list[Program]
) -> None:
    before = children()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        programs[1] = dataclasses.replace(programs[1], metrics=f"127.0.0.1:{port}")
        words = f"port {port} of train's metrics is in use; .* choose another NASMESH_METRICS"
        with pytest.raises(Unavailable, match=words), LocalMesh(tmp_path / "home", programs, True, print):
            pass
    assert children() == before
