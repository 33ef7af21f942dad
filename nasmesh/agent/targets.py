"""The server beside the agent, in this process or by address: one way to call both."""

from collections.abc import Iterator
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from nasmesh.errors import Invalid
from nasmesh.rpc.access import NO_CLIENT_ACCESS, ClientAccess
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.rpc.deadlines import deadline_s
from nasmesh.rpc.lines import Line
from nasmesh.telemetry import tracing

Answer = TypeVar("Answer", bound=Message)

GENERATE = "nasmesh.v1.GenerateService"
TRAIN = "nasmesh.v1.TrainService"
EVALUATE = "nasmesh.v1.EvaluateService"
DRIVEN = (GENERATE, TRAIN, EVALUATE)


class Target(Protocol):
    """A server that serves one of the three contracts. Calls raise nasmesh.errors."""

    def unary(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        """Call a method that returns one message."""
        ...

    def stream(self, method: str, request: Message, answer: type[Answer]) -> Iterator[Answer]:
        """Call a method that returns many."""
        ...


class LocalTarget:
    """A servicer in this process, called without a network in between."""

    def __init__(self, servicer: object) -> None:
        """Hold the servicer."""
        self._servicer = servicer

    def unary(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        """Call a method of the servicer; servicers use no gRPC context, so none is passed."""
        result = getattr(self._servicer, method)(request, None)
        return _checked(result, answer, method)

    def stream(self, method: str, request: Message, answer: type[Answer]) -> Iterator[Answer]:
        """Call a streaming method of the servicer."""
        for item in getattr(self._servicer, method)(request, None):
            yield _checked(item, answer, method)


class RemoteTarget:
    """A server at an address."""

    def __init__(
        self, address: str, service: str, *, insecure: bool = False, access: ClientAccess = NO_CLIENT_ACCESS
    ) -> None:
        """Open a channel; it connects when first used."""
        self._address = address
        self._service = service
        self._line = Line(address, insecure=insecure, access=access)

    def unary(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        """Call with the method's deadline."""
        path = f"/{self._service}/{method}"
        call = self._line.channel().unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        with errors_from_rpc(self._address):
            with tracing.span_within(path.lstrip("/"), kind="client"):
                response = call(request, timeout=deadline_s(path))
            return _checked(response, answer, method)

    def stream(self, method: str, request: Message, answer: type[Answer]) -> Iterator[Answer]:
        """Call a streaming method; leaving the iteration hangs up."""
        call = self._line.channel().unary_stream(
            f"/{self._service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )(request)
        try:
            with errors_from_rpc(self._address):
                yield from call
        finally:
            call.cancel()


def served_contract(address: str, *, insecure: bool = False, access: ClientAccess = NO_CLIENT_ACCESS) -> str:
    """Return which of the three contracts the server at an address serves, by reflection.

    Raises Unavailable where nobody answers, Invalid (TARGET_UNKNOWN) where it serves none of them or several.
    """
    with open_channel(address, insecure=insecure, access=access) as channel, errors_from_rpc(address):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = list(stub.ServerReflectionInfo(asked, timeout=5.0))
    names = {service.name for answer in answers for service in answer.list_services_response.service}
    found = [name for name in DRIVEN if name in names]
    if len(found) != 1:
        raise Invalid(
            "TARGET_UNKNOWN",
            f"target: the server at {address} serves {', '.join(sorted(names)) or 'nothing that reflection shows'}; "
            f"an agent drives exactly one of {', '.join(DRIVEN)}",
            field="target",
        )
    return found[0]


def _checked(message: object, answer: type[Answer], method: str) -> Answer:
    if not isinstance(message, answer):
        raise TypeError(f"{method} returned {type(message).__name__} instead of {answer.__name__}")
    return message
