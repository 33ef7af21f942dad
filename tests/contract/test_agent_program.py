"""The shared main of the server programs and the stand-alone agent, as real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_fakes import WAIT_S, FakeScheduler, lease, token

from nasmesh.agent.program import ENDS_S
from nasmesh.rpc.channel import open_channel
from nasmesh.v1 import train_service_pb2, train_service_pb2_grpc

HERE = Path(__file__).parent
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NASMESH_HOME": str(tmp_path / "home"), "NASMESH_LOG_LEVEL": "warning"},
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait(WAIT_S)
        if process.stderr is not None:
            process.stderr.close()


@pytest.fixture
def scheduler() -> Iterator[FakeScheduler]:
    fake = FakeScheduler()
    yield fake
    fake.stop()


def program(*flags: str) -> list[str]:
    return [str(HERE / "agent_program.py"), *flags]


def address_in(port_file: Path) -> str:
    poll = threading.Event()
    until = time.monotonic() + WAIT_S
    while not port_file.exists():
        assert time.monotonic() < until, "the program does not serve"
        poll.wait(0.01)
    return port_file.read_text().strip()


def stderr_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read()


def test_a_program_serves_writes_its_address_and_ends_on_sigterm(start: Start, tmp_path: Path) -> None:
    process = start(*program("--port-file", str(tmp_path / "port")))
    address = address_in(tmp_path / "port")
    with open_channel(address) as channel:
        stub = train_service_pb2_grpc.TrainServiceStub(channel)
        server = stub.GetServer(train_service_pb2.TrainServiceGetServerRequest()).server
    assert server.engine == "fake 1"
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0


def test_ctrl_c_ends_with_130(start: Start, tmp_path: Path) -> None:
    process = start(*program("--port-file", str(tmp_path / "port")))
    address_in(tmp_path / "port")
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 130


def test_sigterm_gives_running_work_back_with_its_checkpoint(
    start: Start, scheduler: FakeScheduler, tmp_path: Path
) -> None:
    process = start(*program("--scheduler", scheduler.address, "--name", "host-1", "--label", "room=a"))
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease("wait"))
    scheduler.wait_for(lambda: any(line.train.step == 1 for line in scheduler.heartbeats()))
    process.send_signal(signal.SIGTERM)
    outcome = scheduler.wait_for_outcomes(1)[0]
    assert outcome.released.checkpoint.key == "last"
    assert process.wait(WAIT_S) == 0
    assert scheduler.hellos()[0].labels == {"room": "a"}
    assert list((tmp_path / "home" / "fake_svc" / "agent" / "attempts").iterdir()) == []


def test_sigterm_ends_a_program_in_time_whose_job_is_deaf_and_whose_scheduler_is_silent(
    start: Start, scheduler: FakeScheduler, tmp_path: Path
) -> None:
    scheduler.acknowledge = False
    process = start(*program("--scheduler", scheduler.address, "--name", "host-1"))
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease("deaf"))
    scheduler.wait_for(lambda: any(line.train.step == 1 for line in scheduler.heartbeats()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(ENDS_S) == 0
    assert scheduler.outcomes()[0].HasField("released")
    # Nobody has acknowledged it: it waits on disk for the next process.
    assert len(list((tmp_path / "home" / "fake_svc" / "agent" / "attempts").glob("*.outcome"))) == 1


def test_a_killed_program_resumes_its_lease_from_the_checkpoint(start: Start, scheduler: FakeScheduler) -> None:
    flags = program("--scheduler", scheduler.address, "--name", "host-1")
    process = start(*flags)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease("mark"))
    scheduler.wait_for(lambda: any(line.checkpoint.key == "half" for line in scheduler.heartbeats()))
    process.kill()
    process.wait(WAIT_S)
    start(*flags)
    assert scheduler.wait_for_outcomes(1)[0].train.data_digest == "resumed from half"
    assert list(scheduler.hellos()[1].held) == [token("mark")]


def test_a_killed_agent_adopts_the_job_that_runs_on_in_its_server(
    start: Start, scheduler: FakeScheduler, tmp_path: Path
) -> None:
    start(*program("--port-file", str(tmp_path / "port")))
    target = address_in(tmp_path / "port")
    flags = ["-m", "nasmesh.agent", "--scheduler", scheduler.address, "--target", target, "--name", "side"]
    agent = start(*flags)
    scheduler.wait_for(scheduler.readies)
    scheduler.say(lease=lease("wait"))
    scheduler.wait_for(lambda: any(line.train.step == 1 for line in scheduler.heartbeats()))
    agent.kill()
    agent.wait(WAIT_S)
    again = start(*flags)
    scheduler.wait_for(lambda: len(scheduler.readies()) == 2)
    assert list(scheduler.hellos()[1].held) == [token("wait")]
    again.send_signal(signal.SIGTERM)
    assert scheduler.wait_for_outcomes(1)[0].released.checkpoint.key == "last"
    assert again.wait(WAIT_S) == 0
    # The child's own count of jobs: the second agent started none.
    with open_channel(target) as channel:
        stub = train_service_pb2_grpc.TrainServiceStub(channel)
        stub.StartTraining(train_service_pb2.StartTrainingRequest(training_id="echo-1"))
        request = train_service_pb2.WatchTrainingRequest(training_id="echo-1")
        last = list(stub.WatchTraining(request))[-1].training
        assert last.progress.step == 2


def test_wrong_flags_taken_ports_and_shared_directories_end_with_one_sentence(
    start: Start, scheduler: FakeScheduler, tmp_path: Path
) -> None:
    first = start(*program("--port-file", str(tmp_path / "port")))
    address_in(tmp_path / "port")
    assert first.poll() is None
    cases = [
        (program("--listen", scheduler.address, "--work-dir", str(tmp_path / "w")), 3, "in use"),
        (program(), 3, "work-dir"),
        (program("--slots", "0", "--work-dir", str(tmp_path / "w")), 2, "slots"),
        (program("--name", "No Name"), 2, "name"),
        (program("--label", "novalue"), 2, "label"),
        (program("--listen", "nowhere"), 2, "listen"),
        (program("--no-such-flag"), 2, "--no-such-flag"),
        (["-m", "nasmesh.agent", "--scheduler", "127.0.0.1:1", "--target", scheduler.address], 2, "target"),
    ]
    processes = [(start(*flags), code, word) for flags, code, word in cases]
    for process, code, word in processes:
        assert process.wait(WAIT_S) == code
        text = stderr_of(process)
        assert word in text
        assert "Traceback" not in text
