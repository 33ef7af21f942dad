"""Agents that a scheduler does not take, of another version or a name that somebody has; and where agents run."""

import errno
import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh import __version__
from nasmesh.agent import loop
from nasmesh.agent.loop import Agent
from nasmesh.agent.spool import Spool
from nasmesh.client import Client
from nasmesh.clock import SystemClock
from nasmesh.errors import Conflict, Invalid, Stale, Unavailable
from nasmesh.jobs.records import RecordDirectory
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.rpc.server import Door
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc
from nasmesh.v1 import scheduler_service_pb2
from scheduler.dispatch import peer_address
from scheduler.program import Options
from tests.builders import scheduling as make
from tests.builders.every_service import SchedulerThread
from tests.contract.agent_fakes import FakeDriver, FakeScheduler


@pytest.fixture
def address() -> Iterator[str]:
    running = SchedulerThread(Door(), Options("127.0.0.1:0", "memory:", "memory:"))
    yield running.address
    running.stop()


class Stream:
    """An agent's stream, opened with a hello; raises what the scheduler answers."""

    def __init__(self, address: str, hello: pb.AgentHello) -> None:
        self._over = threading.Event()
        self._channel = open_channel(address)
        self.call = rpc.DispatchServiceStub(self._channel).Work(self._said(hello))
        try:
            with errors_from_rpc(address):
                self.welcome = next(self.call).welcome
        except BaseException:
            self.close()
            raise

    def _said(self, hello: pb.AgentHello) -> Iterator[pb.WorkRequest]:
        yield pb.WorkRequest(hello=hello)
        self._over.wait(60)

    def close(self) -> None:
        self._over.set()
        self._channel.close()


def hello(name: str, **fields: str) -> pb.AgentHello:
    made = make.make_hello(name)
    made.MergeFrom(pb.AgentHello(**fields))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(("version", "advice"), [("0.2.0", "upgrade the scheduler to 0.2"), ("9.1", "to 9.1 first")])
def test_hello_when_the_agent_is_newer_then_what_to_upgrade(address: str, version: str, advice: str) -> None:
    with pytest.raises(Stale) as caught:
        Stream(address, hello("gpu1", version=version))
    assert caught.value.reason == "VERSION_UNFIT"
    assert advice in caught.value.message
    assert "agents/gpu1" in caught.value.message
    with Client(address) as client:
        assert not list(client.agents())


def test_agent_when_the_scheduler_is_too_new_or_old_then_ends_and_says_what_to_upgrade(tmp_path: Path) -> None:
    for number, (version, advice) in enumerate(
        (("0.9.0", "upgrade nasmesh to 0.9"), ("0.0.7", "the scheduler to 0.1"))
    ):
        scheduler = FakeScheduler()
        scheduler.welcome.version = version
        agent = Agent(scheduler=scheduler.address, name="gpu", drivers=[FakeDriver()], work_dir=tmp_path / str(number))
        with pytest.raises(Stale, match=advice) as caught:
            agent.run()
        assert caught.value.reason == "VERSION_UNFIT"
        scheduler.stop()


def test_agent_at_work_when_the_scheduler_becomes_too_new_then_waits_for_one_that_fits(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    agent = Agent(scheduler=scheduler.address, name="gpu", drivers=[FakeDriver()], work_dir=tmp_path)
    thread = threading.Thread(target=agent.run)
    thread.start()
    try:
        scheduler.wait_for(scheduler.readies)  # it has been welcomed
        scheduler.welcome.version = "0.9.0"
        scheduler.drop()
        scheduler.wait_for(lambda: scheduler.connections >= 3)
        assert thread.is_alive()
        before = len(scheduler.readies())
        scheduler.welcome.version = __version__
        scheduler.wait_for(lambda: len(scheduler.readies()) > before)
    finally:
        agent.drain()
        thread.join(30)
        scheduler.stop()
    assert not thread.is_alive()


def test_listing_says_where_an_agent_runs_and_what(address: str, tmp_path: Path) -> None:
    agent = Agent(scheduler=address, name="gpu", drivers=[FakeDriver()], work_dir=tmp_path, labels={"rack": "7"})
    thread = threading.Thread(target=agent.run)
    thread.start()
    try:
        with Client(address) as client:
            shown = connected(client, "agents/gpu")
        assert (shown.version, shown.host, shown.address) == (__version__, platform.node(), "127.0.0.1")
        assert dict(shown.labels) == {"rack": "7"}
    finally:
        agent.drain()
        thread.join(30)


def connected(client: Client, name: str) -> scheduler_service_pb2.Agent:
    """Return an agent once it has connected; each look is a call."""
    pause = threading.Event()
    for _ in range(300):
        found = [agent for agent in client.agents() if agent.name == name and agent.connected]
        if found:
            return found[0]
        pause.wait(0.1)
    raise AssertionError(f"{name} never came")


def test_hello_when_another_has_the_name_then_says_which_and_it_goes_on(address: str) -> None:
    first = Stream(address, hello("gpu", instance="a" * 32, host="gpu1"))
    with pytest.raises(Conflict) as caught:
        Stream(address, hello("gpu", instance="b" * 32, host="gpu2"))
    assert caught.value.reason == "AGENT_NAME_TAKEN"
    assert caught.value.message == (
        "hello.agent: agents/gpu works on host gpu1 (127.0.0.1) already; start this one, on host gpu2, with another "
        "--name, or stop that one"
    )
    with Client(address) as client:
        assert [agent.host for agent in client.agents()] == ["gpu1"]
        first.close()
        pause = threading.Event()
        for _ in range(300):  # the name is free once that stream has ended
            if not any(agent.connected for agent in client.agents()):
                break
            pause.wait(0.1)
    Stream(address, hello("gpu", instance="b" * 32, host="gpu2")).close()


def test_hello_when_the_same_agent_comes_again_then_its_old_stream_ends(address: str) -> None:
    for names in (("a" * 32, "a" * 32), ("", "a" * 32), ("a" * 32, "")):  # who does not tell is not refused
        first = Stream(address, hello("gpu", instance=names[0]))
        second = Stream(address, hello("gpu", instance=names[1]))
        with pytest.raises(Unavailable) as caught, errors_from_rpc():
            list(first.call)
        assert caught.value.reason == "AGENT_REPLACED"
        first.close()
        second.close()


def test_agent_when_its_name_stays_taken_then_ends_with_the_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "NAME_TAKEN_S", 1.0)
    holder = Stream(address, hello("gpu", instance="a" * 32, host="gpu1"))
    agent = Agent(scheduler=address, name="gpu", drivers=[FakeDriver()], work_dir=tmp_path)
    began = SystemClock().monotonic()
    with pytest.raises(Conflict, match="works on host gpu1"):
        agent.run()
    assert SystemClock().monotonic() - began >= 1.0
    holder.close()


def test_instance_is_the_same_after_a_restart_and_another_in_another_directory(tmp_path: Path) -> None:
    first = Spool(tmp_path / "a").instance()
    assert len(first) == 32
    assert Spool(tmp_path / "a").instance() == first
    assert Spool(tmp_path / "b").instance() != first
    (tmp_path / "a" / "agent.instance").write_bytes(b"\xff" * 500)
    assert len(Spool(tmp_path / "a").instance()) == 32


def test_instance_when_the_disk_is_full_then_it_is_one_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: RecordDirectory, _identifier: str, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordDirectory, "put", full)
    assert len(Spool(tmp_path).instance()) == 32


def test_hello_with_texts_without_end_is_refused(address: str) -> None:
    with pytest.raises(Invalid, match="128 characters"):
        Stream(address, hello("gpu", instance="a" * 200))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.77.0.3:4711", "10.77.0.3"),
        ("ipv6:%5Bfd00::3%5D:4711", "fd00::3"),
        ("unix:/tmp/socket", ""),
        ("", ""),
    ],
)
def test_address_of_a_peer(peer: str, address: str) -> None:
    assert peer_address(peer) == address
