"""What containers ask of our programs: health, metrics for others alone, secrets that root hands over, a drain."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nasmesh.errors import Invalid
from nasmesh.rpc.access import ServerAccess
from nasmesh.rpc.observing import metrics_address
from nasmesh.v1 import search_pb2
from scheduler.program import Options, start
from tests.builders import deployments
from tests.builders import scheduling as make
from tests.builders.access import Authority
from tests.builders.cli_runs import runner
from tests.builders.scheduler_calls import go
from tests.builders.scheduler_server import client, create, running, scripted

Call = Callable[..., Any]
USER = 10001
ROOT = deployments.ROOT


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    monkeypatch.delenv("NASMESH_SCHEDULER", raising=False)
    run = runner(monkeypatch, capsys)
    return lambda *arguments: asyncio.to_thread(run, *arguments)


def test_health_when_it_serves_or_is_not_there_then_exit_code_says_so(call: Call) -> None:
    async def body() -> None:
        async with running() as scheduler:
            assert await call("health", scheduler.address) == (0, f"{scheduler.address} says SERVING\n", "")
            code, out, _ = await call("health", scheduler.address, "--json")
            assert (code, json.loads(out)) == (0, {"address": scheduler.address, "status": "SERVING"})
            address = scheduler.address
        code, out, err = await call("health", address)
        assert (code, out) == (3, "")
        assert err.startswith(f"error: no server answers at {address}")
        code, _, err = await call("health", "192.0.2.1:7400")
        assert code == 2
        assert "--ca-file" in err

    go(body())


def test_health_when_it_answers_and_does_not_serve_then_any_is_content(call: Call) -> None:
    async def body() -> None:
        async with running() as scheduler:
            await scheduler._health.end()
            code, out, err = await call("health", scheduler.address)
            assert (code, out) == (3, "")
            assert "NOT_SERVING" in err
            assert (await call("health", scheduler.address, "--any"))[0] == 0

    go(body())


def test_health_when_waited_for_then_answers_as_soon_as_it_serves(call: Call, tmp_path: Path) -> None:
    async def body() -> None:
        address = ""
        async with running(tmp_path / "journal.db") as scheduler:
            address = scheduler.address
        waiting = asyncio.ensure_future(call("health", address, "--wait", "60"))
        environment = {**os.environ, "NASMESH_HOME": str(tmp_path)}
        command = (sys.executable, "-m", "scheduler", "--listen", address, "--journal", "memory:", "--store", "memory:")
        program = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.DEVNULL)
        try:
            assert (await waiting)[:2] == (0, f"{address} says SERVING\n")
        finally:
            program.send_signal(signal.SIGTERM)
            await program.wait()

    go(body())


def test_metrics_when_they_are_opened_then_nothing_else_is() -> None:
    assert metrics_address("open:0.0.0.0:9400", insecure=False) == "0.0.0.0:9400"
    assert metrics_address("open:127.0.0.1:9400", insecure=False) == "127.0.0.1:9400"
    with pytest.raises(Invalid, match=r"open:0\.0\.0\.0:9400, or --insecure") as caught:
        metrics_address("0.0.0.0:9400", insecure=False)
    assert caught.value.reason == "METRICS_PLAINTEXT"
    with pytest.raises(Invalid):
        metrics_address("open:", insecure=False)
    with pytest.raises(Invalid):
        metrics_address("open:open:0.0.0.0:9400", insecure=False)


_READ = """
import os, sys
from pathlib import Path
from nasmesh.errors import Invalid
from nasmesh.rpc.secret_files import read_secret
if len(sys.argv) > 2:
    user = int(sys.argv[2])
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
try:
    print(read_secret(Path(sys.argv[1]), field="token-file").decode())
except Invalid as error:
    print(error.reason)
"""


@pytest.mark.skipif(os.geteuid() != 0 and os.environ.get("CI") != "true", reason="needs root: gives a file to a group")
@pytest.mark.parametrize(
    ("owner", "mode", "told"),
    [
        (0, 0o440, "secret"),  # as Kubernetes mounts a Secret with fsGroup
        (0, 0o640, "secret"),
        (0, 0o444, "SECRET_EXPOSED"),
        (0, 0o460, "SECRET_EXPOSED"),
        (USER, 0o600, "secret"),
        (USER, 0o640, "SECRET_EXPOSED"),
        (USER + 1, 0o640, "SECRET_EXPOSED"),
    ],
    ids=str,
)
def test_secret_when_root_hands_it_to_the_programs_group_then_read(owner: int, mode: int, told: str) -> None:
    # Not below tmp_path, into which nobody but its owner may look.
    path = Path(f"/tmp/nasmesh-handed-{os.getpid()}-{owner}-{mode:o}")
    path.write_bytes(b"secret")
    try:
        os.chown(path, owner, USER)
        path.chmod(mode)
        command = (sys.executable, "-c", _READ, str(path), str(USER))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout == f"{told}\n", done.stderr
    finally:
        path.unlink()


def test_secret_of_root_when_root_reads_it_then_its_group_may_not(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    path.chmod(0o640)
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "SECRET_EXPOSED\n", done.stderr


def test_drain_when_waited_for_then_ends_once_the_agent_holds_nothing(call: Call) -> None:
    async def body() -> None:
        async with (
            running() as scheduler,
            client(scheduler.address) as stub,
            scripted(scheduler.address) as agent,
        ):
            await agent.greet(make.make_hello("a"))
            await create(stub, make.make_spec(max_trials=1), search_id="s")
            await agent.want(search_pb2.TASK_KIND_GENERATE)
            lease = (await agent.hear("lease")).lease
            to = ("--scheduler", scheduler.address)
            code, _, err = await call("agent", "drain", "a", "--wait", "0.3", *to)
            assert code == 3
            assert "still holds 1 attempts" in err
            waiting = asyncio.ensure_future(call("agent", "drain", "agents/a", "--wait", "60", *to))
            assert await agent.finish(make.make_outcome(lease)) is not None
            assert (await waiting)[:2] == (0, "agents/a is drained\n")
            assert (await call("agent", "drain", "a", "--wait", "60", *to))[0] == 0

    go(body())


def test_health_when_the_server_asks_for_tokens_then_its_authority_is_enough(call: Call, tmp_path: Path) -> None:
    async def body() -> None:
        authority = Authority(tmp_path / "certs")
        pair, tokens = authority.pair("server", "scheduler"), tmp_path / "tokens.json"
        code, _, err = await call("token", "create", "--name", "a", "--scope", "agent", "--tokens", tokens)
        assert code == 0, err
        access = ServerAccess(cert=pair.cert, key=pair.key, tokens=tokens)
        scheduler = await start(Options("127.0.0.1:0", "memory:", "memory:", access=access))
        try:
            assert (await call("health", scheduler.address, "--ca-file", authority.ca))[0] == 0
            assert (await call("health", scheduler.address))[0] == 3
            other = Authority(tmp_path / "others")
            assert (await call("health", scheduler.address, "--ca-file", other.ca))[0] == 3
        finally:
            await scheduler.stop(0)

    go(body())
