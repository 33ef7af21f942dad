"""An agent whose credential ends waits for the next one; one that was never let in says so and ends."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nasmesh.agent.loop import Agent
from nasmesh.agent.stream import Connection
from nasmesh.client import Client
from nasmesh.errors import Unauthenticated
from nasmesh.rpc.access import ClientAccess
from nasmesh.rpc.tokens import revoke
from tests.builders.access import make_mesh
from tests.contract.agent_fakes import FakeDriver
from tests.security.test_tokens import scheduling


def working(address: str, access: ClientAccess, work_dir: Path) -> Agent:
    return Agent(scheduler=address, name="gpu", drivers=[FakeDriver()], work_dir=work_dir, access=access)


def await_true(found: Callable[[], bool]) -> None:
    """Ask until it is so; each look is a call to the scheduler."""
    pause = threading.Event()
    for _ in range(300):
        if found():
            return
        pause.wait(0.1)
    raise AssertionError("it never came to that")


def test_agent_when_its_token_is_revoked_then_waits_for_the_next_one(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with scheduling(mesh) as scheduler:
        admin = mesh.client(token=mesh.token("root", "admin"))
        agent = working(scheduler.address, mesh.client(token=mesh.token("gpu", "agent")), tmp_path / "work")
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            with Client(scheduler.address, access=admin, patience_s=20) as client:

                def is_connected() -> bool:
                    return [found.connected for found in client.agents()] == [True]

                await_true(is_connected)
                revoke(mesh.tokens, "gpu")
                await_true(lambda: not is_connected())
                assert thread.is_alive()
                mesh.token("gpu", "agent")  # into the same file
                await_true(is_connected)
        finally:
            agent.drain()
            thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("spoiled", [None, b"nmt_half"])
def test_agent_when_its_file_is_wrong_for_a_while_then_waits_until_it_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: bytes | None
) -> None:
    mesh = make_mesh(tmp_path)
    tries: list[str] = []

    class Counted(Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            tries.append("")
            super().__init__(*arguments, **options)

    monkeypatch.setattr("nasmesh.agent.loop.Connection", Counted)
    token = mesh.token("gpu", "agent")
    with scheduling(mesh) as scheduler:
        admin = mesh.client(token=mesh.token("root", "admin"))
        agent = working(scheduler.address, mesh.client(token=token), tmp_path / "work")
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            with Client(scheduler.address, access=admin, patience_s=20) as client:

                def is_connected() -> bool:
                    return [found.connected for found in client.agents()] == [True]

                await_true(is_connected)
                if spoiled is None:
                    token.unlink()
                else:
                    token.write_bytes(spoiled)
                let_in = len(tries)
                revoke(mesh.tokens, "gpu")  # the stream ends; the next is begun with the file as it is
                await_true(lambda: len(tries) >= let_in + 3 or not thread.is_alive())
                assert thread.is_alive()
                mesh.token("gpu", "agent")
                await_true(is_connected)
        finally:
            agent.drain()
            thread.join(30)
        assert not thread.is_alive()


def test_agent_when_it_was_never_let_in_then_ends_with_the_reason(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with scheduling(mesh) as scheduler:
        token = mesh.token("gpu", "agent")
        revoke(mesh.tokens, "gpu")
        agent = working(scheduler.address, mesh.client(token=token), tmp_path / "work")
        with pytest.raises(Unauthenticated) as caught:
            agent.run()
        assert caught.value.reason == "TOKEN_REVOKED"
