# ruff: noqa: N802, ARG002  (method names and arguments are the generated ones)
"""Real servers on loopback: errors, limits, health, reflection, ports."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from nasmesh import errors, limits
from nasmesh.errors import Busy, Compacted, Invalid, NasmeshError, NotFound, Rejected, Unavailable
from nasmesh.rpc.call import caller_waits
from nasmesh.rpc.channel import errors_from_rpc, open_aio_channel, open_channel, results
from nasmesh.rpc.server import RunningServer, Service, serve_aio, serve_threads
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1 import train_service_pb2_grpc
from tests.builders.listening import start_on

NAME = "nasmesh.v1.TrainService"
FAILURES: dict[str, Callable[[], Exception]] = {
    "missing": lambda: NotFound("TRAINING_UNKNOWN", "no such training", metadata={"id": "x"}),
    "rejected": lambda: Rejected("OP_NOT_ALLOWED", "no", field="b3.op"),
    "busy": lambda: Busy("NO_SLOT", "full", retry_after_s=2.5),
    "compacted": lambda: Compacted("HISTORY_GONE", "list again"),
    "unicode": lambda: Invalid("R", "ünïcödé ☃ " * 200, field="ö" * 300),
    "bug": lambda: ValueError("the password is hunter2"),
    "bug without text": lambda: KeyError(),
}


class Trainer(train_service_pb2_grpc.TrainServiceServicer):
    """Fails as the id says."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.waiting = threading.Event()
        self.hung_up = threading.Event()
        self.deadline_s = 0.0

    def GetTraining(self, request: pb.GetTrainingRequest, context: grpc.ServicerContext) -> pb.GetTrainingResponse:
        if request.training_id == "wait":
            self.release.wait(timeout=30)
        if request.training_id in FAILURES:
            raise FAILURES[request.training_id]()
        self.deadline_s = context.time_remaining() or 0.0
        return pb.GetTrainingResponse(training=pb.Training(training_id=request.training_id))

    def WatchTraining(self, request: pb.WatchTrainingRequest, context: object) -> Iterator[pb.WatchTrainingResponse]:
        for sequence in range(1, 3 if request.after_sequence == 0 else 1):
            yield pb.WatchTrainingResponse(training=pb.Training(sequence=sequence))
        if request.training_id == "wait":
            self.waiting.set()
            while caller_waits():
                self.release.wait(timeout=0.01)
            self.hung_up.set()
            return
        raise FAILURES[request.training_id]()


class AioTrainer(train_service_pb2_grpc.TrainServiceServicer):
    """The same on an event loop."""

    async def GetTraining(self, request: pb.GetTrainingRequest, context: object) -> pb.GetTrainingResponse:
        if request.training_id in FAILURES:
            raise FAILURES[request.training_id]()
        return pb.GetTrainingResponse(training=pb.Training(training_id=request.training_id))

    async def WatchTraining(self, request: pb.WatchTrainingRequest, context: object) -> AsyncIterator[object]:
        for sequence in range(1, 3 if request.after_sequence == 0 else 1):
            yield pb.WatchTrainingResponse(training=pb.Training(sequence=sequence))
        raise FAILURES[request.training_id]()


class AioThread:
    """An asyncio server on a thread of its own, so that both kinds are tested by the same blocking calls."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        services = [Service(NAME, train_service_pb2_grpc.add_TrainServiceServicer_to_server, AioTrainer())]
        self.server = self.wait(serve_aio(services, "127.0.0.1:0"))
        self.address = self.server.address

    def wait(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    def set_serving(self, serving: bool) -> None:
        self.wait(self.server.set_serving(serving))

    def stop(self, grace_s: float) -> None:
        self.wait(self.server.stop(grace_s))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=30)
        self.loop.close()


def serve(servicer: Trainer | None = None, *, workers: int = 8) -> RunningServer:
    service = Service(NAME, train_service_pb2_grpc.add_TrainServiceServicer_to_server, servicer or Trainer())
    return serve_threads([service], "127.0.0.1:0", workers=workers)


@pytest.fixture(params=["threads", "aio"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer | AioThread]:
    running = serve() if request.param == "threads" else AioThread()
    yield running
    running.stop(0)


@pytest.fixture
def stub(server: RunningServer | AioThread) -> Iterator[train_service_pb2_grpc.TrainServiceStub]:
    with open_channel(server.address) as channel:
        yield train_service_pb2_grpc.TrainServiceStub(channel)


def expected(name: str) -> type[Exception]:
    error = FAILURES[name]()
    return type(error) if isinstance(error, NasmeshError) else NasmeshError


def test_an_answer_is_an_answer(stub: train_service_pb2_grpc.TrainServiceStub) -> None:
    with errors_from_rpc():
        assert stub.GetTraining(pb.GetTrainingRequest(training_id="t")).training.training_id == "t"


@pytest.mark.parametrize("name", FAILURES)
def test_what_a_servicer_raises_reaches_the_caller_as_the_same_error(
    stub: train_service_pb2_grpc.TrainServiceStub, name: str
) -> None:
    with pytest.raises(NasmeshError) as caught, errors_from_rpc():
        stub.GetTraining(pb.GetTrainingRequest(training_id=name))
    assert type(caught.value) is expected(name)
    if not name.startswith("bug"):
        assert caught.value.reason == FAILURES[name]().reason  # type: ignore[attr-defined]


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("name", FAILURES)
def test_what_a_stream_raises_arrives_after_what_it_sent(
    stub: train_service_pb2_grpc.TrainServiceStub, name: str, after: int
) -> None:
    stream = results(stub.WatchTraining(pb.WatchTrainingRequest(training_id=name, after_sequence=after)))
    assert [next(stream).training.sequence for _ in range(2 if after == 0 else 0)] == ([1, 2] if after == 0 else [])
    with pytest.raises(NasmeshError) as caught:
        next(stream)
    assert type(caught.value) is expected(name)


@pytest.mark.parametrize("name", ["bug", "bug without text"])
def test_text_of_an_uncaught_exception_never_reaches_the_peer(
    stub: train_service_pb2_grpc.TrainServiceStub, name: str
) -> None:
    for call in (
        lambda: stub.GetTraining(pb.GetTrainingRequest(training_id=name)),
        lambda: list(stub.WatchTraining(pb.WatchTrainingRequest(training_id=name))),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        wire = str(caught.value) + repr(caught.value.trailing_metadata()) + str(caught.value.details())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "hunter2" not in wire
        assert "Error" not in caught.value.details()


def test_a_method_that_is_not_served_says_so(stub: train_service_pb2_grpc.TrainServiceStub) -> None:
    with pytest.raises(Invalid) as caught, errors_from_rpc("somewhere:1"):
        stub.ListTrainings(pb.ListTrainingsRequest())
    assert caught.value.reason == "METHOD_UNKNOWN"
    assert "somewhere:1" in caught.value.message


def test_message_over_the_limit_is_refused(stub: train_service_pb2_grpc.TrainServiceStub) -> None:
    with pytest.raises(Invalid) as caught, errors_from_rpc():
        stub.GetTraining(pb.GetTrainingRequest(training_id="x" * limits.MESSAGE_BYTES))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


def test_message_over_the_limit_from_a_careless_client_is_refused_by_the_server(
    server: RunningServer | AioThread,
) -> None:
    unlimited = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=unlimited) as channel:
        stub = train_service_pb2_grpc.TrainServiceStub(channel)
        with pytest.raises(Invalid) as caught, errors_from_rpc():
            stub.GetTraining(pb.GetTrainingRequest(training_id="x" * limits.MESSAGE_BYTES))
        assert caught.value.reason == "MESSAGE_TOO_LARGE"


def test_garbage_bytes_do_not_reach_the_servicer(server: RunningServer | AioThread) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"/{NAME}/GetTraining")
        with pytest.raises(NasmeshError) as caught, errors_from_rpc():
            call(b"\xff\xff\xff\xff", timeout=10)
    assert caught.value.reason == "MESSAGE_MALFORMED"


def test_reflection_lists_the_services(server: RunningServer | AioThread) -> None:
    with open_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        described = database.FindFileContainingSymbol(NAME)
    assert services == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert described.name == "nasmesh/v1/train_service.proto"


def test_health_follows_set_serving(server: RunningServer | AioThread) -> None:
    with open_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def status(name: str) -> int:
            return stub.Check(health_pb2.HealthCheckRequest(service=name)).status

        assert status("") == status(NAME) == health_pb2.HealthCheckResponse.SERVING
        server.set_serving(False)
        assert status("") == status(NAME) == health_pb2.HealthCheckResponse.NOT_SERVING
        server.set_serving(True)
        assert status(NAME) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(NotFound), errors_from_rpc():
            status("nasmesh.v1.Unheard")


# --- ports --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["threads", "aio"])
@pytest.mark.parametrize("taken_by", ["our server", "plain socket"])
def test_port_in_use_is_named(kind: str, taken_by: str) -> None:
    running = serve() if taken_by == "our server" else None
    taken = socket.create_server(("127.0.0.1", 0))
    port = int(running.address.rpartition(":")[2]) if running else taken.getsockname()[1]
    try:
        with pytest.raises(Unavailable, match=str(port)) as caught:
            start_on(f"127.0.0.1:{port}", kind)
        assert (caught.value.reason, caught.value.metadata) == ("PORT_IN_USE", {"port": str(port)})
    finally:
        taken.close()
        if running:
            running.stop(0)


def test_localhost_is_served_and_dialled_as_one_address() -> None:
    running = serve_threads([], "localhost:0", workers=1)
    try:
        assert running.address.startswith("127.0.0.1:")
    finally:
        running.stop(0)


# --- calls --------------------------------------------------------------------------------------------------


def test_nobody_there_is_a_sentence_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with open_channel(address) as channel:
        for text in (address, ""):
            with pytest.raises(Unavailable, match=address) as caught, errors_from_rpc(text):
                train_service_pb2_grpc.TrainServiceStub(channel).GetServer(pb.TrainServiceGetServerRequest())
            assert caught.value.reason == "UNREACHABLE"


def test_a_call_gets_its_deadline_from_the_table() -> None:
    trainer = Trainer()
    running = serve(trainer)
    try:
        with open_channel(running.address) as channel:
            stub = train_service_pb2_grpc.TrainServiceStub(channel)
            stub.GetTraining(pb.GetTrainingRequest(training_id="t"))
            assert 8 < trainer.deadline_s <= 10.5
            stub.GetTraining(pb.GetTrainingRequest(training_id="t"), timeout=100)
            assert trainer.deadline_s > 90
    finally:
        running.stop(0)


def test_a_slow_server_is_a_readable_error() -> None:
    trainer = Trainer()
    running = serve(trainer)
    try:
        with open_channel(running.address) as channel:
            stub = train_service_pb2_grpc.TrainServiceStub(channel)
            with pytest.raises(Unavailable) as caught, errors_from_rpc(running.address):
                stub.GetTraining(pb.GetTrainingRequest(training_id="wait"), timeout=0.1)
        assert caught.value.reason == "DEADLINE_EXCEEDED"
        assert running.address in caught.value.message
    finally:
        trainer.release.set()
        running.stop(0)


def test_calls_beyond_the_workers_are_refused_at_once() -> None:
    trainer = Trainer()
    running = serve(trainer, workers=1)
    try:
        with open_channel(running.address) as channel:
            stub = train_service_pb2_grpc.TrainServiceStub(channel)
            watch = stub.WatchTraining(pb.WatchTrainingRequest(training_id="wait"))
            assert next(watch).training.sequence == 1
            with pytest.raises(Busy) as caught, errors_from_rpc():
                stub.GetTraining(pb.GetTrainingRequest(training_id="t"))
            assert caught.value.reason == "TOO_MANY_CALLS"
            watch.cancel()
    finally:
        running.stop(0)


def test_a_stream_learns_that_its_caller_hung_up() -> None:
    trainer = Trainer()
    running = serve(trainer)
    try:
        with open_channel(running.address) as channel:
            watch = train_service_pb2_grpc.TrainServiceStub(channel).WatchTraining(
                pb.WatchTrainingRequest(training_id="wait")
            )
            assert [next(watch).training.sequence for _ in range(2)] == [1, 2]
            # Cancelled between two messages, gRPC drops the stream without asking it for the next.
            assert trainer.waiting.wait(timeout=10)
            assert not trainer.hung_up.is_set()
            watch.cancel()
            assert trainer.hung_up.wait(timeout=10)
    finally:
        running.stop(0)
    assert caller_waits(), "outside a call there is nobody to hang up"


def test_stop_lets_a_call_in_hand_end_and_frees_the_port() -> None:
    trainer = Trainer()
    running = serve(trainer)
    answers: list[str] = []
    with open_channel(running.address) as channel:
        stub = train_service_pb2_grpc.TrainServiceStub(channel)
        future = stub.GetTraining.future(pb.GetTrainingRequest(training_id="wait"))
        health_stub = health_pb2_grpc.HealthStub(channel)
        assert health_stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=running.stop, args=(20,))
        stopping.start()
        trainer.release.set()
        answers.append(future.result(timeout=20).training.training_id)
        stopping.join(timeout=20)
    assert answers == ["wait"]
    running.wait()
    start_on(running.address, "threads")


def test_aio_channel_raises_our_errors_too(server: RunningServer | AioThread) -> None:
    async def run() -> list[str]:
        reasons = []
        async with open_aio_channel(server.address) as channel:
            stub = train_service_pb2_grpc.TrainServiceStub(channel)
            for name in ("missing", "bug"):
                with pytest.raises(NasmeshError) as caught, errors_from_rpc(server.address):
                    await stub.GetTraining(pb.GetTrainingRequest(training_id=name))
                reasons.append(caught.value.reason)
            watch = stub.WatchTraining(pb.WatchTrainingRequest(training_id="compacted"))
            assert [(await watch.read()).training.sequence for _ in range(2)] == [1, 2]
            with pytest.raises(NasmeshError) as caught, errors_from_rpc(server.address):
                await watch.read()
            return [*reasons, caught.value.reason]

    assert asyncio.run(run()) == ["TRAINING_UNKNOWN", "INTERNAL", "HISTORY_GONE"]


def test_errors_from_rpc_decorates_functions_and_leaves_other_errors_alone() -> None:
    @errors_from_rpc()
    def fail(error: Exception) -> None:
        raise error

    for error in (ValueError("mine"), errors.Stale("R", "m")):
        with pytest.raises(type(error)) as caught:
            fail(error)
        assert caught.value is error
