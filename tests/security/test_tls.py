"""TLS and mTLS on real servers of both kinds: who is spoken to, what is presented, what happens when files change."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.rpc.access import ClientAccess, ServerAccess
from nasmesh.rpc.channel import errors_from_rpc, open_aio_channel, open_channel
from nasmesh.rpc.server import Door
from tests.builders.access import HERE, Authority, Mesh, Pair, make_mesh, serving
from tests.builders.listening import start_on

KINDS = ["threads", "aio"]


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return make_mesh(tmp_path)


def ask(address: str, access: ClientAccess) -> str:
    """Ask a server for its health; returns the reason why it does not answer, or "OK"."""
    try:
        with open_channel(address, access=access) as channel, errors_from_rpc(address):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    except NasmeshError as error:
        return error.reason
    return "OK"


def presented(address: str, access: ClientAccess) -> str:
    """Return the serial number of the certificate that a server shows in a handshake of our own."""
    assert access.ca is not None
    context = ssl.create_default_context(cafile=str(access.ca))
    context.set_alpn_protocols(["h2"])
    if access.cert is not None:
        context.load_cert_chain(access.cert, access.key)
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return str(secure.getpeercert()["serialNumber"])  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mutual", [False, True])
def test_callers_with_the_right_files_are_answered(mesh: Mesh, kind: str, mutual: bool) -> None:
    with serving(kind, [], Door(mesh.access(mutual=mutual))) as server:
        assert ask(server.address, mesh.client(mesh.authority.pair("client", "alice"))) == "OK"


def test_an_asyncio_channel_speaks_tls_too(mesh: Mesh) -> None:
    with serving("aio", [], Door(mesh.access(mutual=True))) as server:

        async def check() -> int:
            alice = mesh.client(mesh.authority.pair("client", "alice"))
            async with open_aio_channel(server.address, access=alice) as channel:
                return int((await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())).status)

        assert server.wait(check()) == health_pb2.HealthCheckResponse.SERVING  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_who_cannot_show_a_certificate_of_ours_is_not_answered(mesh: Mesh, tmp_path: Path, kind: str) -> None:
    stranger = Authority(tmp_path / "foreign").pair("client", "alice")
    with serving(kind, [], Door(mesh.access(mutual=True))) as server:
        assert ask(server.address, mesh.client()) == "HANDSHAKE_REFUSED"
        assert ask(server.address, mesh.client(stranger)) == "HANDSHAKE_REFUSED"
        assert ask(server.address, ClientAccess()) == "HANDSHAKE_REFUSED"
        assert ask(server.address, mesh.client(mesh.authority.pair("client", "alice"))) == "OK"


def test_a_server_that_cannot_be_trusted_is_not_spoken_to(mesh: Mesh, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign")
    with serving("aio", [], Door(mesh.access())) as server:
        assert ask(server.address, ClientAccess(foreign.ca)) == "SERVER_UNTRUSTED"
    other = mesh.authority.pair("server", "other", hosts=("other.example", "192.0.2.7"))
    with serving("aio", [], Door(ServerAccess(other.cert, other.key))) as server:
        assert ask(server.address, mesh.client()) == "SERVER_OTHER_HOST"
    with serving("aio", [], Door()) as server:
        assert ask(server.address, mesh.client()) == "SERVER_PLAINTEXT"


@pytest.mark.parametrize("kind", KINDS)
def test_a_renewed_certificate_is_presented_without_a_restart(mesh: Mesh, kind: str) -> None:
    mine = mesh.client(mesh.authority.pair("client", "alice"))
    with serving(kind, [], Door(mesh.access(mutual=True))) as server:
        with open_channel(server.address, access=mine) as before:
            stub = health_pb2_grpc.HealthStub(before)
            stub.Check(health_pb2.HealthCheckRequest())
            first = presented(server.address, mine)
            assert presented(server.address, mine) == first
            mesh.authority.pair("server", "test")
            second = presented(server.address, mine)
            assert second != first
            stub.Check(health_pb2.HealthCheckRequest())  # connections made before go on
        assert ask(server.address, mine) == "OK"


@pytest.mark.parametrize("kind", KINDS)
def test_a_renewal_that_is_wrong_leaves_the_certificate_before(mesh: Mesh, kind: str) -> None:
    mine = mesh.client()
    with serving(kind, [], Door(mesh.access())) as server:
        first = presented(server.address, mine)
        halves = mesh.server.cert.read_bytes(), mesh.server.key.read_bytes()
        for file, content in ((mesh.server.key, b"rubbish"), (mesh.server.cert, b"rubbish"), (mesh.server.cert, b"")):
            file.write_bytes(content)
            assert presented(server.address, mine) == first
        mesh.server.key.unlink()
        assert presented(server.address, mine) == first
        mesh.server.cert.write_bytes(halves[0])
        assert presented(server.address, mine) == first
        mesh.authority.pair("server", "test")
        assert presented(server.address, mine) != first


def test_an_authority_that_is_exchanged_lets_its_own_in_and_the_former_s_out(mesh: Mesh, tmp_path: Path) -> None:
    old = mesh.authority.pair("client", "alice")
    following = Authority(tmp_path / "following")
    new = following.pair("client", "alice")
    with serving("aio", [], Door(mesh.access(mutual=True))) as server:
        assert (ask(server.address, mesh.client(old)), ask(server.address, mesh.client(new))) == (
            "OK",
            "HANDSHAKE_REFUSED",
        )
        roots = mesh.directory / "roots.crt"
        roots.write_bytes(mesh.authority.ca.read_bytes())
        os.replace(following.ca, mesh.authority.ca)
        trusting = [ClientAccess(roots, pair.cert, pair.key) for pair in (old, new)]
        assert [ask(server.address, access) for access in trusting] == ["HANDSHAKE_REFUSED", "OK"]


def test_a_client_shows_a_renewed_certificate_when_it_connects_anew(mesh: Mesh) -> None:
    mesh.authority.pair("client", "alice", days=1, issued=-2)
    access = ClientAccess(
        mesh.authority.ca, mesh.authority.directory / "client-alice.crt", mesh.authority.directory / "client-alice.key"
    )
    with serving("aio", [], Door(mesh.access(mutual=True))) as server:
        assert ask(server.address, access) == "CERTIFICATE_EXPIRED"
        mesh.authority.pair("client", "alice")
        assert ask(server.address, access) == "OK"


# --- files that are wrong ---------------------------------------------------------------------------------------


def wrong_files(mesh: Mesh, directory: Path) -> Iterator[tuple[str, str, Pair | None, Path | None]]:
    """Yield (reason, flag at fault, pair, authority) of what a server or client may be given by mistake."""
    good, other = mesh.server, mesh.authority.pair("server", "other")
    rubbish = directory / "rubbish"
    rubbish.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    rubbish.chmod(0o600)
    exposed = directory / "exposed.key"
    exposed.write_bytes(good.key.read_bytes())
    exposed.chmod(0o640)
    large = directory / "large"
    large.write_bytes(b"x" * (4 * 1024 * 1024 + 1))
    large.chmod(0o600)
    pipe = directory / "pipe"
    os.mkfifo(pipe, 0o600)
    locked = directory / "locked.pem"
    locked.write_bytes(good.cert.read_bytes() + good.key.read_bytes())
    locked.chmod(0o600)
    yield "FILE_UNREADABLE", "cert", Pair(directory / "nowhere", good.key), None
    yield "FILE_UNREADABLE", "cert", Pair(directory, good.key), None
    yield "FILE_UNREADABLE", "cert", Pair(pipe, good.key), None
    yield "FILE_UNREADABLE", "key", Pair(good.cert, directory / "nowhere"), None
    yield "FILE_TOO_LARGE", "cert", Pair(large, good.key), None
    yield "SECRET_EXPOSED", "key", Pair(good.cert, exposed), None
    yield "CERTIFICATE_INVALID", "cert", Pair(rubbish, good.key), None
    yield "CERTIFICATE_INVALID", "cert", Pair(good.key, good.key), None
    yield "KEY_INVALID", "key", Pair(good.cert, rubbish), None
    yield "KEY_MISMATCH", "key", Pair(good.cert, other.key), None
    yield "KEY_MISMATCH", "key", Pair(other.cert, good.key), None
    yield "CERTIFICATE_EXPIRED", "cert", mesh.authority.pair("server", "late", days=1, issued=-1.5), None
    yield "CERTIFICATE_NOT_YET_VALID", "cert", mesh.authority.pair("server", "early", issued=2), None
    yield "FILE_UNREADABLE", "ca", good, directory / "nowhere"
    yield "CERTIFICATE_INVALID", "ca", good, rubbish
    yield "AUTHORITY_INVALID", "ca", good, other.cert


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_with_wrong_files_does_not_start_and_says_which(mesh: Mesh, tmp_path: Path, kind: str) -> None:
    cases = list(wrong_files(mesh, tmp_path))
    client = mesh.authority.pair("client", "alice")
    cases.append(("CERTIFICATE_ROLE", "cert", client, None))
    for reason, flag, pair, ca in cases:
        assert pair is not None
        with pytest.raises(Invalid) as caught, serving(kind, [], Door(ServerAccess(pair.cert, pair.key, ca))):
            pass
        assert (caught.value.reason, caught.value.field) == (reason, f"tls-{flag}")


def test_a_client_with_wrong_files_does_not_dial_and_says_which(mesh: Mesh, tmp_path: Path) -> None:
    cases = list(wrong_files(mesh, tmp_path))
    cases.append(("CERTIFICATE_ROLE", "cert", mesh.server, None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        listener.setblocking(False)
        for reason, flag, pair, ca in cases:
            assert pair is not None
            if flag == "ca":
                pair = mesh.authority.pair("client", "alice")
            with pytest.raises(Invalid) as caught:
                open_channel(address, access=ClientAccess(ca or mesh.authority.ca, pair.cert, pair.key))
            assert (caught.value.reason, caught.value.field) == (reason, f"{flag}-file")
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("given", "reason", "flag"),
    [
        ({"cert"}, "KEY_MISSING", "tls-key"),
        ({"key"}, "CERTIFICATE_MISSING", "tls-cert"),
        ({"ca"}, "CERTIFICATE_MISSING", "tls-cert"),
        ({"tokens"}, "TOKENS_PLAINTEXT", "tokens"),
        ({"tokens", "ca"}, "CERTIFICATE_MISSING", "tls-cert"),
    ],
)
def test_halves_of_what_a_server_needs_are_refused(given: set[str], reason: str, flag: str) -> None:
    with pytest.raises(Invalid) as caught:
        ServerAccess(**{name: Path("x") for name in given})
    assert (caught.value.reason, caught.value.field) == (reason, flag)


@pytest.mark.parametrize(
    ("given", "reason", "flag"),
    [
        ({"cert"}, "KEY_MISSING", "key-file"),
        ({"key"}, "CERTIFICATE_MISSING", "cert-file"),
        ({"cert", "key"}, "AUTHORITY_MISSING", "ca-file"),
    ],
)
def test_halves_of_what_a_client_needs_are_refused(given: set[str], reason: str, flag: str) -> None:
    with pytest.raises(Invalid) as caught:
        ClientAccess(**{name: Path("x") for name in given})
    assert (caught.value.reason, caught.value.field) == (reason, flag)


# --- where it is served -----------------------------------------------------------------------------------------


def test_tls_without_asking_who_calls_stays_on_this_machine(mesh: Mesh) -> None:
    with pytest.raises(Invalid, match="--tokens") as caught:
        start_on("0.0.0.0:0", "threads", door=Door(mesh.access()))
    assert (caught.value.reason, caught.value.field) == ("LISTEN_ANONYMOUS", "listen")
    start_on("0.0.0.0:0", "threads", door=Door(mesh.access(), insecure=True))
    start_on("0.0.0.0:0", "threads", door=Door(mesh.access(mutual=True)))
    start_on("0.0.0.0:0", "aio", door=Door(mesh.access(tokens=True)))


def test_connections_that_never_finish_their_handshake_are_closed(mesh: Mesh) -> None:
    from nasmesh.rpc.options import Connections

    with serving("aio", [], Door(mesh.access(), connections=Connections(handshake_s=0.5))) as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as idle:
            assert idle.recv(1) == b""
        assert ask(server.address, mesh.client()) == "OK"


def test_hosts_that_are_served_are_those_in_the_certificate(mesh: Mesh) -> None:
    with serving("aio", [], Door(mesh.access())) as server:
        port = server.address.rpartition(":")[2]
        assert [ask(f"{host}:{port}", mesh.client()) for host in HERE[:2]] == ["OK", "OK"]


def test_many_handshakes_at_once_all_succeed(mesh: Mesh) -> None:
    answers: list[str] = []
    with serving("aio", [], Door(mesh.access(mutual=True))) as server:
        mine = mesh.client(mesh.authority.pair("agent", "fleet"))
        threads = [threading.Thread(target=lambda: answers.append(ask(server.address, mine))) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == ["OK"] * 40


def test_the_error_of_a_refused_handshake_is_one_that_may_pass(mesh: Mesh) -> None:
    with (
        serving("aio", [], Door(mesh.access(mutual=True))) as server,
        open_channel(server.address, access=mesh.client()) as channel,
    ):
        with pytest.raises(Unavailable, match="--cert-file"), errors_from_rpc(server.address):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        with pytest.raises(grpc.RpcError):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
