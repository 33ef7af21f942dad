"""An agent whose credential ends waits for the next one; one that was never let in says so and ends."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nasmesh.agent.loop import Agent
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


def test_agent_when_it_was_never_let_in_then_ends_with_the_reason(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with scheduling(mesh) as scheduler:
        token = mesh.token("gpu", "agent")
        revoke(mesh.tokens, "gpu")
        agent = working(scheduler.address, mesh.client(token=token), tmp_path / "work")
        with pytest.raises(Unauthenticated) as caught:
            agent.run()
        assert caught.value.reason == "TOKEN_REVOKED"
