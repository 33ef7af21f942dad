"""T11: every method, called by six identities in eight states of their credentials, against real servers with TLS.

The servers ask for a certificate and a token. Who may call what is written here a second time, by groups of methods, so
that a row that is missing from the policy table, or a default that lets calls pass, is a difference.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from nasmesh.errors import NasmeshError
from nasmesh.rpc import tokens
from nasmesh.rpc.access import ClientAccess
from nasmesh.rpc.server import Door
from nasmesh.rpc.status import from_rpc_error
from tests.builders.access import UNLIMITED, Authority, Mesh, Pair, make_mesh
from tests.builders.certificates import odd_pair
from tests.builders.every_service import Everything, Method, every_service, methods
from tests.builders.recording import Recorder, replay

FLOOR = 864
METHODS = methods(standard=True)
IDENTITIES = ("reader", "writer", "admin", "agent", "server", "nobody")
STATES = ("none", "foreign CA", "expired", "wrong role", "stolen token", "revoked", "replayed", "right")
SCOPES = {"reader": "client:read", "writer": "client:write", "admin": "admin", "agent": "agent"}
ROLES = {"reader": "client", "writer": "client", "admin": "admin", "agent": "agent"}
# The scope of the token that a thief of each kind has got hold of, where it is not an admin's.
VICTIMS = {
    "reader": "admin",
    "writer": "admin",
    "admin": "agent",
    "agent": "admin",
    "server": "admin",
    "nobody": "admin",
}
# Methods by who may call them (first match), in the words of the design, not of the table.
GROUPS = (
    (r"/grpc\.health\.v1\.Health/.*", {"reader", "writer", "admin", "agent", "server", "nobody"}),
    (r"/grpc\.reflection\..*", {"reader", "writer", "admin", "agent"}),
    (r"/nasmesh\.v1\.SchedulerService/(DeleteSearch|DeleteUnreferencedObjects|DrainAgent|UndrainAgent)", {"admin"}),
    (r"/nasmesh\.v1\.SchedulerService/(GetDemand|OfferServers)", {"admin"}),
    (r"/nasmesh\.v1\.SchedulerService/(Get|List|Watch).*", {"reader", "writer", "admin"}),
    (r"/nasmesh\.v1\.SchedulerService/.*", {"writer", "admin"}),
    (r"/nasmesh\.v1\.DispatchService/.*", {"agent"}),
    (r"/nasmesh\.v1\.DeployerService/.*", {"reader", "writer", "admin"}),
    (r"/externalscaler\.ExternalScaler/.*", {"reader", "writer", "admin"}),
    (r"/nasmesh\.v1\.(Generate|Train|Evaluate)Service/.*", {"writer", "admin", "agent"}),
)
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)


@dataclass(frozen=True)
class Answer:
    """How a call ended."""

    code: grpc.StatusCode
    reason: str


@dataclass(frozen=True)
class World:
    """Servers, and what every identity has in every state."""

    everything: Everything
    mesh: Mesh
    access: dict[tuple[str, str], list[ClientAccess]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("matrix")
    mesh = make_mesh(directory)
    foreign = Authority(directory / "foreign")
    access = {
        (identity, state): list(credentials(mesh, foreign, identity, state))
        for identity in IDENTITIES
        for state in STATES
    }
    for identity in IDENTITIES:
        tokens.revoke(mesh.tokens, f"{identity}-revoked")
    with every_service(directory, Door(mesh.access(mutual=True, tokens=True), rates=UNLIMITED)) as everything:
        yield World(everything, mesh, access)


def credentials(mesh: Mesh, foreign: Authority, who: str, state: str) -> Iterator[ClientAccess]:
    """Yield what an identity shows in a state; two sets where there are two ways to be in it."""
    name = f"{who}-{state.replace(' ', '-').lower()}"
    scope = SCOPES.get(who, "client:write")
    if state == "none":
        yield mesh.client()
        return
    own = pair(mesh.authority, who, name)
    if state == "foreign CA":
        yield mesh.client(pair(foreign, who, name), mesh.token(name, scope))
    elif state == "expired":
        yield mesh.client(pair(mesh.authority, who, name, late=True), mesh.token(name, scope))
        yield mesh.client(own, mesh.token(name, scope, days=1, issued=-2, file=f"{name}-late"))
    elif state == "wrong role":
        other = "agent" if scope != "agent" else "client:write"
        yield mesh.client(own, mesh.token(name, other))
    elif state == "stolen token":
        yield mesh.client(own, mesh.token(f"victim-of-{who}", VICTIMS.get(who, "admin")))
    elif who == "nobody" and state != "revoked":
        yield mesh.client(own, unknown(mesh, name))
    else:  # the fixture revokes it, or it is good
        yield mesh.client(own, mesh.token(name, scope))


def pair(authority: Authority, who: str, name: str, *, late: bool = False) -> Pair:
    """Return the certificate of an identity; a server's and a stranger's are made to be good for calling."""
    file = f"{name}-{'late' if late else 'good'}"
    days, issued = (1.0, -2.0) if late else (7.0, 0.0)
    if who in ROLES:
        return authority.pair(ROLES[who], name, days=days, issued=issued, file=file)
    uri = f"spiffe://nasmesh/server/{name}" if who == "server" else f"spiffe://elsewhere/client/{name}"
    return odd_pair(authority, uri, days=days, issued=issued, file=file)


def unknown(mesh: Mesh, name: str) -> Path:
    """Return a token that looks like one, of which no server knows."""
    path = mesh.directory / f"{name}.unknown"
    path.write_text(tokens.PREFIX + "A" * 43)
    path.chmod(0o600)
    return path


def admitted(who: str, method: str) -> bool:
    return who in next(callers for pattern, callers in GROUPS if re.fullmatch(pattern, method))


def expected(who: str, state: str, way: int, method: str) -> tuple[set[grpc.StatusCode], str]:
    """Return the codes that a call must end with, and its reason; no codes: anything but a refusal."""
    if state in ("none", "foreign CA") or (state == "expired" and way == 0):
        return {grpc.StatusCode.UNAVAILABLE}, "HANDSHAKE_REFUSED"
    if method.startswith("/grpc.health"):
        return set(), ""
    denied, unauthenticated = {grpc.StatusCode.PERMISSION_DENIED}, {grpc.StatusCode.UNAUTHENTICATED}
    if who == "server":
        return denied, "CERTIFICATE_ROLE"
    if who == "nobody":
        return unauthenticated, "CERTIFICATE_IDENTITY"
    if state == "expired":
        return unauthenticated, "TOKEN_EXPIRED"
    if state == "revoked":
        return unauthenticated, "TOKEN_REVOKED"
    if state in ("wrong role", "stolen token"):
        return denied, "CREDENTIALS_DISAGREE"
    return (set(), "") if admitted(who, method) else (denied, "ROLE_FORBIDDEN")


def dial(address: str, access: ClientAccess) -> grpc.Channel:
    """Return a channel that shares nothing with others, and shows what a careful client of ours would not."""
    assert access.ca is not None
    found = grpc.ssl_channel_credentials(
        access.ca.read_bytes(),
        access.key.read_bytes() if access.key else None,
        access.cert.read_bytes() if access.cert else None,
    )
    if access.token is not None:
        bearer = grpc.access_token_call_credentials(access.token.read_text().strip())
        found = grpc.composite_channel_credentials(found, bearer)
    return grpc.secure_channel(address, found, [("grpc.use_local_subchannel_pool", 1)])


def call(channel: grpc.Channel, method: Method, metadata: Any = None) -> Answer:
    """Call with empty requests, and return how it ended; a stream that answers is left at its first message."""
    asks, answers = method.descriptor.client_streaming, method.descriptor.server_streaming
    kinds = {(False, False): "unary_unary", (False, True): "unary_stream", (True, False): "stream_unary"}
    make = getattr(channel, kinds.get((asks, answers), "stream_stream"))(method.path)
    request: Any = iter([b""]) if asks else b""
    try:
        answer = make(request, timeout=20, metadata=metadata)
        if answers:
            next(iter(answer), None)
            answer.cancel()
    except grpc.RpcError as error:
        found: NasmeshError = from_rpc_error(error)
        return Answer(error.code(), found.reason)  # type: ignore[attr-defined]
    return Answer(grpc.StatusCode.OK, "")


def wrong(answer: Answer, codes: set[grpc.StatusCode], reason: str) -> bool:
    return (answer.code not in codes or answer.reason != reason) if codes else answer.code in REFUSALS[:2]


def test_every_method_by_every_identity_in_every_state(world: World, record_property: Any) -> None:
    cases: Counter[str] = Counter()
    differences = []
    for who in IDENTITIES:
        for state in STATES:
            if state == "replayed":
                continue
            for way, access in enumerate(world.access[who, state]):
                for method, answer in answers(world, access, fresh=state in ("none", "foreign CA")):
                    codes, reason = expected(who, state, way, method.path)
                    if wrong(answer, codes, reason):
                        differences.append((who, state, method.path, answer, reason or "admitted"))
                cases[state] += len(METHODS) if way == 0 else 0
    replayed = replays(world, differences)
    cases["replayed"] += replayed
    total = sum(cases.values())
    record_property(
        "counts", f"T11: {total} cases = {len(METHODS)} methods x {len(IDENTITIES)} identities x {len(STATES)} states"
    )
    assert not differences, f"{len(differences)} of {total}: {differences[:5]}"
    assert total == len(METHODS) * len(IDENTITIES) * len(STATES)
    assert total >= FLOOR


def answers(world: World, access: ClientAccess, *, fresh: bool) -> Iterator[tuple[Method, Answer]]:
    """Yield how each method ends; with `fresh`, by a connection of its own."""
    open_channels: dict[str, grpc.Channel] = {}
    try:
        for method in METHODS:
            address = world.everything.addresses[method.service]
            if fresh:
                with dial(address, access) as channel:
                    yield method, call(channel, method)
                continue
            if address not in open_channels:
                open_channels[address] = dial(address, access)
            yield method, call(open_channels[address], method)
    finally:
        for channel in open_channels.values():
            channel.close()


def replays(world: World, differences: list[Any]) -> int:
    """Replay what each identity sent when it was right: the bytes of its connections, and its token without TLS."""
    count = 0
    for who in IDENTITIES:
        (access,) = world.access[who, "replayed"]
        assert access.token is not None
        bearer = [("authorization", f"Bearer {access.token.read_text().strip()}")]
        for method in METHODS:
            address = world.everything.addresses[method.service]
            with Recorder(address) as recorder, dial(recorder.address, access) as channel:
                codes, reason = expected(who, "right", 0, method.path)
                first = call(channel, method)
                if wrong(first, codes, reason):
                    differences.append((who, "before replay", method.path, first, reason or "admitted"))
            gate = world.everything.gates[method.service]
            before = gate.asked
            heard = replay(address, recorder.sent)
            if gate.asked != before or b"grpc-status" in heard:
                differences.append((who, "replayed", method.path, "a call came of it", "none"))
            with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as plain:
                answer = call(plain, method, bearer)
            if answer.code is not grpc.StatusCode.UNAVAILABLE or gate.asked != before:
                differences.append((who, "token without TLS", method.path, answer, "UNAVAILABLE"))
            count += 1
    return count
