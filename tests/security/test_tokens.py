"""Tokens: what is stored, who is let in, and how soon a revoked one is out; agents and clients on a real scheduler."""

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nasmesh.client import Client
from nasmesh.clock import ManualClock
from nasmesh.errors import Busy, Denied, Invalid, NotFound, Unauthenticated, Unavailable
from nasmesh.rpc import tokens
from nasmesh.rpc.access import ClientAccess
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.rpc.options import Connections
from nasmesh.rpc.rates import Buckets, Rate, Rates
from nasmesh.rpc.server import Door
from nasmesh.rpc.tokens import TokenFile, create, load, revoke
from nasmesh.v1 import dispatch_service_pb2 as dispatch
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from nasmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from scheduler.program import Options
from tests.builders import scheduling as make
from tests.builders.access import DAY_S, UNLIMITED, Mesh, make_mesh
from tests.builders.every_service import SchedulerThread

# --- the file -------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_kept_as_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "home" / "tokens.json"
    text, token = create(path, "alice", ["client:read"])
    assert len(text) == 47
    assert text not in path.read_text()
    assert json.loads(path.read_text())["tokens"][0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load(path) == [token]
    assert len({create(path, "alice", ["client:read"])[0] for _ in range(20)}) == 20


def test_expired_revoked_and_unknown_tokens_are_refused_by_reason(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "tokens.json"
    text, token = create(path, "alice", ["client:read"], days=2, clock=clock)
    known = TokenFile(path, clock=clock)
    assert known.check(text) == token
    clock.advance(2 * DAY_S)
    for wrong, reason in ((text, "TOKEN_EXPIRED"), (text[:-1] + "!", "TOKEN_UNKNOWN"), ("", "TOKEN_UNKNOWN")):
        with pytest.raises(Unauthenticated) as caught:
            known.check(wrong)
        assert caught.value.reason == reason
        assert text not in caught.value.message
    fresh, _ = create(path, "alice", ["client:read"], clock=clock)
    assert known.check(fresh).name == "alice"
    revoke(path, "alice", clock=clock)
    with pytest.raises(Unauthenticated) as caught:
        known.check(fresh)
    assert caught.value.reason == "TOKEN_REVOKED"
    held = replace(token, sha256=hashlib.sha256(fresh.encode()).hexdigest())
    with pytest.raises(Unauthenticated) as caught:
        known.recheck(held)
    assert caught.value.reason == "TOKEN_REVOKED"


def test_a_file_that_becomes_unreadable_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    text, _ = create(path, "alice", ["client:read"])
    content = path.read_bytes()
    known = TokenFile(path)
    for spoil in (lambda: path.write_bytes(b"{"), lambda: path.chmod(0o644), path.unlink):
        path.write_bytes(content)
        path.chmod(0o600)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        assert known.check(text).name == "alice"
        spoil()
        os.utime(tmp_path)
        if path.exists():
            os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        with pytest.raises(Unauthenticated):
            known.check(text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "TOKENS_MALFORMED"),
        (b"[]", "TOKENS_MALFORMED"),
        (b"[" * 100_000, "TOKENS_MALFORMED"),
        (b'{"version": 2, "tokens": []}', "TOKENS_MALFORMED"),
        (b'{"version": 1, "tokens": [{"name": "a"}]}', "TOKENS_MALFORMED"),
        (b"x" * (5 << 20), "FILE_TOO_LARGE"),
    ],
)
def test_a_file_that_is_no_tokens_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Invalid) as caught:
        TokenFile(path)
    assert (caught.value.reason, caught.value.field) == (reason, "tokens")


def test_wrong_wishes_are_refused_and_leave_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    create(path, "alice", ["admin"])
    before = path.read_bytes()
    wishes = (
        (lambda: create(path, "Alice", ["admin"]), "NAME_INVALID"),
        (lambda: create(path, "a/b", ["admin"]), "NAME_INVALID"),
        (lambda: create(path, "a", ["root"]), "SCOPE_INVALID"),
        (lambda: create(path, "a", ["admin", "agent"]), "SCOPE_INVALID"),
        (lambda: create(path, "a", ["admin"], days=91), "DAYS_INVALID"),
        (lambda: create(path, "a", ["admin"], days=0), "DAYS_INVALID"),
        (lambda: create(path, "a", ["admin"], days=float("nan")), "DAYS_INVALID"),
        (lambda: revoke(path, "bob"), "TOKEN_UNKNOWN"),
    )
    for wish, reason in wishes:
        with pytest.raises((Invalid, NotFound)) as caught:
            wish()
        assert caught.value.reason == reason
    assert path.read_bytes() == before


def test_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    threads = [threading.Thread(target=create, args=(path, f"n{number}", ["agent"])) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {token.name for token in load(path)} == {f"n{number}" for number in range(24)}


# --- rates ----------------------------------------------------------------------------------------------------------


def test_a_bucket_fills_with_time_and_others_are_not_touched() -> None:
    clock = ManualClock()
    buckets, rate = Buckets(100, clock=clock), Rate(10.0, 40.0)
    for _ in range(40):
        buckets.take("alice", rate)
    with pytest.raises(Busy) as caught:
        buckets.take("alice", rate)
    assert caught.value.retry_after_s == pytest.approx(0.1)
    buckets.take("bob", rate)
    clock.advance(caught.value.retry_after_s)
    buckets.take("alice", rate)
    clock.advance(1000)
    for _ in range(40):
        buckets.take("alice", rate)
    with pytest.raises(Busy):
        buckets.take("alice", rate)


def test_callers_that_are_remembered_are_bounded() -> None:
    buckets = Buckets(50)
    for number in range(5_000):
        buckets.take(f"address {number}", Rate(1.0, 1.0))
    assert len(buckets) == 50


# --- a real scheduler ---------------------------------------------------------------------------------------------


@contextmanager
def scheduling(
    mesh: Mesh, *, rates: Rates = UNLIMITED, connections: Connections | None = None
) -> Iterator[SchedulerThread]:
    door = Door(mesh.access(tokens=True), rates=rates, connections=connections or Connections())
    running = SchedulerThread(door, Options("127.0.0.1:0", "memory:", "memory:"))
    try:
        yield running
    finally:
        running.stop()


class Talk:
    """An agent's stream."""

    def __init__(self, address: str, access: ClientAccess, name: str) -> None:
        self._over = threading.Event()
        self._channel = open_channel(address, access=access)
        self._call = DispatchServiceStub(self._channel).Work(self._said(make.make_hello(name)))

    def _said(self, hello: dispatch.AgentHello) -> Iterator[dispatch.WorkRequest]:
        yield dispatch.WorkRequest(hello=hello)
        self._over.wait(60)

    def next(self) -> dispatch.WorkResponse:
        with errors_from_rpc():
            return next(self._call)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._over.set()
        self._channel.close()


def test_an_agent_is_whom_its_credential_names_or_one_below_it(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with scheduling(mesh) as scheduler:
        gpu1 = mesh.client(token=mesh.token("gpu1", "agent"))
        for name in ("gpu1", "gpu1-train-7402"):
            talk = Talk(scheduler.address, gpu1, name)
            assert talk.next().HasField("welcome")
            talk.close()
        for name in ("gpu2", "gpu10", "gpu1.evil", "gp"):
            talk = Talk(scheduler.address, gpu1, name)
            with pytest.raises(Denied) as caught:
                talk.next()
            assert caught.value.reason == "AGENT_NAME_FORBIDDEN"
            talk.close()


def test_revoking_a_token_ends_its_open_streams_and_refuses_its_next_call(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with scheduling(mesh) as scheduler:
        gpu, other = (mesh.client(token=mesh.token(name, "agent")) for name in ("gpu", "other"))
        stays, goes = Talk(scheduler.address, other, "other"), Talk(scheduler.address, gpu, "gpu")
        assert stays.next().HasField("welcome")
        assert goes.next().HasField("welcome")
        revoke(mesh.tokens, "gpu")
        with pytest.raises(Unavailable) as cut:
            goes.next()
        assert cut.value.reason == "CREDENTIAL_ENDED"
        again = Talk(scheduler.address, gpu, "gpu")
        with pytest.raises(Unauthenticated) as refused:
            again.next()
        assert refused.value.reason == "TOKEN_REVOKED"
        fresh = Talk(scheduler.address, mesh.client(token=mesh.token("gpu", "agent", file="fresh")), "gpu")
        assert fresh.next().HasField("welcome")
        revoke(mesh.tokens, "other")
        with pytest.raises(Unavailable):
            stays.next()
        for talk in (stays, goes, again, fresh):
            talk.close()


def test_a_token_file_that_is_exchanged_is_shown_with_the_next_call(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with scheduling(mesh) as scheduler:
        mine = mesh.token("alice", "client:read")
        with Client(scheduler.address, access=mesh.client(token=mine)) as client:
            assert client.server_info().version
            revoke(mesh.tokens, "alice")
            with pytest.raises(Unauthenticated):
                client.server_info()
            mesh.token("alice", "client:read")
            assert client.server_info().version


def test_searches_of_others_do_not_exist(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with scheduling(mesh) as scheduler:
        worker = Talk(scheduler.address, mesh.client(token=mesh.token("worker", "agent")), "worker")
        assert worker.next().HasField("welcome")
        clients = {
            name: Client(scheduler.address, access=mesh.client(token=mesh.token(name, scope)), patience_s=0)
            for name, scope in (("alice", "client:write"), ("bob", "client:write"), ("root", "admin"))
        }
        found = clients["alice"].create_search(make.make_spec(), search_id="hers")
        assert found.owner == "clients/alice"
        for name in ("alice", "root"):
            assert clients[name].get_search("hers").name == "searches/hers"
            assert [search.name for search in clients[name].list_searches()] == ["searches/hers"]
        bob = clients["bob"]
        assert list(bob.list_searches()) == []
        for look in (
            lambda: bob.get_search("hers"),
            lambda: bob.cancel_search("hers"),
            lambda: next(iter(bob.watch("hers"))),
            lambda: list(bob.list_trials("hers")),
            lambda: bob.get_trial("searches/hers/trials/1"),
        ):
            with pytest.raises(NotFound):
                look()
        assert clients["root"].cancel_search("hers").name == "searches/hers"
        for client in clients.values():
            client.close()
        worker.close()


def test_a_client_that_calls_too_often_waits_and_its_watches_are_counted(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with scheduling(mesh, rates=Rates()) as scheduler:
        worker = Talk(scheduler.address, mesh.client(token=mesh.token("worker", "agent")), "worker")
        assert worker.next().HasField("welcome")
        access = mesh.client(token=mesh.token("alice", "client:write"))
        with Client(scheduler.address, access=access, patience_s=5) as client:
            client.create_search(make.make_spec(), search_id="s")
        with open_channel(scheduler.address, access=access) as channel:
            stub = SchedulerServiceStub(channel)
            watches = [stub.WatchSearch(pb.WatchSearchRequest(name="searches/s")) for _ in range(5)]
            for watch in watches:
                next(watch)
            with pytest.raises(Busy) as many, errors_from_rpc():
                next(stub.WatchSearch(pb.WatchSearchRequest(name="searches/s")))
            assert many.value.reason == "WATCHES_EXCEEDED"
            with pytest.raises(Busy) as often, errors_from_rpc():
                list(map(stub.GetServerInfo, [pb.GetServerInfoRequest()] * 80))
            assert often.value.reason == "RATE_EXCEEDED"
            assert 0 < often.value.retry_after_s <= 0.2
        worker.close()
        with Client(scheduler.address, access=access, patience_s=5) as patient:
            assert patient.server_info().version


def test_connections_that_grow_old_end_cleanly_and_agents_come_back(tmp_path: Path) -> None:
    from nasmesh.agent.loop import Agent
    from tests.contract.agent_fakes import FakeDriver

    mesh = make_mesh(tmp_path)
    with scheduling(mesh, connections=Connections(age_s=1.0, age_grace_s=0.5)) as scheduler:
        admin = mesh.client(token=mesh.token("root", "admin"))
        agent = Agent(
            scheduler=scheduler.address,
            name="gpu",
            drivers=[FakeDriver()],
            work_dir=tmp_path / "work",
            access=mesh.client(token=mesh.token("gpu", "agent")),
        )
        thread = threading.Thread(target=agent.run)
        thread.start()
        before = tokens.load(mesh.tokens)
        try:
            with Client(scheduler.address, access=admin, patience_s=20) as client:
                gone = threading.Event()
                seen = []
                while len(seen) < 3 and not gone.wait(0.1):
                    now = [found.connected for found in client.agents()]
                    if now and (not seen or seen[-1] != now[0]):
                        seen.append(now[0])
            assert seen == [True, False, True]
            assert tokens.load(mesh.tokens) == before
        finally:
            agent.drain()
            thread.join(30)
