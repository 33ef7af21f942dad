"""T9: what arrives on the wire. Every method with messages filled from its descriptor, oversize messages, deadlines of
zero, floods of metadata, rubbish on the port, sockets that say nothing: always a status of ours, servers that live on.
"""

import gc
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nasmesh import limits
from nasmesh.clock import derive_seed
from nasmesh.errors import NasmeshError
from nasmesh.rpc.channel import open_channel
from nasmesh.rpc.options import Connections
from nasmesh.rpc.server import Door
from nasmesh.rpc.status import from_rpc_error
from nasmesh.v1 import dispatch_service_pb2 as dispatch
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from nasmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from tests.builders import scheduling as make
from tests.builders.every_service import Everything, Method, every_service, methods
from tests.builders.filled import Filler

SEED = 20_261_122
EACH, STREAMED, LONG = 1_000, 100, 20
CONNECTIONS, LONG_CONNECTIONS = 250, 5_000
SILENT = 200
# What a server of ours may say of a message; INTERNAL and UNKNOWN would be its own fault.
CODES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
}
# From the first search on, a server may keep caches, page buffers and the like; a leak per message is larger.
GROWTH_BYTES = 96 * limits.MIB
METHODS = methods()


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    door = Door(connections=Connections(handshake_s=1.0))
    with every_service(tmp_path_factory.mktemp("wire"), door) as served:
        yield served


@pytest.fixture(scope="module")
def texts(everything: Everything) -> Iterator[tuple[str, ...]]:
    """Give a search with an agent, so that messages reach what exists; yields its names."""
    with open_channel(everything.addresses["SchedulerService"]) as channel:
        said = iter([dispatch.WorkRequest(hello=make.make_hello("worker"))])
        requests = _kept_open(said)
        conversation = DispatchServiceStub(channel).Work(requests)
        assert next(conversation).HasField("welcome")
        stub = SchedulerServiceStub(channel)
        search = stub.CreateSearch(pb.CreateSearchRequest(search_id="real", spec=make.make_spec())).search
        yield search.name, f"{search.name}/trials/1", "agents/worker", "real"
        conversation.cancel()


def _kept_open(said: Iterator[dispatch.WorkRequest]) -> Iterator[dispatch.WorkRequest]:
    import threading

    yield from said
    threading.Event().wait(600)


def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """Return how a call ends."""
    try:
        call()
    except grpc.RpcError as error:
        found: NasmeshError = from_rpc_error(error)
        return error.code(), found.reason  # type: ignore[attr-defined]
    return grpc.StatusCode.OK, ""


def raw(channel: grpc.Channel, method: Method) -> Any:
    """Return a callable of a method that takes and gives bytes."""
    asks, answers = method.descriptor.client_streaming, method.descriptor.server_streaming
    kinds = {(False, False): "unary_unary", (False, True): "unary_stream", (True, False): "stream_unary"}
    return getattr(channel, kinds.get((asks, answers), "stream_stream"))(method.path)


def is_alive(everything: Everything) -> None:
    for address in sorted(set(everything.addresses.values())):
        with open_channel(address) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.timeout(3600)  # the long count takes a quarter of an hour
def test_messages_filled_from_descriptors_always_get_a_status(
    everything: Everything, texts: tuple[str, ...], request: pytest.FixtureRequest, record_property: Any
) -> None:
    times = LONG if request.config.getoption("long") else 1
    seen: dict[str, Counter[tuple[grpc.StatusCode, str]]] = {}
    before, sent = 0, 0
    for number, method in enumerate(METHODS):
        count = times * (STREAMED if method.descriptor.client_streaming or method.descriptor.server_streaming else EACH)
        seen[method.path] = _shoot(everything, method, count, texts)
        sent += count
        if number == 0:
            before = resident()
        wrong = {how: n for how, n in seen[method.path].items() if how[0] not in CODES}
        assert not wrong, f"{method.path}, seed {SEED}: {wrong}"
    is_alive(everything)
    grown = resident() - before
    reasons = {reason for counter in seen.values() for _, reason in counter}
    record_property("counts", f"T9: {sent} messages to {len(METHODS)} methods, {len(reasons)} reasons, seed {SEED}")
    assert sent >= times * EACH * 18
    assert grown < GROWTH_BYTES, f"grown by {grown / limits.MIB:.0f} MiB"
    # A test that never gets past the first check would prove little.
    assert len(reasons) >= 15, reasons
    assert sum(counter[grpc.StatusCode.OK, ""] for counter in seen.values()) > 1_000


def _shoot(
    everything: Everything, method: Method, count: int, texts: tuple[str, ...]
) -> Counter[tuple[grpc.StatusCode, str]]:
    """Send a method its messages, one after the other, and count how they end."""
    filler = Filler(derive_seed(SEED, method.path), texts)
    found: Counter[tuple[grpc.StatusCode, str]] = Counter()
    descriptor = method.descriptor.input_type
    with open_channel(everything.addresses[method.service]) as channel:
        call = raw(channel, method)
        for _ in range(count):
            if method.descriptor.client_streaming:
                asked: Any = iter([filler.encoded(descriptor) for _ in range(3)])
            else:
                asked = filler.encoded(descriptor)
            if method.descriptor.server_streaming:
                found[ended(lambda asked=asked: _first_answer(call, asked))] += 1
            else:
                found[ended(lambda asked=asked: call(asked, timeout=30))] += 1
    return found


def _first_answer(call: Any, asked: Any) -> None:
    """Read a stream's first answer; a watch goes on for ever, and is left."""
    stream = call(asked, timeout=30)
    next(iter(stream), None)
    stream.cancel()


def test_messages_over_the_limit_are_refused_before_they_are_parsed(everything: Everything) -> None:
    huge = b"\x0a" + b"\x80\x80\x80\x02" + b"x" * (4 * limits.MIB)
    for method in METHODS:
        if method.descriptor.client_streaming or method.descriptor.server_streaming:
            continue
        with grpc.insecure_channel(
            everything.addresses[method.service], [("grpc.max_send_message_length", -1)]
        ) as channel:
            how = ended(lambda: raw(channel, method)(huge, timeout=30))  # noqa: B023 - called at once
        assert (
            how == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")
            or how[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        )
    is_alive(everything)


def test_deadlines_of_zero_and_less_end_in_time(everything: Everything) -> None:
    for method in METHODS:
        with open_channel(everything.addresses[method.service]) as channel:
            for timeout in (0.0, -1.0, 1e-9):
                asked: Any = iter([b""]) if method.descriptor.client_streaming else b""
                how = ended(lambda: _any_answer(raw(channel, method), asked, timeout))  # noqa: B023 - called at once
                assert how[0] in CODES | {grpc.StatusCode.DEADLINE_EXCEEDED}, (method.path, how)
    is_alive(everything)


def _any_answer(call: Any, asked: Any, timeout: float) -> None:
    answer = call(asked, timeout=timeout)
    if not isinstance(answer, bytes):
        next(iter(answer), None)
        answer.cancel()


@pytest.mark.parametrize(
    "flood",
    [
        [("x-flood", "y" * 9_000)],
        [(f"x-{number}", "y" * 80) for number in range(200)],
        [("x-flood-bin", b"\xff" * 20_000)],
        [("authorization", "Bearer " + "z" * 100_000)],
        [("x", "")] * 5_000,
    ],
    ids=["one long", "many", "binary", "token", "empty"],
)
def test_floods_of_metadata_are_refused(everything: Everything, flood: list[tuple[str, str]]) -> None:
    for address in sorted(set(everything.addresses.values())):
        with open_channel(address) as channel:
            call = channel.unary_unary("/grpc.health.v1.Health/Check")
            code, _ = ended(lambda: call(b"", timeout=10, metadata=flood))  # noqa: B023 - called at once
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert ended(lambda: call(b"", timeout=10))[0] is grpc.StatusCode.OK  # noqa: B023 - called at once
            metadata = [("x-normal", "y" * 4_000)]
            assert ended(lambda: call(b"", timeout=10, metadata=metadata))[0] is grpc.StatusCode.OK  # noqa: B023


def rubbish(number: int) -> bytes:
    """Return what another program might send to the port."""
    filler = Filler(derive_seed(SEED, "rubbish", number))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    noise = filler.encoded(pb.CreateSearchRequest.DESCRIPTOR)
    kinds = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,
        preface + noise,
        preface + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + noise,
        preface + b"\xff\xff\xff\x01\x04\x00\x00\x00\x01" + noise,
        b"\x00" * 1000,
        noise,
        b"SSH-2.0-x\r\n",
    )
    return kinds[number % len(kinds)]


@pytest.mark.timeout(1800)
def test_rubbish_on_the_port_does_no_harm(
    everything: Everything, request: pytest.FixtureRequest, record_property: Any
) -> None:
    count = LONG_CONNECTIONS if request.config.getoption("long") else CONNECTIONS
    addresses = sorted(set(everything.addresses.values()))
    before = psutil.Process().num_fds()
    for number in range(count):
        host, _, port = addresses[number % len(addresses)].rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as caller:
            caller.sendall(rubbish(number))
            if number % 2:
                caller.shutdown(socket.SHUT_WR)
                while caller.recv(4096):
                    pass
    is_alive(everything)
    record_property("counts", f"T9: {count} connections with rubbish")
    assert psutil.Process().num_fds() <= before + 50


def test_sockets_that_say_nothing_are_closed_while_others_are_served(everything: Everything) -> None:
    address = everything.addresses["SchedulerService"]
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((host, int(port)), timeout=20)) for _ in range(SILENT)]
        is_alive(everything)
        for caller in silent:
            with suppress(ConnectionError):
                while caller.recv(4096):  # the server's preface, then its end
                    pass
    is_alive(everything)


def test_connections_beyond_the_limit_are_turned_away(tmp_path: Path) -> None:
    with every_service(tmp_path, Door(connections=Connections(most=20, handshake_s=1.0))) as served:
        address = served.addresses["TrainService"]
        host, _, port = address.rpartition(":")
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection((host, int(port)), timeout=20)) for _ in range(60)]
            turned_away = 0
            for caller in silent:
                caller.settimeout(0.2)
                try:
                    turned_away += caller.recv(4096) == b""
                except TimeoutError:
                    pass
                except ConnectionError:
                    turned_away += 1
            assert turned_away >= 40
        with open_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True).status
