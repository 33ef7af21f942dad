"""`python -m scheduler` as a process: flags, exit codes, signals, kill -9 at failpoints, what it imports."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nasmesh.errors import NasmeshError, Unavailable
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from nasmesh.v1 import search_pb2
from scheduler import compiled
from scheduler.__main__ import main
from scheduler.journal.sqlite import SqliteJournal
from tests.builders import scheduling as make
from tests.builders.scheduler_server import client, create, ended, scripted, trials_of, working


def spawn(tmp_path: Path, *flags: str, failpoint: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "NASMESH_HOME": str(tmp_path / "home"), "GRPC_ENABLE_FORK_SUPPORT": "0"}
    environment.pop("NASMESH_FAILPOINT", None)
    if failpoint:
        environment["NASMESH_FAILPOINT"] = failpoint
    command = [
        sys.executable,
        "-m",
        "scheduler",
        "--listen",
        "127.0.0.1:0",
        "--port-file",
        str(tmp_path / "port"),
        *flags,
    ]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def address_of(process: subprocess.Popen[str], port_file: Path) -> str:
    """Return where the process serves, once its log says so."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("{") and json.loads(line).get("event") == "serving":
            return port_file.read_text().strip()
    raise AssertionError("".join(lines))


@contextmanager
def started(tmp_path: Path, *flags: str, failpoint: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = spawn(tmp_path, *flags, failpoint=failpoint)
    try:
        yield process, address_of(process, tmp_path / "port")
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_program_when_started_then_serves_and_ends_cleanly_on_a_signal(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with started(tmp_path) as (process, address):
            with open_channel(address) as channel:
                status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert status.status == health_pb2.HealthCheckResponse.SERVING
                info = rpc.SchedulerServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest())
                assert (info.journal, info.store, info.compiled) == ("sqlite", "directory", compiled.is_built())
            process.send_signal(number)
            assert process.wait(10) == 0
    assert (tmp_path / "home" / "journal.db").exists()


def test_program_when_it_cannot_start_then_one_sentence_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*flags: str) -> tuple[int, str]:
        code = main(["--listen", "127.0.0.1:0", *flags])
        return code, capsys.readouterr().err.splitlines()[-1]

    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, told = refused("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        assert (code, "is in use by another program; choose another" in told) == (3, True)
    assert not (tmp_path / "journal.db").exists()
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.open()
    code, told = refused()
    assert (code, "another scheduler" in told) == (3, True), told
    journal.close()
    (tmp_path / "bad.db").write_text("junk " * 1000)
    for flags, words in (
        (("--journal", f"sqlite:{tmp_path / 'bad.db'}"), "bad.db"),
        (("--journal", "redis:there"), "'redis:there'"),
        (("--listen", "0.0.0.0:0"), "--insecure"),
        (("--store", "ftp://there"), "'ftp://there' is not a store"),
    ):
        code, told = refused(*flags)
        assert (code, words in told) == (2, True), told
    monkeypatch.setenv("NASMESH_FAILPOINT", "nowhere:kill")
    code, told = refused()
    assert (code, "NASMESH_FAILPOINT: " in told) == (2, True), told


def test_scheduler_when_fully_started_then_torch_onnx_and_numpy_are_not_loaded() -> None:
    script = """
import asyncio, sys
from scheduler.program import Options, start
from nasmesh.rpc.channel import open_aio_channel
from nasmesh.v1 import scheduler_service_pb2 as pb, scheduler_service_pb2_grpc as rpc
async def main():
    scheduler = await start(Options("127.0.0.1:0", "memory:", "memory:"))
    async with open_aio_channel(scheduler.address) as channel:
        await rpc.SchedulerServiceStub(channel).ListDatasets(pb.ListDatasetsRequest())
    await scheduler.stop()
asyncio.run(main())
import scheduler.__main__
heavy = {"torch", "onnx", "numpy", "onnxruntime", "sklearn", "scipy", "matplotlib"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


async def run_until_killed(address: str, search_id: str) -> None:
    """Drive a search until the scheduler dies."""
    with suppress(grpc.RpcError, NasmeshError):
        async with client(address) as stub, working(address):
            with errors_from_rpc():
                try:
                    await create(stub, make.make_spec(max_trials=4, final=True), search_id=search_id, request_id="once")
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.ALREADY_EXISTS:  # type: ignore[attr-defined]
                        raise
                await ended(stub, f"searches/{search_id}")


@pytest.mark.parametrize("point", ["after_commit", "before_commit"])
def test_kill_when_at_any_commit_then_the_search_ends_with_the_same_trials(tmp_path: Path, point: str) -> None:
    async def finish(address: str) -> tuple[search_pb2.Search, list[search_pb2.Trial]]:
        async with client(address) as stub, working(address):
            await create(stub, make.make_spec(max_trials=4, final=True), search_id="s", request_id="once")
            return await ended(stub, "searches/s"), await trials_of(stub, "searches/s")

    kills = 0
    for count in (2, 5, 9):
        with started(tmp_path, failpoint=f"{point}:kill:{count}") as (process, address):
            asyncio.run(asyncio.wait_for(run_until_killed(address, "s"), 20))
            with suppress(subprocess.TimeoutExpired):
                kills += process.wait(0.5) == -signal.SIGKILL
    assert kills == 3
    with started(tmp_path) as (_, address):
        search, trials = asyncio.run(asyncio.wait_for(finish(address), 20))
    assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
    assert [trial.number for trial in trials] == [1, 2, 3, 4, 5]
    assert search.trials.succeeded == 5
    assert len({trial.network.name for trial in trials}) == 5


def test_stop_when_a_stream_is_open_then_it_ends_with_unavailable(tmp_path: Path) -> None:
    async def body(process: subprocess.Popen[str], address: str) -> None:
        async with scripted(address) as agent:
            await agent.greet(make.make_hello("one"))
            process.send_signal(signal.SIGTERM)
            with pytest.raises(Unavailable), errors_from_rpc():
                await agent.call.read()

    with started(tmp_path, "--journal", "memory:") as (process, address):
        asyncio.run(asyncio.wait_for(body(process, address), 20))
        assert process.wait(10) == 0


def test_journal_when_named_by_a_plain_path_then_scheduler_and_admin_take_the_same(tmp_path: Path) -> None:
    journal = str(tmp_path / "plain.db")
    with started(tmp_path, "--journal", journal) as (process, address):
        assert address
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert (tmp_path / "plain.db").stat().st_size
    command = [sys.executable, "-m", "scheduler.admin", "check", "--journal", journal, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout)["violations"]) == (0, []), done.stderr
