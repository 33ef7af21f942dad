"""The policy table: every method that exists has a row, nothing else is let through, not even on a local server."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from nasmesh.errors import Busy, Denied, Invalid, NasmeshError
from nasmesh.rpc import policy
from nasmesh.rpc.access import ServerAccess
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.rpc.gate import Gate
from nasmesh.rpc.identity import LOCAL, Identity, Role, current_identity
from nasmesh.rpc.policy import POLICY, Rule, rule_for
from nasmesh.rpc.rates import Rates
from nasmesh.rpc.server import Door, Service
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceServicer, SchedulerServiceStub
from nasmesh.v1.scheduler_service_pb2_grpc import add_SchedulerServiceServicer_to_server as add
from tests.builders.access import make_mesh, serving
from tests.builders.every_service import methods
from tests.builders.log_lines import Lines

NAME = "nasmesh.v1.SchedulerService"


class FakeCall:
    """A call's context by hand."""

    def __init__(self, peer: str = "ipv4:192.0.2.1:4000", **metadata: str) -> None:
        self._peer = peer
        self._metadata = tuple(metadata.items())

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def auth_context(self) -> dict[str, Any]:
        return {}


def test_every_method_of_every_descriptor_has_a_row_and_every_row_a_method() -> None:
    assert {method.path for method in methods(standard=True)} == set(POLICY)
    assert len(POLICY) >= 40
    standard = [health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    assert all(service.full_name.startswith("grpc.") for file in standard for service in file.services_by_name.values())


def test_every_row_lets_somebody_in() -> None:
    for method, rule in POLICY.items():
        assert rule.anyone or rule.roles, method


def test_a_token_opens_what_a_certificate_of_the_same_role_does_not() -> None:
    rule = Rule(frozenset({Role.ADMIN}), token_roles=frozenset({Role.CLIENT_WRITE}))
    client = frozenset({Role.CLIENT_WRITE})
    assert not rule.admits(client, by_token=False)
    assert rule.admits(client, by_token=True)
    assert not rule.admits(frozenset({Role.CLIENT_READ}), by_token=True)
    assert not rule.admits(frozenset(), by_token=True)


@pytest.mark.parametrize("method", ["/nasmesh.v1.SchedulerService/Destroy", "", "/", "GetSearch", "/a/b"])
def test_a_method_without_a_row_is_refused_by_every_gate(method: str) -> None:
    assert rule_for(method) is None
    for gate in (Gate(), Gate(open_to_network=True)):
        with pytest.raises(Denied) as caught:
            gate.admit(method, FakeCall())
        assert caught.value.reason == "METHOD_UNLISTED"


class Servicer(SchedulerServiceServicer):
    """Says who calls."""

    async def GetSearch(self, request: pb.GetSearchRequest, context: object) -> pb.GetSearchResponse:  # noqa: N802, ARG002
        caller = current_identity()
        roles = ",".join(sorted(caller.roles))
        return pb.GetSearchResponse(search={"name": caller.name, "owner": roles})  # type: ignore[arg-type]

    async def WatchSearch(self, request: object, context: object) -> AsyncIterator[pb.WatchSearchResponse]:  # noqa: N802, ARG002
        yield pb.WatchSearchResponse(search={"name": current_identity().name})  # type: ignore[arg-type]

    async def ListTrials(self, request: object, context: object) -> pb.ListTrialsResponse:  # noqa: N802, ARG002
        return pb.ListTrialsResponse()


SERVICES = [Service(NAME, add, Servicer())]


def test_a_served_method_whose_row_is_taken_away_is_refused_even_locally(monkeypatch: pytest.MonkeyPatch) -> None:
    remaining = {method: rule for method, rule in POLICY.items() if not method.endswith("/ListTrials")}
    monkeypatch.setattr(policy, "POLICY", remaining)
    with serving("aio", SERVICES, Door()) as server, open_channel(server.address) as channel:
        stub = SchedulerServiceStub(channel)
        assert stub.GetSearch(pb.GetSearchRequest()).search.name == ""
        with pytest.raises(Denied) as caught, errors_from_rpc():
            stub.ListTrials(pb.ListTrialsRequest())
        assert caught.value.reason == "METHOD_UNLISTED"


def test_a_servicer_learns_who_calls_in_single_calls_and_streams(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    token = mesh.token("alice", "client:read")
    with (
        serving("aio", SERVICES, Door(mesh.access(tokens=True))) as server,
        open_channel(server.address, access=mesh.client(token=token)) as channel,
    ):
        stub = SchedulerServiceStub(channel)
        search = stub.GetSearch(pb.GetSearchRequest()).search
        assert (search.name, search.owner) == ("clients/alice", "client:read")
        assert [change.search.name for change in stub.WatchSearch(pb.WatchSearchRequest())] == ["clients/alice"]
    assert current_identity() is LOCAL


def test_a_request_is_not_parsed_before_its_caller_is_admitted(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    with (
        serving("aio", SERVICES, Door(mesh.access(tokens=True))) as server,
        open_channel(server.address, access=mesh.client()) as channel,
    ):
        call = channel.unary_unary(f"/{NAME}/GetSearch")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff\xff\xff", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with serving("aio", SERVICES, Door()) as server, open_channel(server.address) as channel:
        with pytest.raises(Invalid) as caught, errors_from_rpc():
            channel.unary_unary(f"/{NAME}/GetSearch")(b"\xff\xff\xff", timeout=10)
        assert caught.value.reason == "MESSAGE_MALFORMED"


# --- rates ----------------------------------------------------------------------------------------------------------


def refusals(calls: Iterator[Any]) -> list[str]:
    found = []
    for call in calls:
        try:
            call()
        except NasmeshError as error:
            found.append(error.reason)
    return found


def test_an_address_without_a_name_is_counted_unless_it_is_this_machine() -> None:
    gate, method = Gate(open_to_network=True), f"/{NAME}/GetSearch"
    burst = int(Rates().client.burst)
    for peer in ("ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1", "unix:/run/x"):
        for _ in range(burst * 3):
            assert gate.admit(method, FakeCall(peer)).identity is LOCAL
    for number in range(burst):
        gate.admit(method, FakeCall(f"ipv6:[2001:db8::{number:x}]:1"))  # one /64 is one caller
    with pytest.raises(Busy) as caught:
        gate.admit(method, FakeCall("ipv6:[2001:db8::ffff]:1"))
    assert caught.value.reason == "RATE_EXCEEDED"
    assert 0 < caught.value.retry_after_s <= 0.1
    gate.admit(method, FakeCall("ipv6:[2001:db8:0:1::1]:1"))


def test_a_local_gate_counts_nothing() -> None:
    gate = Gate()
    for _ in range(1000):
        gate.admit(f"/{NAME}/GetSearch", FakeCall())


def test_failed_sign_ins_get_the_short_answer_after_some(tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    gate = Gate(ServerAccess(mesh.server.cert, mesh.server.key, tokens=mesh.tokens))
    asking = FakeCall(authorization="Bearer nmt_" + "A" * 43)
    reasons = refusals(iter([lambda: gate.admit(f"/{NAME}/GetSearch", asking)] * 150))
    most = int(Rates().refusals.burst)
    assert reasons[:most] == ["TOKEN_UNKNOWN"] * most
    assert set(reasons[most + 5 :]) == {"RATE_EXCEEDED"}
    assert gate.refusals["TOKEN_UNKNOWN"] == 150
    good = mesh.token("alice", "client:read").read_text()
    admitted = gate.admit(f"/{NAME}/GetSearch", FakeCall(authorization=f"Bearer {good}"))
    assert admitted.identity == Identity("clients/alice", frozenset({Role.CLIENT_READ}))


def test_a_refusal_names_who_was_refused_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines.instead_of(monkeypatch, "nasmesh.rpc.gate._log")
    mesh = make_mesh(tmp_path)
    gate = Gate(ServerAccess(mesh.server.cert, mesh.server.key, tokens=mesh.tokens))
    token = mesh.token("alice", "client:read").read_text()
    with pytest.raises(Denied):
        gate.admit(f"/{NAME}/CancelSearch", FakeCall(authorization=f"Bearer {token}"))
    line = next(line for line in lines.told if line["event"] == "call_refused")
    assert (line["reason"], "clients/alice may not call" in line["why"], token in str(line)) == (
        "ROLE_FORBIDDEN",
        True,
        False,
    )


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YWxpY2U6cHc=", "nmt_" + "A" * 43])
def test_headers_that_hold_no_token_are_refused(tmp_path: Path, header: str) -> None:
    mesh = make_mesh(tmp_path)
    gate = Gate(ServerAccess(mesh.server.cert, mesh.server.key, tokens=mesh.tokens))
    with pytest.raises(NasmeshError) as caught:
        gate.admit(f"/{NAME}/GetSearch", FakeCall(authorization=header))
    assert caught.value.reason in ("TOKEN_MALFORMED", "TOKEN_UNKNOWN")
